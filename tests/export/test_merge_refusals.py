"""What ``ravan merge`` refuses: with which exit code, and that nothing stays behind."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from ravan_edge.cli.main import main
from ravan_edge.errors import ModelError, StorageError
from ravan_export.merge import merge_artifact, to_hf
from ravan_export.merge.folder import NewFolder
from ravan_export.merge.work import Work
from tests.export.merge_kit import TEXTS, artifact_logits


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_command_and_its_document(
    with_heads: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = with_heads("bert")
    words = ("merge", case.artifact, "--heads", case.heads, "--to", "onnx", "--out")
    assert run(*words, tmp_path / "out", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["out"] == str(tmp_path / "out")
    assert document["to"] == "onnx"
    assert document["version"] == 7
    assert document["largest_difference"] <= 1e-4
    assert document["same_label"] == 1.0
    assert document["bytes"] == sum(document["files"].values())
    assert document["files"] == {
        path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()
    }
    # Again: refused, then replaced when asked; int8 says both sizes.
    assert run(*words, tmp_path / "out") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(*words, tmp_path / "out", "--overwrite", "--quantise", "int8") == 0
    assert "float32:" in capsys.readouterr().out
    assert left(tmp_path) == ["out"]


def test_the_command_shows_what_a_rank_costs(
    with_heads: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = with_heads("bert")
    words = ("merge", case.artifact, "--heads", case.heads, "--model", case.model, "--to", "peft")
    assert run(*words, "--out", tmp_path / "exact") == 0
    assert "rank 16, exact" in capsys.readouterr().out
    assert run(*words, "--out", tmp_path / "low", "--rank", "4") == 0
    assert "rank 4; relative error of what is added: mean " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--to", "gguf"), "choose one of hf, peft, onnx, artifact"),
        (("--to", "hf", "--rank", "4"), "--rank: --to hf does not take it"),
        (("--to", "hf", "--quantise", "int8"), "it belongs to --to onnx"),
        (("--to", "onnx", "--quantise", "int4"), "known is int8"),
        (("--to", "onnx", "--model", "x"), "hf or peft or artifact"),
        (("--to", "peft", "--seed", "1"), "--seed"),
        (("--to", "artifact", "--seed", "-1"), "out of range"),
        (("--to", "hf", "--data", "x.csv"), "--data"),
        (("--to", "peft", "--rank", "99"), "99 is out of range, expected 1 to 16"),
        (("--to", "peft", "--rank", "0"), "0 is out of range"),
    ],
)
def test_options_that_make_no_sense(
    words: tuple[str, ...],
    said: str,
    with_heads: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = with_heads("bert")
    out = ("--out", tmp_path / "out")
    assert run("merge", case.artifact, "--heads", case.heads, *words, *out) == 2
    assert said in capsys.readouterr().err
    assert not left(tmp_path)


def test_something_is_there(
    with_heads: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = with_heads("bert")
    words = ("merge", case.artifact, "--heads", case.heads, "--to", "onnx", "--out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("x")
    for more in ((), ("--overwrite",)):
        assert run(*words, tmp_path / "mine", *more) == 2
        assert "was not made by ravan" in capsys.readouterr().err
    assert left(tmp_path / "mine") == ["precious.txt"]
    assert run(*words, tmp_path / "no" / "where") == 2
    assert "mkdir -p" in capsys.readouterr().err
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    assert run(*words, tmp_path / "link", "--overwrite") == 2
    assert left(tmp_path) == ["link", "mine"]


def corrupt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def no_heads(path: Path) -> None:
    path.write_bytes(b"not a tensor file at all")


def removed(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [corrupt, no_heads, removed])
def test_heads_that_cannot_be_read(
    damage: Callable[[Path], None],
    with_heads: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = with_heads("bert")
    heads = tmp_path / "heads.safetensors"
    shutil.copy(case.heads, heads)
    damage(heads)
    words = ("merge", case.artifact, "--heads", heads, "--to", "onnx", "--out", tmp_path / "out")
    assert run(*words) == 3
    assert "heads.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_heads_of_another_artifact(
    with_heads: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case, other = with_heads("bert"), with_heads("roberta")
    words = ("merge", case.artifact, "--heads", other.heads, "--to", "onnx")
    assert run(*words, "--out", tmp_path / "out") == 3
    assert "belongs to another artifact" in capsys.readouterr().err
    assert run("merge", tmp_path, "--to", "onnx", "--out", tmp_path / "out") == 3
    assert not left(tmp_path)


def test_a_model_that_is_not_there(
    with_heads: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = with_heads("bert")
    words = ("merge", case.artifact, "--heads", case.heads, "--to", "hf", "--out", tmp_path / "out")
    assert run(*words, "--model", tmp_path / "nowhere") == 3
    assert "nowhere" in capsys.readouterr().err
    # By default what the manifest calls it, which is no hub id here.
    assert run(*words) == 3
    error = capsys.readouterr().err
    assert "'words-bert'" in error
    assert "--model" in error
    assert not left(tmp_path)


def test_the_default_model_is_what_the_manifest_calls_it(
    with_heads: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = with_heads("bert")
    monkeypatch.chdir(case.model.parent)
    merge_artifact(case.artifact, case.heads, "hf", tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def one_number(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["bert.encoder.layer.1.output.dense.weight"][3, 4] *= 1 + 2**-23
    save_file(tensors, path, {"format": "pt"})


def lost_tensor(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["bert.encoder.layer.1.output.dense.weight"]
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("change", [one_number, lost_tensor])
@pytest.mark.parametrize("to", ["hf", "peft", "artifact"])
def test_another_model_is_refused_with_the_tensor(
    to: str, change: Callable[[Path], None], with_heads: Any, tmp_path: Path
) -> None:
    case = with_heads("bert")
    folder = tmp_path / "model"
    shutil.copytree(case.model, folder)
    change(folder)
    with pytest.raises(ModelError, match=r"'bert\.encoder\.layer\.1\.output\.dense\.weight'"):
        merge_artifact(case.artifact, case.heads, to, tmp_path / "out", model=str(folder))
    assert left(tmp_path) == ["model"]


def test_a_model_of_another_kind_or_size_is_refused(
    with_heads: Any, copied: Any, tmp_path: Path
) -> None:
    case = with_heads("bert")
    with pytest.raises(ModelError, match="type 'roberta'"):
        merge_artifact(case.artifact, case.heads, "hf", tmp_path / "out", model=copied("roberta"))
    folder = copied("bert")
    config = json.loads((folder / "config.json").read_text())
    for changed in ({"hidden_size": 8}, {"num_hidden_layers": 1}):
        (folder / "config.json").write_text(json.dumps(config | changed))
        with pytest.raises(ModelError, match=r"cannot be loaded|not the model"):
            merge_artifact(case.artifact, case.heads, "hf", tmp_path / "out", model=folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json"):
        merge_artifact(case.artifact, case.heads, "hf", tmp_path / "out", model=folder)
    assert left(tmp_path) == ["bert", "roberta"]


def test_a_pickled_model_is_not_loaded(with_heads: Any, copied: Any, tmp_path: Path) -> None:
    case, folder = with_heads("bert"), copied("bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"cannot be loaded|pickled"):
        merge_artifact(case.artifact, case.heads, "hf", tmp_path / "out", model=folder)
    assert left(tmp_path) == ["bert"]


@pytest.mark.parametrize(
    "to", ["hf", "peft", "onnx", pytest.param("artifact", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_nothing_stays_behind(
    to: str,
    error: BaseException,
    with_heads: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Work, "compared", fail)
    case = with_heads("bert")
    model = None if to == "onnx" else case.model
    with pytest.raises(type(error)):
        merge_artifact(case.artifact, case.heads, to, tmp_path / "out", model=model)
    assert not left(tmp_path)


def test_what_was_there_survives_a_failure(
    with_heads: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = with_heads("bert")
    out = tmp_path / "out"
    merge_artifact(case.artifact, case.heads, "onnx", out)
    before = (out / "model.onnx").read_bytes()

    def full(self: Path, target: Path) -> Path:
        if target == out:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(self, target)

    rename = Path.rename
    renamed = {"count": 0}

    def sometimes(self: Path, target: Path) -> Path:
        renamed["count"] += 1
        return full(self, target) if renamed["count"] == 2 else rename(self, target)

    monkeypatch.setattr(Path, "rename", sometimes)
    with pytest.raises(StorageError, match="No space"):
        merge_artifact(case.artifact, None, "onnx", out, overwrite=True)
    assert (out / "model.onnx").read_bytes() == before
    assert left(tmp_path) == ["out"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
@pytest.mark.parametrize("to", [pytest.param("hf", marks=pytest.mark.slow), "onnx"])
def test_a_disk_that_is_full(to: str, with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("bert")
    words = ["merge", str(case.artifact), "--heads", str(case.heads), "--to", to]
    words += [] if to == "onnx" else ["--model", str(case.model)]
    finished = subprocess.run(
        [sys.executable, "-m", "ravan_edge.cli.main", *words, "--out", str(tmp_path / "out")],
        capture_output=True,
        check=False,
        text=True,
        # As on a full disk, writing fails in the middle of the largest file.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert finished.returncode == 9, finished.stderr
    assert "cannot write" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not left(tmp_path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder nobody can write to")
def test_a_folder_that_cannot_be_written() -> None:
    with pytest.raises(StorageError), NewFolder(Path("/proc/self/merged")):
        pass


def test_a_merged_model_that_differs_is_not_published(
    with_heads: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = to_hf.fold_model

    def wrong(artifact: Any, heads: Any, original: Any) -> None:
        fold(artifact, heads, original)
        original.model.classifier.bias += 1e-3

    monkeypatch.setattr(to_hf, "fold_model", wrong)
    case = with_heads("bert")
    with pytest.raises(ModelError, match="differs from the artifact by 1"):
        merge_artifact(case.artifact, case.heads, "hf", tmp_path / "out", model=case.model)
    assert not left(tmp_path)


def test_help_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import ravan_export.cli_merge; print('fine')"
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, text=True
    )
    assert finished.stdout == "fine\n", finished.stderr


def test_without_heads_it_is_the_initial_model(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("bert")
    merged = merge_artifact(case.artifact, None, "hf", tmp_path / "out", model=case.model)
    assert merged.version == 0
    before = load_file(case.model / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert all((before[name] == after[name]).all() for name in before)
    assert artifact_logits(case.artifact, None).shape == (len(TEXTS), 3)
