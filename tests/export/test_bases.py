"""The four ways to draw bases: their scale, their spans, their seeds."""

from __future__ import annotations

import numpy as np
import pytest

from ravan_edge.artifact.manifest import Layer
from ravan_export.bases import Init, make_bases

LAYER = Layer(name="q", outputs=96, inputs=64, heads=4, rank=8)


@pytest.mark.parametrize("init", list(Init))
def test_rows_have_norm_one_on_average(init: Init) -> None:
    wide = Layer(name="q", outputs=600, inputs=500, heads=3, rank=16)
    bases = make_bases(wide, 0, init, 1)
    assert bases.a.shape == (3, 16, 500)
    assert bases.bt.shape == (3, 16, 600)
    for side in (bases.a, bases.bt):
        squares = (side.astype(np.float64) ** 2).sum(-1)
        assert squares.mean() == pytest.approx(1.0, abs=0.25)


def test_gram_schmidt_is_orthonormal_across_all_heads() -> None:
    bases = make_bases(LAYER, 0, Init.GRAM_SCHMIDT, 0)
    for side in (bases.a, bases.bt):
        rows = side.reshape(32, -1).astype(np.float64)
        assert np.abs(rows @ rows.T - np.eye(32)).max() < 1e-6
    assert bases.notice == ""


def test_gram_schmidt_falls_back_and_says_so() -> None:
    narrow = Layer(name="v_proj", outputs=20, inputs=64, heads=4, rank=8)
    bases = make_bases(narrow, 0, Init.GRAM_SCHMIDT, 0)
    fitting = bases.bt[:2].reshape(16, 20).astype(np.float64)
    assert np.abs(fitting @ fitting.T - np.eye(16)).max() < 1e-6
    assert np.linalg.matrix_rank(bases.bt.reshape(32, 20)) == 20
    assert "v_proj" in bases.notice
    assert "0 heads of A and 2 of B" in bases.notice


def test_constant_repeats_one_head() -> None:
    bases = make_bases(LAYER, 0, Init.CONSTANT, 0)
    for side in (bases.a, bases.bt):
        assert (side == side[:1]).all()


def test_shared_subspace_has_different_heads_in_one_subspace() -> None:
    bases = make_bases(LAYER, 0, Init.SHARED_SUBSPACE, 0)
    for side in (bases.a, bases.bt):
        assert np.linalg.matrix_rank(side.reshape(32, -1).astype(np.float64), tol=1e-4) == 8
        assert not (side[0] == side[1]).any()
    # one mixer R_i for both sides: A_i = R_i N and B_i = M R_i
    a, bt = bases.a.astype(np.float64), bases.bt.astype(np.float64)
    mixer = a[1] @ np.linalg.pinv(a[0])
    other = bt[1].T @ np.linalg.pinv(bt[0].T)
    assert mixer.shape == (8, 8)
    assert other.shape == (96, 96)


def test_random_normal_is_the_generators() -> None:
    """Golden: made by `Stream(3, Purpose.BASES, device=1, index=0).normal(2) / 8`."""
    from ravan_edge.generator import Purpose, Stream

    bases = make_bases(LAYER, 1, Init.RANDOM_NORMAL, 3)
    expected = Stream(3, Purpose.BASES, device=1, index=0).normal(8 * 64).reshape(8, 64) / 8
    assert (bases.a[0] == expected.astype(np.float32)).all()


def test_layers_heads_sides_and_seeds_differ() -> None:
    first = make_bases(LAYER, 0, Init.RANDOM_NORMAL, 0)
    for place, seed in ((1, 0), (0, 1)):
        second = make_bases(LAYER, place, Init.RANDOM_NORMAL, seed)
        assert not (first.a == second.a).any()
        assert not (first.bt == second.bt).any()
    assert not (first.a[0] == first.a[1]).any()
