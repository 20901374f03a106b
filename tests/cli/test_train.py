from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ravan_edge.artifact import open_artifact, read_heads
from ravan_edge.training import RoundState
from tests.cli.calls import Call, ravan
from tests.tiny_artifact import LAYER, Method

TrainedIn = dict[Method, Path]


def train(
    capsys: pytest.CaptureFixture[str], artifact: Path, data: Path, out: Path, *more: object
) -> Call:
    words = ("--local-steps", 30, "--lr", 1e-2, "--checkpoint-seconds", 0, "--max-length", 64)
    return ravan(capsys, "train", artifact, "--data", data, "--out", out, *words, *more)


@pytest.mark.parametrize("method", ["ravan", "fedit", "head-only"])
def test_it_learns_saves_and_tells(
    capsys: pytest.CaptureFixture[str],
    tiny: TrainedIn,
    data: Path,
    tmp_path: Path,
    method: Method,
) -> None:
    out = tmp_path / "heads.safetensors"
    call = train(capsys, tiny[method], data, out, "--epochs", 10, "--validation", 0.2, "--json")
    assert call.code == 0, call.err
    assert call.err == ""
    found = call.document
    assert found["steps"] == len(found["losses"]) == 10 * 6
    assert found["rows"] == 96
    assert found["examples"] == 960
    assert found["tokens"] == 960 * 8
    assert found["validation"]["after"]["accuracy"] > found["validation"]["before"]["accuracy"]
    assert found["validation"]["after"]["count"] == 24
    assert found["loss"]["last"] < found["loss"]["first"]
    assert found["peak_memory_bytes"] > 10**6
    assert found["version"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["heads.safetensors"]
    tensors = read_heads(out, open_artifact(tiny[method]))
    if method == "ravan":
        assert (tensors[f"{LAYER}.s"] == 1).all()
        assert tensors[f"{LAYER}.H"].any()
    # and on: from these heads, as the next version
    more = train(capsys, tiny[method], data, tmp_path / "more", "--heads", out, "--json")
    assert more.document["version"] == 2
    scored = ravan(capsys, "eval", tiny[method], "--heads", out, "--data", data, "--json")
    assert scored.document["accuracy"] > 0.5


def test_for_people_it_prints_a_few_lines(
    capsys: pytest.CaptureFixture[str], tiny: TrainedIn, data: Path, tmp_path: Path
) -> None:
    call = train(capsys, tiny["ravan"], data, tmp_path / "heads", "--validation", 0.2)
    assert call.err == ""
    for word in ("loss", "held out", "30 steps", "480 examples", "memory", str(tmp_path / "heads")):
        assert word in call.out


def test_the_same_command_gives_the_same_bytes(
    capsys: pytest.CaptureFixture[str], tiny: TrainedIn, data: Path, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        seed = 1 if name == "c" else 0
        train(capsys, tiny["ravan"], data, tmp_path / name, "--seed", seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def interrupted(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    artifact: Path,
    data: Path,
    out: Path,
    *more: object,
) -> Call:
    """Ctrl-C after step 11."""

    def offer(self: object, state: RoundState) -> None:
        real(self, state)
        if state.steps == 11:
            raise KeyboardInterrupt

    from ravan_edge.cli import train as module

    real = module._Unfinished.offer
    with monkeypatch.context() as patch:
        patch.setattr(module._Unfinished, "offer", offer)
        return train(capsys, artifact, data, out, *more)


def test_after_an_interrupt_the_same_command_ends_bitwise_the_same(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny: TrainedIn,
    data: Path,
    tmp_path: Path,
) -> None:
    words = (tiny["ravan"], data, tmp_path / "heads", "--train-heads", 2, "--score", "gradient")
    stopped = interrupted(capsys, monkeypatch, *words)
    assert stopped.code == 130
    assert "interrupted after step 11 of 30" in stopped.err
    assert "To mend it: type the same command again" in stopped.err
    assert not (tmp_path / "heads").exists()
    resumed = train(capsys, *words, "--json")
    assert "continuing after step 11" in resumed.err
    assert resumed.document["resumed_at_step"] == 11
    assert resumed.document["steps"] == 30
    train(capsys, *words[:2], tmp_path / "whole", *words[3:])
    assert (tmp_path / "heads").read_bytes() == (tmp_path / "whole").read_bytes()
    assert not list(tmp_path.glob("*.unfinished"))


def test_an_unfinished_training_of_other_settings_is_not_overwritten(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny: TrainedIn,
    data: Path,
    tmp_path: Path,
) -> None:
    words = (tiny["ravan"], data, tmp_path / "heads")
    interrupted(capsys, monkeypatch, *words)
    unfinished = tmp_path / "heads.unfinished"
    before = unfinished.read_bytes()
    refused = train(capsys, *words, "--batch-size", 4)
    assert refused.code == 2
    assert "--restart" in refused.err
    assert unfinished.read_bytes() == before
    assert train(capsys, *words, "--batch-size", 4, "--restart").code == 0


def test_a_broken_checkpoint_costs_only_the_time(
    capsys: pytest.CaptureFixture[str], tiny: TrainedIn, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "heads.unfinished").write_bytes(b"rubbish")
    call = train(capsys, tiny["ravan"], data, tmp_path / "heads")
    assert call.code == 0
    assert "starting anew" in call.err


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_resumes(
    capsys: pytest.CaptureFixture[str],
    tiny: TrainedIn,
    data: Path,
    tmp_path: Path,
    kind: signal.Signals,
) -> None:
    words = ["train", tiny["ravan"], "--data", data, "--out", tmp_path / "heads",
             "--local-steps", 2000, "--batch-size", 64, "--json"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "ravan_edge.cli.main", *map(str, words), "--checkpoint-seconds", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    unfinished = tmp_path / "heads.unfinished"
    until = time.monotonic() + 60
    while not unfinished.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(kind)
    _, err = process.communicate(timeout=60)
    assert unfinished.exists(), err
    assert process.returncode == (130 if kind == signal.SIGINT else -kind)
    resumed = ravan(capsys, *words)
    assert resumed.document["resumed_at_step"] >= 1
    assert ravan(capsys, *words[:5], tmp_path / "whole", *words[6:]).code == 0
    assert (tmp_path / "heads").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--lr", "-1"], 2, "--lr"),
        (["--lr", "nan"], 2, "--lr"),
        (["--batch-size", "0"], 2, "--batch-size"),
        (["--validation", "1.5"], 2, "--validation"),
        (["--train-heads", "9"], 2, "have 4"),
        (["--plan", "block"], 2, "--plan"),
        (["--max-length", "0"], 2, "--max-length"),
        (["--text-column", "body"], 4, "body"),
        (["--heads", "nothing"], 3, "no such file"),
        (["--lr", "900"], 7, "lower --lr"),
    ],
)
def test_bad_options_say_so_and_leave_nothing(
    capsys: pytest.CaptureFixture[str],
    tiny: TrainedIn,
    data: Path,
    tmp_path: Path,
    more: list[str],
    code: int,
    said: str,
) -> None:
    call = ravan(capsys, "train", tiny["ravan"], "--data", data, "--out", tmp_path / "heads", *more)
    assert call.code == code, call.err
    assert said in call.err
    assert not (tmp_path / "heads").exists()


def test_bad_data_say_so(
    capsys: pytest.CaptureFixture[str], tiny: TrainedIn, tmp_path: Path
) -> None:
    out = tmp_path / "heads"
    for name, content, said in (
        ("empty.csv", b"", "empty"),
        ("unknown.csv", b"text,label\nw1,label9\n", "label9"),
        ("latin.csv", b"text,label\nw\xe9,label1\n", "UTF-8"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        call = train(capsys, tiny["ravan"], path, out)
        assert call.code == 4, name
        assert said in call.err, name
    assert train(capsys, tiny["ravan"], tmp_path / "nothing.csv", out).code == 4
    assert not out.exists()


def test_bad_destinations_are_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], tiny: TrainedIn, data: Path, tmp_path: Path
) -> None:
    folder = train(capsys, tiny["ravan"], data, tmp_path)
    assert (folder.code, "is a folder" in folder.err) == (2, True)
    missing = train(capsys, tiny["ravan"], data, tmp_path / "no" / "heads")
    assert (missing.code, "mkdir -p" in missing.err) == (9, True)


def test_an_artifact_that_is_damaged_is_refused(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path
) -> None:
    from tests.tiny_artifact import make_tiny_artifact

    folder = make_tiny_artifact(tmp_path / "a").folder
    base = folder / "base.safetensors"
    content = bytearray(base.read_bytes())
    content[-1] ^= 1
    base.write_bytes(content)
    call = train(capsys, folder, data, tmp_path / "heads")
    assert call.code == 3
    assert "sha256" in call.err
    assert train(capsys, tmp_path / "nothing", data, tmp_path / "heads").code == 3


def test_without_onnxruntime_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny: TrainedIn,
    data: Path,
    tmp_path: Path,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    call = train(capsys, tiny["ravan"], data, tmp_path / "heads")
    assert call.code == 8
    assert "pip install 'ravan-edge[onnxruntime]'" in call.err
