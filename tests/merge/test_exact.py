from __future__ import annotations

from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ravan_edge.errors import NumericsError
from ravan_edge.merge import ExactSum, MergeScale, exact
from ravan_edge.methods import Piece

SIZE = 6
values = st.floats(-63.5, 63.5, width=32)
differences = hnp.arrays(np.float32, SIZE, elements=values)
masks = st.one_of(st.none(), hnp.arrays(np.bool_, SIZE))
updates = st.lists(st.tuples(differences, masks), min_size=1, max_size=9)
Updates = list[tuple[np.ndarray, np.ndarray | None]]
# All of float32 below the bound, the subnormal ones and halves of the last step among them.
STEPS = st.integers(-(2**24) + 1, 2**24 - 1)
any_value = st.one_of(
    st.floats(-64, 64, width=32, exclude_min=True, exclude_max=True),
    st.builds(lambda steps, power: float(np.ldexp(steps, power)), STEPS, st.integers(-90, -18)),
    st.sampled_from([0.0, -0.0, 2.0, -2.0, 1.9999999, 4.0, -4.0, 3.9999998]),
    st.just(float(np.nextafter(np.float32(64), 0))),
)
cohorts = st.sampled_from([1, 2, 3, 9, 100, 128, 129, 1000, 100_000])


class SlowSum:
    """Section 9 of docs/artifact.md, number by number, in integers and fractions."""

    def __init__(self, size: int, most_devices: int, bound_exponent: int = 6) -> None:
        self.power = 62 - bound_exponent - min(k for k in range(64) if 2**k >= most_devices)
        self.total, self.trainers = [0] * size, [0] * size

    def add(self, difference: np.ndarray, mask: np.ndarray | None) -> None:
        for i, D in enumerate(difference.tolist()):
            if mask is None or mask[i]:
                self.total[i] += round(Fraction(D) * Fraction(2) ** self.power)  # half to even
                self.trainers[i] += 1

    def apply(self, heads: np.ndarray) -> np.ndarray:
        merged = heads.copy()
        for i, (S, count) in enumerate(zip(self.total, self.trainers, strict=True)):
            if count:
                mean = float(Fraction(float(S)) / Fraction(2) ** self.power) / count
                merged[i] = np.float32(float(heads[i]) + mean)
        return merged


@given(st.data(), cohorts, st.integers(1, 4), st.integers(0, 9))
def test_it_is_the_specification_bit_for_bit(
    data: st.DataObject, most: int, block: int, size: int
) -> None:
    array = hnp.arrays(np.float32, size, elements=any_value)
    mask = st.none() | hnp.arrays(np.bool_, size)
    some = data.draw(st.lists(st.tuples(array, mask), max_size=min(most, 9)))
    heads = data.draw(hnp.arrays(np.float32, size, elements=st.floats(-1e3, 1e3, width=32)))
    total, slow = ExactSum.empty(size, MergeScale.for_cohort(most)), SlowSum(size, most)
    with patch.object(exact, "_BLOCK", block):
        for update in some:
            total.add(*update)
            slow.add(*update)
        merged = total.apply(heads)
    assert total.scale.power == slow.power
    assert total.total.tolist() == slow.total
    assert total.trainers.tolist() == slow.trainers
    assert merged.tobytes() == slow.apply(heads).tobytes()


@given(st.data(), hnp.arrays(np.bool_, 12), st.integers(1, 5), cohorts)
def test_pieces_are_a_difference_with_a_mask(
    data: st.DataObject, mask: np.ndarray, block: int, most: int
) -> None:
    difference = data.draw(hnp.arrays(np.float32, 12, elements=any_value))
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)).tolist()
    trained = [slice(*edge) for edge in zip(edges[::2], edges[1::2], strict=True)]
    # In another order, and with numbers between them that belong to nobody.
    numbers: list[float] = []
    pieces = []
    for place in data.draw(st.permutations(trained)):
        numbers += data.draw(st.lists(any_value, max_size=2))
        pieces.append(Piece(place.start, len(numbers), place.stop - place.start))
        numbers += difference[place].tolist()
    whole, parts = (ExactSum.empty(12, MergeScale.for_cohort(most)) for _ in range(2))
    whole.add(difference, mask)
    with patch.object(exact, "_BLOCK", block):
        parts.add_pieces(np.array(numbers, np.float32), pieces, trained)
    assert parts.total.tobytes() == whole.total.tobytes()
    assert parts.trainers.tobytes() == whole.trainers.tobytes()


