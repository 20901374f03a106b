from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from ravan_edge.artifact.manifest import Role
from ravan_edge.errors import UsageError
from ravan_edge.training import Adam, LocalSettings, Sgd, option_infos
from ravan_edge.training.optimisers import OptimiserName
from tests.training.linear_model import ravan_method


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("local_steps", 0),
        ("batch_size", 0),
        ("batch_size", 10**9),
        ("micro_batch", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("task_head_lr", -1e-9),
        ("momentum", 1.0),
        ("beta2", 1.0),
        ("clip_norm", 0.0),
        ("epsilon", 0.0),
    ],
)
def test_a_number_out_of_range_names_its_option(name: str, value: float) -> None:
    with pytest.raises(UsageError, match="expected") as caught:
        replace(LocalSettings(), **{name: value})
    assert caught.value.where == "--" + name.replace("_", "-")
    assert caught.value.exit_code == 2


def test_every_field_has_a_help_text() -> None:
    infos = {item.name: info for item, info in option_infos(LocalSettings)}
    assert set(infos) == set(LocalSettings().as_dict())
    assert all(info.help.endswith(".") for info in infos.values())


def test_the_settings_are_json() -> None:
    document = json.loads(json.dumps(LocalSettings().as_dict()))
    assert document["optimizer"] == "adam"
    assert document["score"] == "random"
    assert document["lr"] == 5e-4


def test_the_task_head_may_have_its_own_rate() -> None:
    layout = ravan_method().layout
    assert LocalSettings(lr=0.1).rates(layout) == 0.1
    assert LocalSettings(lr=0.1, task_head_lr=0.1).rates(layout) == 0.1
    rates = LocalSettings(lr=0.1, task_head_lr=0.0).rates(layout)
    assert isinstance(rates, np.ndarray)
    mask = layout.mask(Role.TASK_HEAD)
    assert (rates[mask] == 0).all()
    assert (rates[~mask] == np.float32(0.1)).all()


def test_the_optimiser_is_the_named_one() -> None:
    assert LocalSettings(beta1=0.8).make_optimiser() == Adam(0.8, 0.999, 1e-8)
    assert LocalSettings(optimizer=OptimiserName.SGD, momentum=0.5).make_optimiser() == Sgd(0.5)
