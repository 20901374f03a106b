"""Pickled weights and code that comes with a model: refused, let in by name, and what is then recorded."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import dynamic_module_utils

from ravan_edge.artifact import open_artifact
from tests.cli.calls import ravan
from tests.export.merge_kit import trained

Capture = pytest.CaptureFixture[str]
Models = Callable[[str], Path]
OPTIONS = ("--labels", 3, "--lora-budget", 2)

CODE = '''
from pathlib import Path

from transformers import BertForSequenceClassification

Path(__file__).with_name("ran").touch()
Path({marker!r}).touch()


class OwnBert(BertForSequenceClassification):
    """The same, by another name."""
'''


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def copied(tiny_model: Models, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model("bert"), tmp_path / "model"))


def pickled(folder: Path, shards: int = 1) -> Path:
    """The folder with its weights in ``pytorch_model.bin`` instead, or in several files of it."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    where = {}
    for number in range(shards):
        name = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        part = {key: state[key] for key in sorted(state)[number::shards]}
        torch.save(part, folder / name)
        where |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("shards", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_pickled_checkpoint_is_loaded_when_it_is_typed_and_said_so(
    shards: int, copied: Path, tiny_model: Models, tmp_path: Path, capsys: Capture
) -> None:
    folder = pickled(copied, shards)
    refused = ravan(capsys, "export", folder, *OPTIONS, "--out", tmp_path / "a")
    assert refused.code == 3
    assert "pickled" in refused.err
    assert "--allow-pickle" in refused.err
    assert not (tmp_path / "a").exists()

    call = ravan(capsys, "export", folder, *OPTIONS, "--allow-pickle", "--out", tmp_path / "a")
    assert call.code == 0, call.err
    assert "note: the weights come from pickled files" in call.err
    artifact = open_artifact(tmp_path / "a")
    more = " and 1 more" if shards == 2 else ""
    assert any(f".bin{more})" in notice for notice in artifact.manifest.notices)
    ravan(capsys, "export", tiny_model("bert"), *OPTIONS, "--out", tmp_path / "b")
    bases = [(tmp_path / name / "base.safetensors").read_bytes() for name in "ab"]
    assert bases[0] == bases[1]


def test_the_way_back_from_a_pickled_checkpoint_needs_the_same_word(
    copied: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = pickled(copied)
    ravan(capsys, "export", folder, *OPTIONS, "--allow-pickle", "--out", tmp_path / "a")
    heads = trained(open_artifact(tmp_path / "a"), tmp_path / "heads.safetensors")
    words = ("merge", tmp_path / "a", "--heads", heads, "--model", folder, "--to")
    refused = ravan(capsys, *words, "hf", "--out", tmp_path / "m")
    assert refused.code == 3
    assert "--allow-pickle" in refused.err
    for target in ("hf", "peft", "artifact"):
        out = tmp_path / target
        call = ravan(capsys, *words, target, "--allow-pickle", "--out", out)
        assert call.code == 0, call.err
        assert "note: the weights come from pickled files" in call.err
        assert not list(out.rglob("*.bin"))
    # Without it the artifact would say whose pickles are opened, and it may come from anybody.
    unnamed = ravan(
        capsys, "merge", tmp_path / "a", "--heads", heads, "--to", "hf", "--allow-pickle",
        "--out", tmp_path / "u",
    )  # fmt: skip
    assert unnamed.code == 2
    assert "--allow-pickle: needs --model" in unnamed.err
    onnx = ravan(
        capsys, "merge", tmp_path / "a", "--to", "onnx", "--allow-pickle", "--out", tmp_path / "o"
    )
    assert onnx.code == 2
    assert "--allow-pickle: --to onnx does not take it" in onnx.err


@pytest.mark.parametrize("form", ["plain", "zip", "one among tensors"])
def test_a_hostile_pickle_runs_nothing_whatever_is_typed(
    form: str, copied: Path, tmp_path: Path, capsys: Capture
) -> None:
    marker = tmp_path / "it ran"
    state = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    path = copied / "pytorch_model.bin"
    if form == "plain":
        path.write_bytes(pickle.dumps(Hostile(marker)))
    elif form == "zip":
        torch.save(Hostile(marker), path)
    else:
        torch.save({**state, "more": Hostile(marker)}, path)
    for words in ((), ("--allow-pickle",), ("--allow-pickle", "--trust-remote-code")):
        call = ravan(capsys, "export", copied, *OPTIONS, *words, "--out", tmp_path / "a")
        assert call.code == 3
        assert "Traceback" not in call.err
        assert not marker.exists()
        assert not (tmp_path / "a").exists()
    # It is hostile indeed.
    with contextlib.suppress(RuntimeError):  # a plain pickle is no file of torch, but is opened
        torch.load(path, weights_only=False)
    assert marker.exists()


def test_safetensors_are_taken_where_there_are_both(
    copied: Path, tmp_path: Path, capsys: Capture
) -> None:
    torch.save(Hostile(tmp_path / "it ran"), copied / "pytorch_model.bin")
    call = ravan(capsys, "export", copied, *OPTIONS, "--allow-pickle", "--out", tmp_path / "a")
    assert call.code == 0
    assert open_artifact(tmp_path / "a").manifest.notices == ()
    assert not (tmp_path / "it ran").exists()


def test_other_safetensors_are_no_weights(copied: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copy(pickled(copied) / "pytorch_model.bin", tmp_path / "kept")
    (copied / "adapter_model.safetensors").write_bytes(b"")
    call = ravan(capsys, "export", copied, *OPTIONS, "--out", tmp_path / "a")
    assert call.code == 3
    assert "--allow-pickle" in call.err
    (copied / "pytorch_model.bin").unlink()
    call = ravan(capsys, "export", copied, *OPTIONS, "--allow-pickle", "--out", tmp_path / "a")
    assert call.code == 3
    assert "no model.safetensors" in call.err


def test_code_that_transformers_would_run_beside_is_refused(
    copied: Path, tmp_path: Path, capsys: Capture
) -> None:
    (copied / "custom_generate").mkdir()
    marker = tmp_path / "it ran"
    (copied / "custom_generate" / "generate.py").write_text(
        f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    )
    words = ("export", copied, *OPTIONS, "--out", tmp_path / "a")
    call = ravan(capsys, *words, "--trust-remote-code")
    assert call.code == 3
    assert "custom_generate" in call.err
    assert not marker.exists()
    assert ravan(capsys, *words).code == 0
    assert not marker.exists()


def test_a_pickle_by_another_name_is_refused(copied: Path, tmp_path: Path, capsys: Capture) -> None:
    pickled(copied)
    (copied / "pytorch_model.bin").rename(copied / "model.pt")
    call = ravan(capsys, "export", copied, *OPTIONS, "--allow-pickle", "--out", tmp_path / "a")
    assert call.code == 3
    assert "call it pytorch_model.bin" in call.err


def with_code(folder: Path, marker: Path) -> Path:
    """The folder as of a model that has code of its own."""
    (folder / "own_bert.py").write_text(CODE.format(marker=str(marker)))
    path = folder / "config.json"
    auto_map = {"AutoModelForSequenceClassification": "own_bert.OwnBert"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": auto_map}))
    return folder


@pytest.fixture
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers copies code to a folder of the user's before it imports it: here a folder of the test."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))


@pytest.mark.usefixtures("own_modules")
def test_code_of_a_model_runs_when_it_is_typed_and_said_so(
    copied: Path, tmp_path: Path, capsys: Capture
) -> None:
    marker = tmp_path / "it ran"
    folder = with_code(copied, marker)
    words = ("export", folder, *OPTIONS, "--out", tmp_path / "a")
    for more in ((), ("--allow-pickle",)):
        refused = ravan(capsys, *words, *more)
        assert refused.code == 3
        assert "own_bert.py" in refused.err
        assert "--trust-remote-code" in refused.err
        assert not marker.exists()
    assert ravan(capsys, "inspect", folder, "--length", 16).code == 3
    assert not marker.exists()

    call = ravan(capsys, *words, "--trust-remote-code", "--json")
    assert call.code == 0, call.err
    assert marker.exists()
    assert f"running code that came with the model: {folder / 'own_bert.py'}" in call.err
    (notice,) = call.document["notices"]
    assert "own_bert.py (sha256 " in notice
    artifact = open_artifact(tmp_path / "a")
    assert artifact.manifest.notices == (notice,)
    assert artifact.manifest.model.architecture == "OwnBert"

    marker.unlink()
    back = ("merge", tmp_path / "a", "--model", folder, "--to")
    refused = ravan(capsys, *back, "hf", "--out", tmp_path / "m")
    assert refused.code == 3
    assert "--trust-remote-code" in refused.err
    assert not marker.exists()
    for target in ("hf", "artifact"):
        call = ravan(capsys, *back, target, "--trust-remote-code", "--out", tmp_path / target)
        assert call.code == 0, call.err
        assert "running code that came with the model" in call.err
    # The merged folder is again a model with code of its own.
    assert (tmp_path / "hf" / "own_bert.py").is_file()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "hf", trust_remote_code=True
    )
    assert type(model).__name__ == "OwnBert"


@pytest.mark.parametrize(
    ("auto_map", "said"),
    [
        ({"AutoModel": "somebody/else--code.Model"}, "code that is not in the folder"),
        ({"AutoModel": "../code.Model"}, "code that is not in the folder"),
        ({"AutoModel": "nowhere.Model"}, "it is not there"),
        (["own_bert.OwnBert"], "auto_map is no object"),
    ],
)
def test_code_that_is_not_in_the_folder_is_never_run(
    auto_map: Any, said: str, copied: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = copied / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": auto_map}))
    call = ravan(capsys, "export", copied, *OPTIONS, "--trust-remote-code", "--out", tmp_path / "a")
    assert call.code == 3
    assert said in call.err