def test_blocks_of_their_real_size() -> None:
    size = 2 * exact._BLOCK + 5
    difference = np.random.default_rng(0).normal(size=size).astype(np.float32)
    for most in (1, 100):  # by conversion, by the bits
        total, slow = ExactSum.empty(size, MergeScale.for_cohort(most)), SlowSum(size, most)
        total.add(difference, None)
        slow.add(difference, None)
        assert total.total.tolist() == slow.total


@pytest.mark.parametrize("most", [1, 100, 100_000])
def test_the_bound_of_the_fast_way(most: int) -> None:
    scale = MergeScale.for_cohort(most)
    bound = np.float32(2.0 ** (51 - scale.power))
    below = np.nextafter(bound, np.float32(0))
    for value in (bound, below, -bound, -below):
        if abs(value) < 64:
            total, slow = ExactSum.empty(1, scale), SlowSum(1, most)
            total.add(np.full(1, value), None)
            slow.add(np.full(1, value), None)
            assert total.total.tolist() == slow.total


@given(hnp.arrays(np.float32, st.integers(0, 9), elements=any_value), cohorts)
def test_a_check_tells_which_way_is_right(found: np.ndarray, most: int) -> None:
    scale = MergeScale.for_cohort(most)
    largest = float(np.abs(found).max(initial=0))
    said = scale.check(found)
    assert largest <= said < 64
    assert (said < scale.near) == (largest < scale.near)


def total_of(some: Updates, most: int) -> ExactSum:
    total = ExactSum.empty(SIZE, MergeScale.for_cohort(most))
    for difference, mask in some:
        total.add(difference, mask)
    return total


@given(updates, st.data())
def test_any_order_and_any_partition_give_the_same_bytes(
    some: Updates, data: st.DataObject
) -> None:
    heads = np.linspace(-1, 1, SIZE, dtype=np.float32)
    expected = total_of(some, len(some)).apply(heads)
    shuffled = data.draw(st.permutations(some))
    cut = data.draw(st.integers(0, len(some)))
    first, second = total_of(shuffled[:cut], len(some)), total_of(shuffled[cut:], len(some))
    second.combine(first)
    assert second.apply(heads).tobytes() == expected.tobytes()


@given(updates)
def test_it_is_the_float64_mean(some: Updates) -> None:
    heads = np.linspace(-1, 1, SIZE, dtype=np.float32)
    trainers = np.sum([np.ones(SIZE) if mask is None else mask for _, mask in some], axis=0)
    summed = np.sum(
        [d.astype(np.float64) * (1 if mask is None else mask) for d, mask in some], axis=0
    )
    total = total_of(some, len(some))
    mean = np.ldexp(total.total.astype(np.float64), -total.scale.power)
    np.testing.assert_allclose(mean, summed, rtol=1e-9, atol=1e-9)
    merged = total.apply(heads)
    expected = heads.astype(np.float64) + summed / np.maximum(trainers, 1)
    np.testing.assert_allclose(merged, expected, rtol=2e-7, atol=2e-7)
    assert merged[trainers == 0].tobytes() == heads[trainers == 0].tobytes()


def test_a_number_nobody_trained_keeps_its_bits() -> None:
    heads = np.array([-0.0, 1e-42, 3.5], np.float32)
    total = ExactSum.empty(3, MergeScale.for_cohort(2))
    total.add(np.ones(3, np.float32), np.array([False, False, True]))
    merged = total.apply(heads)
    assert merged[:2].tobytes() == heads[:2].tobytes()
    assert merged[2] == np.float32(4.5)


