"""Choosing heads where a runtime runs all of them."""

from __future__ import annotations

import numpy as np

from ravan_edge.artifact.manifest import Layer
from ravan_edge.plans.all_heads import AllHeads

LAYERS = [Layer(name=name, outputs=6, inputs=5, heads=4, rank=2) for name in ("a", "b")]
CORES = np.arange(16, dtype=np.float32).reshape(4, 2, 2)
BIAS = np.arange(3, dtype=np.float32)


def test_heads_that_do_not_run_are_zero_and_have_no_gradient() -> None:
    heads = AllHeads(LAYERS)
    heads.use({"a": np.array([1, 3])})
    whole = heads.spread("a.G", CORES[[1, 3]])
    assert np.array_equal(whole[[1, 3]], CORES[[1, 3]])
    assert not whole[[0, 2]].any()
    assert np.array_equal(heads.taken("a.G", CORES), CORES[[1, 3]])
    heads.use({"b": np.array([0])})
    assert len(heads.taken("a.G", CORES)) == 2, "the choice of another layer stays"


def test_all_heads_and_inputs_without_heads_go_through() -> None:
    heads = AllHeads(LAYERS)
    for name, array in (("a.G", CORES), ("task_head.bias", BIAS)):
        assert np.array_equal(heads.spread(name, array), array)
        assert np.array_equal(heads.taken(name, array), array)
    heads.use({"a": np.array([0])})
    heads.use({"a": np.arange(4)})
    assert np.array_equal(heads.spread("a.G", CORES), CORES)
    assert np.array_equal(heads.taken("a.G", CORES), CORES)


def test_no_head_at_all() -> None:
    heads = AllHeads(LAYERS)
    heads.use({"a": np.array([], np.int64)})
    assert not heads.spread("a.G", CORES[:0]).any()
    assert heads.taken("a.G", CORES).shape == (0, 2, 2)


def test_a_gradient_is_a_copy() -> None:
    """The runtime's buffer is overwritten by its next step."""
    heads = AllHeads(LAYERS)
    for rows in (np.arange(4), np.array([1, 3])):
        buffer = CORES.copy()
        heads.use({"a": rows})
        found = heads.taken("a.G", buffer)
        buffer[:] = -1
        assert (found >= 0).all()
