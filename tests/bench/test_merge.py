"""The merge bench: both sides form the same means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.merge import HEADS, KEPT, kit_side, main, make_updates, numpy_side


def test_both_sides_form_the_same_means(tmp_path: Path) -> None:
    layers = 2
    size = make_updates(tmp_path, updates=5, parameters=500, layers=layers, trained=HEADS)
    paths = sorted(tmp_path.glob("*.update"))
    kit = np.sort(np.asarray(kit_side(paths)()))
    for kept in (True, False):
        merge = numpy_side(paths, kept=kept)
        merge()
        found = np.asarray(merge())
        # Scales are in no file; read as float32, the indices 0 .. h-1 of the heads are next to 0.
        assert found.size == size
        assert (
            np.count_nonzero(np.abs(found) < 1e-30) == np.count_nonzero(kit == 0) == layers * HEADS
        )
        np.testing.assert_allclose(np.sort(found), kit, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_it_prints_the_ratio_and_its_conditions(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--repeats", "1", "--updates", "3", "--parameters", "2000", "--heads-trained", "2"])
    said = capsys.readouterr().out
    assert KEPT in said
    assert "ratio to numpy" in said
    assert "3 updates of " in said
