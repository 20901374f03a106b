from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ravan_edge.errors import NumericsError
from ravan_edge.merge import ExactSum, MergeScale

SIZE = 6
values = st.floats(-63.5, 63.5, width=32)
differences = hnp.arrays(np.float32, SIZE, elements=values)
masks = st.one_of(st.none(), hnp.arrays(np.bool_, SIZE))
updates = st.lists(st.tuples(differences, masks), min_size=1, max_size=9)
Updates = list[tuple[np.ndarray, np.ndarray | None]]


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
