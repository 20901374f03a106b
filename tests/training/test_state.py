from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravan_edge.artifact.tensor_file import HEADS_BOUNDS, read_header, read_tensors, write_tensors
from ravan_edge.data import TextRows
from ravan_edge.errors import ArtifactError
from ravan_edge.methods import HeadScore
from ravan_edge.training import (
    LocalResult,
    LocalSettings,
    RoundState,
    initial_state,
    load_state,
    local_round,
    save_state,
)
from ravan_edge.training.optimisers import OptimiserName
from tests.training.linear_model import LAYER, LinearStep, dataset, random_heads, ravan_method

METHOD = ravan_method()
DATA = dataset()
LAYERS = {LAYER: 4}
SAVED_UNDER = "c" * 64


def train(
    local: LocalSettings, count: int | None, resume: RoundState | None, kept: list[RoundState]
) -> LocalResult:
    return local_round(
        LinearStep(), METHOD, random_heads(METHOD, 7), TextRows(DATA, 0), np.arange(60), local,
        layers=LAYERS, seed=1, round=0, device=0,
        heads_to_train=count, on_step=kept.append, resume=resume,
    )  # fmt: skip


@settings(max_examples=25)
@given(
    optimizer=st.sampled_from(OptimiserName),
    score=st.sampled_from(HeadScore),
    count=st.sampled_from([None, 1, 3]),
    stop=st.integers(1, 14),
    micro_batch=st.sampled_from([None, 3]),
    clip=st.sampled_from([None, 0.5]),
)
def test_a_round_that_was_saved_and_loaded_ends_bitwise_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    optimizer: OptimiserName,
    score: HeadScore,
    count: int | None,
    stop: int,
    micro_batch: int | None,
    clip: float | None,
) -> None:
    local = LocalSettings(
        local_steps=15, batch_size=8, lr=1e-2, optimizer=optimizer, score=score,
        micro_batch=micro_batch, clip_norm=clip,
    )  # fmt: skip
    states: list[RoundState] = []
    whole = train(local, count, None, states)
    path = tmp_path_factory.mktemp("state") / "round.unfinished"
    save_state(path, states[stop - 1], SAVED_UNDER)
    empty = initial_state(METHOD, random_heads(METHOD, 7), local)
    loaded = load_state(path, empty, LAYERS, SAVED_UNDER)
    assert loaded is not None
    assert loaded.steps == stop
    resumed = train(local, count, loaded, [])
    for name in ("difference", "parameters", "losses"):
        assert getattr(resumed, name).tobytes() == getattr(whole, name).tobytes(), name
    for name in ("steps", "examples", "tokens", "counted", "correct"):
        assert getattr(resumed, name) == getattr(whole, name)
    assert {k: v.tolist() for k, v in resumed.training.trained.items()} == {
        k: v.tolist() for k, v in whole.training.trained.items()
    }


def saved(folder: Path) -> tuple[Path, RoundState]:
    local = LocalSettings(local_steps=4, batch_size=8)
    states: list[RoundState] = []
    train(local, 2, None, states)
    path = folder / "round.unfinished"
    save_state(path, states[1], SAVED_UNDER)
    return path, initial_state(METHOD, random_heads(METHOD, 7), local)


def test_another_configuration_is_not_loaded(tmp_path: Path) -> None:
    path, empty = saved(tmp_path)
    assert load_state(path, empty, LAYERS, "d" * 64) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("steps", "-1"), ("steps", "3"), ("tokens", "x"), ("format", "ravan-heads"), ("schema", "2")],
)
def test_metadata_that_make_no_sense_are_refused(tmp_path: Path, key: str, value: str) -> None:
    path, empty = saved(tmp_path)
    metadata = dict(read_header(path, HEADS_BOUNDS).metadata)
    write_tensors(path, read_tensors(path, HEADS_BOUNDS), {**metadata, key: value})
    with pytest.raises(ArtifactError):
        load_state(path, empty, LAYERS, SAVED_UNDER)


@pytest.mark.parametrize("heads", [[1, 0], [0, 4], [-1, 2], [1, 1], [5, -(2**31)], [], [0] * 5])
def test_heads_that_are_none_are_refused(tmp_path: Path, heads: list[int]) -> None:
    path, empty = saved(tmp_path)
    metadata = read_header(path, HEADS_BOUNDS).metadata
    tensors = read_tensors(path, HEADS_BOUNDS) | {f"{LAYER}.heads": np.array(heads, np.int32)}
    write_tensors(path, tensors, metadata)
    with pytest.raises(ArtifactError, match="heads"):
        load_state(path, empty, LAYERS, SAVED_UNDER)


@settings(max_examples=60)
@given(data=st.data())
def test_damage_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path, empty = saved(tmp_path_factory.mktemp("state"))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with contextlib.suppress(ArtifactError):
        load_state(path, empty, LAYERS, SAVED_UNDER)