@pytest.mark.parametrize("bad", [64.0, -64.0, 1e30, np.inf, -np.inf, np.nan])
def test_saturation_is_refused_and_changes_nothing(bad: float) -> None:
    total = total_of([(np.ones(SIZE, np.float32), None)], 3)
    before = total.total.tobytes(), total.trainers.tobytes()
    difference = np.zeros(SIZE, np.float32)
    difference[3] = bad
    with pytest.raises(NumericsError, match="expected numbers below 64"):
        total.add(difference, None)
    assert (total.total.tobytes(), total.trainers.tobytes()) == before


@pytest.mark.parametrize("bad", [64.0, -64.0, np.inf, -np.inf, np.nan, "signalling NaN"])
@pytest.mark.parametrize("place", [0, 4, 5])
def test_a_refused_piece_leaves_no_trace_of_those_before_it(bad: float | str, place: int) -> None:
    total = total_of([(np.ones(SIZE, np.float32), None)], 3)
    before = total.total.tobytes(), total.trainers.tobytes()
    difference = np.ones(SIZE, np.float32)
    difference[place] = 0 if isinstance(bad, str) else bad
    if isinstance(bad, str):
        difference.view(np.uint32)[place] = 0x7FA00000
    whole = [slice(0, SIZE)]
    with (
        patch.object(exact, "_BLOCK", 2),
        pytest.raises(NumericsError, match="expected numbers below 64"),
    ):
        total.add_pieces(difference, [Piece(3, 0, 3), Piece(0, 3, 2)], whole)
    with pytest.raises(NumericsError):
        total.add(difference, np.zeros(SIZE, np.bool_))  # masked: refused all the same
    assert (total.total.tobytes(), total.trainers.tobytes()) == before


def test_pieces_outside_of_the_sum_are_refused_and_change_nothing() -> None:
    total = total_of([], 3)
    ones = np.ones(2, np.float32)
    for piece, place in [
        (Piece(SIZE - 1, 0, 2), slice(0, 1)),
        (Piece(-1, 0, 2), slice(0, 1)),
        (Piece(0, 1, 2), slice(0, 1)),
        (Piece(0, -1, 2), slice(0, 1)),
        (Piece(0, 0, 2), slice(5, SIZE + 1)),
        (Piece(0, 0, 2), slice(-1, 2)),
    ]:
        with pytest.raises(ValueError, match="ends behind the 6 numbers"):
            total.add_pieces(ones, [Piece(2, 0, 1), piece], [place])
    with pytest.raises(ValueError, match="numbers for a sum"):
        total.add(ones, None)
    assert not total.total.any()
    assert not total.trainers.any()


@given(st.integers(1, 100_000))
def test_a_scale_knows_how_many_devices_it_holds(devices: int) -> None:
    scale = MergeScale.for_cohort(devices)
    assert devices <= scale.most_devices < 2 * devices
    assert MergeScale.for_cohort(scale.most_devices) == scale


@given(st.integers(1, 100_000))
def test_the_largest_cohort_of_the_largest_numbers_does_not_overflow(devices: int) -> None:
    scale = MergeScale.for_cohort(devices)
    largest = int(
        np.rint(np.ldexp(float(np.nextafter(np.float32(64), np.float32(0))), scale.power))
    )
    assert devices * largest < 2**63
    assert devices * 2 ** (scale.power + scale.bound_exponent) > 2**60, "no finer than it can be"


def test_sums_of_different_scales_do_not_mix() -> None:
    with pytest.raises(ValueError, match="cannot be added"):
        total_of([], 2).combine(total_of([], 9))


def test_an_empty_cohort_is_refused() -> None:
    with pytest.raises(ValueError, match="cohort of 0"):
        MergeScale.for_cohort(0)
