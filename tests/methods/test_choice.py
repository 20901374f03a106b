from __future__ import annotations

import numpy as np
import pytest

from ravan_edge.generator import Purpose, Stream
from ravan_edge.methods import choose_heads

LAYERS = {"a": 4, "b": 6}


def test_random_choices_come_from_the_stream_of_the_layer() -> None:
    chosen = choose_heads(None, LAYERS, 2, seed=5, round=3, device=9)
    for index, (layer, heads) in enumerate(LAYERS.items()):
        stream = Stream(5, Purpose.SELECT_HEADS, round=3, device=9, index=index)
        assert chosen[layer].tolist() == stream.choose(2, heads).tolist()
        assert chosen[layer].dtype == np.int32


def test_the_largest_norms_win() -> None:
    norms = {"a": np.array([1.0, 9.0, 3.0, 7.0]), "b": np.arange(6.0)}
    chosen = choose_heads(norms, LAYERS, 2, seed=0, round=0, device=0)
    assert {layer: heads.tolist() for layer, heads in chosen.items()} == {"a": [1, 3], "b": [4, 5]}


def test_ties_are_broken_by_the_stream_as_if_at_random() -> None:
    ties = {layer: np.zeros(heads) for layer, heads in LAYERS.items()}
    seen = set()
    for device in range(30):
        address = {"seed": 1, "round": 0, "device": device}
        tied = choose_heads(ties, LAYERS, 2, **address)
        plain = choose_heads(None, LAYERS, 2, **address)
        assert all(tied[layer].tolist() == plain[layer].tolist() for layer in LAYERS)
        seen.add(tuple(tied["b"].tolist()))
    assert len(seen) > 5


def test_all_heads_need_no_choice() -> None:
    chosen = choose_heads(None, {"a": 4}, 4, seed=0, round=0, device=0)
    assert chosen["a"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [0, 5])
def test_a_count_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="heads of a"):
        choose_heads(None, {"a": 4}, count, seed=0, round=0, device=0)
