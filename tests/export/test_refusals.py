"""Models that cannot be exported exactly or safely: what is said, and that nothing stays behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ravan_edge.errors import ArtifactError, DataError, ModelError, RavanError, UsageError
from ravan_export import export as export_module
from ravan_export.export import export_artifact
from ravan_export.source import resolve

Damage = Callable[[Path], None]


def change_config(**values: Any) -> Damage:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])


def garbled(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not a tensor file at all")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no config": (no_config, "no config.json"),
    "broken config": (broken_config, "cannot be read"),
    "remote code": (change_config(auto_map={"AutoModel": "x.Y"}), "code of its own"),
    "unknown type": (change_config(model_type="t7"), "'t7' is not known"),
    "no type": (change_config(model_type=None), "not known"),
    "pickle": (pickle_only, "pickled"),
    "no weights": (no_weights, "no model.safetensors"),
    "truncated": (truncated, "cannot be loaded"),
    "garbled": (garbled, "cannot be loaded"),
    "more layers than weights": (change_config(num_hidden_layers=3), "no parameter"),
    "regression": (change_config(problem_type="regression"), "regression"),
    "no tokenizer": (no_tokenizer, "tokenizer"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_or_unsafe_folder_is_refused(damage: str, copied: Any, tmp_path: Path) -> None:
    folder = copied("bert")
    change, words = DAMAGES[damage]
    change(folder)
    with pytest.raises(ModelError, match=words) as caught:
        export_artifact(folder, labels=3, out=tmp_path / "out", lora_budget=2)
    assert caught.value.hint
    assert caught.value.exit_code == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nowhere"), "./nowhere", "a/b/c"):
        with pytest.raises(ModelError, match="no such"):
            resolve(name)


def test_a_hub_id_that_cannot_be_fetched_is_refused() -> None:
    with pytest.raises(ModelError, match="not on the hub") as caught:
        resolve("nobody/this-model-is-not-there")
    assert "connection" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"targets": "no_such_layer"}, ModelError, "no linear layer is called 'no_such_layer'"),
        ({"targets": "LayerNorm"}, ModelError, "has key, query, value|this model has"),
        ({"rank": 17}, ModelError, "rank 17 does not fit"),
        ({"labels": 4}, ModelError, "3 labels, --labels names 4"),
        ({"labels": 1}, UsageError, "--labels"),
        ({"labels": "nowhere.txt"}, DataError, "nowhere.txt"),
        ({"labels": None}, UsageError, "needs a label map"),
        ({"task": "chess"}, UsageError, "'chess' is no task"),
        ({"plans": ("block",)}, UsageError, "block"),
        ({"method": "sgd"}, UsageError, "sgd"),
        ({"init": "zeros"}, UsageError, "zeros"),
        ({"heads": 0}, UsageError, "--heads"),
        ({"seed": -1}, UsageError, "--seed"),
        ({"targets": "a b"}, UsageError, "--targets"),
    ],
)
def test_options_that_make_no_sense(
    options: dict[str, Any], kind: type[RavanError], words: str, tiny_model: Any, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"labels": 3, "lora_budget": 2} | options
    with pytest.raises(kind, match=words):
        export_artifact(tiny_model("bert"), out=tmp_path / "out", **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_common_target_name_means_the_familys_own(exported: Any) -> None:
    artifact = exported("distilbert", method="ravan", targets="query,key")
    names = {layer.name.rpartition(".")[2] for layer in artifact.manifest.layers}
    assert names == {"q_lin", "k_lin"}


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ([{"type": "sentence_transformers.models.Transformer", "path": ""},
          {"type": "x.WeightedLayerPooling", "path": "1"}], "WeightedLayerPooling"),
        ([{"type": "sentence_transformers.models.Transformer", "path": ""}], "no Pooling"),
        ([{"type": "x.Pooling", "path": "../../etc"}], "leaves the folder"),
        ({"a": 1}, "list of modules"),
    ],
)  # fmt: skip
def test_sentence_modules_that_are_not_known(
    modules: object, words: str, copied: Any, tmp_path: Path
) -> None:
    folder = copied("sentence")
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match=words):
        export_artifact(folder, labels=3, out=tmp_path / "out")


def test_a_pooling_that_is_not_known(copied: Any, tmp_path: Path) -> None:
    folder = copied("sentence")
    config = {"pooling_mode_lasttoken": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="lasttoken"):
        export_artifact(folder, labels=3, out=tmp_path / "out")


def test_what_is_there_is_not_replaced(tiny_model: Any, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="was not made by ravan"):
        export_artifact(tiny_model("sentence"), labels=3, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_nothing_stays_behind_when_it_is_interrupted(
    error: type[BaseException], tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise error

    monkeypatch.setattr(export_module, "check", interrupted)
    with pytest.raises(error):
        export_artifact(tiny_model("sentence"), labels=3, out=tmp_path / "out", lora_budget=2)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_differs_from_torch_is_not_published(
    tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = export_module._stored

    def wrong(cases: Any) -> Any:
        tensors = stored(cases)
        name = next(name for name in tensors if name.startswith("a.grad.") and name.endswith(".H"))
        return tensors | {name: tensors[name] * 1.001}

    monkeypatch.setattr(export_module, "_stored", wrong)
    with pytest.raises(ModelError, match="differs from torch") as caught:
        export_artifact(tiny_model("sentence"), labels=3, out=tmp_path / "out", lora_budget=2)
    assert str(caught.value.where).endswith(".H")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_artifact_is_refused_by_the_fresh_process(
    tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = export_module.check

    def damaged(folder: Path, *rest: Any) -> Any:
        base = folder / "base.safetensors"
        base.write_bytes(base.read_bytes()[:-4])
        return check(folder, *rest)

    monkeypatch.setattr(export_module, "check", damaged)
    with pytest.raises(ArtifactError, match="refuses it"):
        export_artifact(tiny_model("sentence"), labels=3, out=tmp_path / "out", lora_budget=2)
    assert list(tmp_path.iterdir()) == []
