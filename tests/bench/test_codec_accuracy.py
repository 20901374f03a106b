"""The bench of accuracy per codec: what it makes of finished runs, and what it starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench import codec_accuracy
from bench.codec_accuracy import accuracy_of, main
from ravan_edge.codecs import CodecName


def _write_run(folder: Path, *accuracy: float, size: int = 77) -> None:
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"upload_bytes_per_update": size}))
    lines: list[Mapping[str, Any]] = [
        {"kind": "evaluation", "set": "test", "round": 0, "accuracy": 0.9},
        {"kind": "round", "round": 1},
    ]
    for number, share in enumerate(accuracy, 1):
        lines = [*lines, {"kind": "evaluation", "set": "test", "round": number, "accuracy": share}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_figure_is_the_mean_of_the_last_three_evaluations(tmp_path: Path) -> None:
    _write_run(tmp_path / "0", 0.1, 0.5, 0.6, 0.7)
    _write_run(tmp_path / "1", 0.2, 0.4)
    found = accuracy_of("int8", [tmp_path / "0", tmp_path / "1"])
    assert found.figures == [pytest.approx(0.6), pytest.approx(0.3)]
    assert (found.final, found.upload_bytes) == ([0.7, 0.4], 77)


def test_every_codec_is_run_with_every_seed_and_compared_with_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[str, str]] = []

    def simulate(artifact: Path, out: Path, more: Mapping[str, Any]) -> None:
        assert (artifact, more["rounds"]) == (Path("artifact"), 8)
        ran.append((more["codec"], more["seed"]))
        if not out.exists():
            _write_run(out, 0.8 if more["codec"] == "fp32" else 0.75)

    monkeypatch.setattr(codec_accuracy, "_simulate", simulate)
    main(["artifact", "--work", str(tmp_path), "--seeds", "0,1"])
    assert sorted(ran) == sorted((codec, seed) for codec in CodecName for seed in "01")
    lines = capsys.readouterr().out.splitlines()
    assert "difference +0.0" in next(line for line in lines if line.startswith("fp32"))
    assert "difference -5.0" in next(line for line in lines if line.startswith("int4"))
    main(["artifact", "--work", str(tmp_path), "--seeds", "1", "--codecs", "top-k", "--json"])
    assert [each["codec"] for each in json.loads(capsys.readouterr().out)] == ["top-k"]
