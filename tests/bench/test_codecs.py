"""The codecs bench measures what it says."""

from __future__ import annotations

import json

import pytest

from bench.codecs import CODERS, SIZES, Size, main, measure


def test_bytes_and_errors_are_those_of_the_codecs() -> None:
    figures = {figure.codec: figure for figure in measure(Size("small", 2, 8, 5), 1, devices=50)}
    numbers = figures["fp32"].numbers
    assert numbers == 2 * 4 * 8 * 8 + 5 * 384 + 5
    assert figures["fp32"].error == 0
    sizes = [figures[name].bytes for name in ("fp32", "fp16", "int8", "int4", "top-k 0.01")]
    assert sizes == sorted(sizes, reverse=True)
    assert figures["int8"].bytes < 1.04 * numbers + 700
    assert figures["int8"].error < 0.01 < figures["int4"].error < figures["top-k 0.1"].error
    for name in ("int8", "int4"):
        assert figures[name].error_of_many < figures[name].error / 5, "it averages out"
    for name in ("fp16", "top-k 0.1"):
        assert figures[name].error_of_many == pytest.approx(figures[name].error)


@pytest.mark.slow
def test_it_prints_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--repeats", "1", "--devices", "2"])
    text = capsys.readouterr().out
    assert all(size.name in text for size in SIZES)
    main(["--json", "--repeats", "1", "--devices", "2"])
    assert len(json.loads(capsys.readouterr().out)) == 2 * len(CODERS)
