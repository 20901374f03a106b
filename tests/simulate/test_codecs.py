"""Codecs on the virtual clock: any number of workers, kills, a real server; residuals on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ravan_edge.artifact import open_artifact
from ravan_edge.codecs import CodecName
from ravan_edge.errors import NumericsError, UsageError
from ravan_edge.merge import RoundMode, RoundRule
from ravan_edge.protocol import UploadSettings
from ravan_edge.simulate import simulate
from ravan_edge.simulate.residuals import RESIDUALS_FOLDER, RunResiduals
from tests.simulate.conftest import RequestFor
from tests.simulate.faults import FailingDisk, Killed
from tests.simulate.same_run import comparable, metrics
from tests.simulate.server_runs import killed, run, same, server_for

CODECS = [codec for codec in CodecName if codec is not CodecName.FP32]
BIASED = [CodecName.FP16, CodecName.TOP_K]
UNEVEN: dict[str, Any] = {"partition": "dirichlet:0.5", "head_budgets": "1:0.5,4:0.5"}


def upload(codec: CodecName) -> UploadSettings:
    return UploadSettings(codec, 0.2)


@pytest.mark.parametrize(
    "codec",
    [
        each if each is CodecName.FP16 else pytest.param(each, marks=pytest.mark.slow)
        for each in CODECS
    ],
)
def test_a_server_makes_the_same_bits(
    codec: CodecName, request_for: RequestFor, tmp_path: Path
) -> None:
    """With residuals: half of the devices are asked in each round, and train other heads each time."""
    settings = {**UNEVEN, "per_round": 4, "rounds": 4, "upload": upload(codec)}
    here = request_for("here", **settings)
    expected = run(here, workers=2)
    assert len(set(expected.values())) == 5, "every round changes the heads"
    with server_for(replace(here, out=tmp_path / "there"), tmp_path / "state") as (server, there):
        assert run(there) == expected
        assert [version.updates for version in server.versions()] == [4, 4, 4, 4, 0]
    same(there.out, here.out)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.usefixtures("in_process")
def test_the_codec_and_the_residual_are_part_of_the_result(
    codec: CodecName, request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(request_for("plain", upload=UploadSettings()))
    coded = run(request_for("coded", upload=upload(codec)))
    monkeypatch.setattr(RunResiduals, "load", lambda *_: None)
    forgetful = run(request_for("forgetful", upload=upload(codec)))
    assert coded[1] != plain[1]
    assert coded[1] == forgetful[1]
    assert (coded[3] != forgetful[3]) == (codec in BIASED)
    error = np.frombuffer(coded[3], np.float32) - np.frombuffer(plain[3], np.float32)
    moved = np.frombuffer(plain[3], np.float32) - np.frombuffer(plain[0], np.float32)
    assert np.linalg.norm(error) < np.linalg.norm(moved), "it is still about the same run"


@pytest.mark.usefixtures("in_process")
def test_bytes_that_travel_are_the_codecs(request_for: RequestFor) -> None:
    sent = {}
    for codec in CodecName:
        request = request_for(str(codec), rounds=1, upload=upload(codec), **UNEVEN)
        summary = simulate(request)
        lines = metrics(request.out, "device")
        assert {line["upload_bytes"] for line in lines} <= set(
            summary["upload_bytes_by_heads"].values()
        )
        assert summary["settings"]["codec"] == codec
        sent[codec] = summary["upload_bytes_per_update"]
        assert ("--codec" in request.command()) == (codec is not CodecName.FP32)
    assert (
        sent[CodecName.INT4] <= sent[CodecName.INT8] < sent[CodecName.FP16] < sent[CodecName.FP32]
    )


@pytest.mark.parametrize("codec", BIASED)
@pytest.mark.parametrize(
    "rule", [RoundRule(), RoundRule(RoundMode.ASYNC, buffer=4)], ids=["sync", "async"]
)
def test_it_does_not_depend_on_the_number_of_workers(
    codec: CodecName, rule: RoundRule, request_for: RequestFor
) -> None:
    settings = {**UNEVEN, "rule": rule, "rounds": 4, "upload": upload(codec), "drop_out": 0.2}
    for workers in (1, 3):
        simulate(request_for(f"run-{workers}", **settings), workers=workers)
    first, second = (comparable(request_for(f"run-{n}", **settings).out) for n in (1, 3))
    assert first == second
    assert not (request_for("run-1", **settings).out / RESIDUALS_FOLDER).exists(), (
        "nobody asks again"
    )


@pytest.mark.parametrize(
    "rule", [RoundRule(), RoundRule(RoundMode.ASYNC, buffer=4)], ids=["sync", "async"]
)
@pytest.mark.usefixtures("in_process")
def test_killed_at_any_operation_it_ends_with_the_same_bits(
    rule: RoundRule, request_for: RequestFor
) -> None:
    quick: dict[str, Any] = {
        "rule": rule,
        "rounds": 3,
        "evaluate_every": 0,
        "local": {"local_steps": 1},
        "upload": upload(CodecName.TOP_K),
        "devices": 5,
    }
    calm = request_for("calm", **quick)
    disk = FailingDisk(10**9, Killed)
    with disk.installed():
        simulate(calm)
    expected = comparable(calm.out)
    operations = len(disk.operations)
    assert operations > 60
    for at in range(0, operations, 5):
        again = request_for(f"at-{at}", **quick)
        disk = FailingDisk(at, Killed)
        with disk.installed(), pytest.raises(Killed):
            simulate(again)
        simulate(again)
        assert comparable(again.out) == expected, at


@pytest.mark.usefixtures("in_process")
def test_a_round_that_was_not_committed_does_not_see_its_own_residuals(
    request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"rounds": 4, "per_round": 8, "upload": upload(CodecName.TOP_K)}
    simulate(request_for("calm", **settings))
    again = request_for("again", **settings)
    killed(monkeypatch, again, 3)
    simulate(again)
    assert comparable(again.out) == comparable(request_for("calm", **settings).out)


def test_residuals_of_committed_rounds_are_deleted(tmp_path: Path, request_for: RequestFor) -> None:
    artifact = open_artifact(request_for().artifact)
    residuals = RunResiduals(tmp_path / "residuals", artifact.digest, 3)

    def of(value: float) -> Any:
        return np.full(3, value, np.float32)

    def found(merge: int, version: int) -> float | None:
        vector = residuals.load(7, merge, version)
        return None if vector is None else float(vector[0])

    assert found(0, 0) is None
    for value, (merge, version) in enumerate([(0, 0), (2, 1), (2, 2), (5, 3)]):
        residuals.keep(7, merge, version, of(value))
    assert found(2, 1) is None, "deleted: a round after (2, 2) was done, so both are committed"
    assert (found(5, 3), found(5, 4), found(9, 9)) == (2, 3, 3)
    assert sorted(path.name for path in (tmp_path / "residuals" / "7").iterdir()) == [
        "2-2.safetensors",
        "5-3.safetensors",
    ]
    residuals.keep(7, 5, 3, of(9))  # the round is done again
    assert (found(5, 3), found(6, 6)) == (2, 9)


@pytest.mark.parametrize("codec", BIASED)
def test_stale_updates_cannot_be_taken_back(codec: CodecName, request_for: RequestFor) -> None:
    rule = RoundRule(RoundMode.ASYNC, max_staleness=2)
    with pytest.raises(UsageError, match=f"--codec {codec}") as caught:
        request_for(rule=rule, upload=upload(codec))
    assert caught.value.where == "--max-staleness"
    request_for(rule=rule, upload=upload(CodecName.INT4))


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (UploadSettings(CodecName.INT8), "--codec is int8 on the server and top-k here"),
        (UploadSettings(CodecName.TOP_K, 0.1), "--top-k-share is 0.1 on the server and 0.2 here"),
    ],
)
@pytest.mark.usefixtures("in_process")
def test_a_server_with_another_codec_is_refused(
    there: UploadSettings, says: str, request_for: RequestFor, tmp_path: Path
) -> None:
    request = request_for("there", upload=upload(CodecName.TOP_K))
    with (
        server_for(request, tmp_path / "state", attempts={"upload": there}) as (_, wanted),
        pytest.raises(UsageError, match=says),
    ):
        simulate(wanted)


@pytest.mark.usefixtures("in_process")
def test_numbers_too_large_for_a_merge_leave_the_residual_as_it_was(
    request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    monkeypatch.setattr(RunResiduals, "keep", lambda _, device, *__: kept.append(device))
    request = request_for(
        rounds=1, upload=upload(CodecName.FP16), local={"optimizer": "sgd", "lr": 900.0}
    )
    with pytest.raises(NumericsError, match="numbers of every device went bad"):
        simulate(request)
    lines = metrics(request.out, "device")
    assert {line["status"] for line in lines} == {"bad_numbers"}
    assert not kept
