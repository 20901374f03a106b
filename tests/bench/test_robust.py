"""The bench of the robust rules runs, and both sides come to the same."""

from __future__ import annotations

import json

import pytest

from bench.robust import AGREE, CONVERGED, RULES, main


@pytest.mark.slow
def test_quick_figures_of_every_rule(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert list(found["rules"]) == [*RULES, CONVERGED]
    for rule, each in found["rules"].items():
        assert rule == CONVERGED or each["apart"] <= AGREE
        assert each["seconds"]["kit"] > 0


def test_the_line_of_a_rule_says_its_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--rules", "median"])
    said = capsys.readouterr().out
    assert "ratio" in said
    assert "20 devices, 50,000 numbers" in said
