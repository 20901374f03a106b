"""Weights in the exact merge: against integers and fractions bit for bit, and against float64."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ravan_edge.merge import (
    FULL_FACTOR,
    MOST_COUNTED,
    PLAIN,
    ExactSum,
    MergeScale,
    Weight,
    exact,
    staleness_factor,
)
from tests.merge.test_exact import any_value

SIZE = 5
counts = st.integers(1, 1 << 20) | st.sampled_from([1, 2, 3, 800, 1 << 20])
factors = st.integers(0, 1000).map(staleness_factor) | st.integers(1, FULL_FACTOR)
weights = st.builds(Weight, counts, factors)
differences = hnp.arrays(np.float32, SIZE, elements=any_value)
masks = st.none() | hnp.arrays(np.bool_, SIZE)
updates = st.lists(st.tuples(differences, masks, weights), min_size=1, max_size=7)
Updates = list[tuple[np.ndarray, np.ndarray | None, Weight]]
HEADS = np.linspace(-1, 1, SIZE, dtype=np.float32)


class SlowSum:
    """Section 9 of docs/artifact.md, number by number, in integers and fractions."""

    def __init__(self, most: int) -> None:
        self.power = 62 - 6 - min(k for k in range(64) if 2**k >= most)
        self.total, self.counted = [0] * SIZE, [0] * SIZE

    def add(self, difference: np.ndarray, mask: np.ndarray | None, weight: Weight) -> None:
        for i, D in enumerate(difference.tolist()):
            if mask is None or mask[i]:
                weighted = Fraction(float(Fraction(D) * weight.count * weight.factor))
                self.total[i] += round(weighted * Fraction(2) ** (self.power - 32))
                self.counted[i] += weight.count

    def apply(self, heads: np.ndarray) -> np.ndarray:
        merged = heads.copy()
        for i, (S, count) in enumerate(zip(self.total, self.counted, strict=True)):
            if count:
                mean = float(Fraction(float(S)) / Fraction(2) ** self.power) / count
                merged[i] = np.float32(float(heads[i]) + mean)
        return merged


def most_of(some: Updates) -> int:
    return sum(weight.count for _, _, weight in some)


def total_of(some: Updates, most: int) -> ExactSum:
    total = ExactSum.empty(SIZE, MergeScale.for_cohort(most))
    for update in some:
        total.add(*update)
    return total


@given(updates, st.integers(1, 4), st.integers(0, 1 << 22))
def test_it_is_the_specification_bit_for_bit(some: Updates, block: int, more: int) -> None:
    most = most_of(some) + more
    slow = SlowSum(most)
    for update in some:
        slow.add(*update)
    with patch.object(exact, "_BLOCK", block):
        total = total_of(some, most)
        merged = total.apply(HEADS)
    assert total.total.tolist() == slow.total
    assert total.trainers.tolist() == slow.counted
    assert merged.tobytes() == slow.apply(HEADS).tobytes()
    assert max(map(abs, slow.total)) <= 2**62


@given(updates, st.data())
def test_any_order_and_any_partition_give_the_same_bytes(
    some: Updates, data: st.DataObject
) -> None:
    most = most_of(some)
    expected = total_of(some, most).apply(HEADS)
    shuffled = data.draw(st.permutations(some))
    cut = data.draw(st.integers(0, len(some)))
    first, second = total_of(shuffled[:cut], most), total_of(shuffled[cut:], most)
    second.combine(first)
    assert second.apply(HEADS).tobytes() == expected.tobytes()


moderate = st.floats(-1, 1, width=32)
staleness = st.integers(0, 50)
rows = st.integers(1, 10_000)


@given(
    st.lists(
        st.tuples(hnp.arrays(np.float32, SIZE, elements=moderate), masks, rows, staleness),
        min_size=1,
        max_size=7,
    )
)
def test_it_is_the_float64_formula(
    some: list[tuple[np.ndarray, np.ndarray | None, int, int]],
) -> None:
    """H + sum w n D / sum n over those that trained a number, with w = 1 / sqrt(1 + t)."""
    weighted = [(d, mask, Weight(n, staleness_factor(t))) for d, mask, n, t in some]
    total = total_of(weighted, most_of(weighted))
    trained = np.array([np.ones(SIZE, bool) if mask is None else mask for _, mask, _, _ in some])
    n = trained * np.array([[float(each[2])] for each in some])
    w = np.array([[1 / np.sqrt(1 + each[3])] for each in some])
    D = np.array([each[0] for each in some], np.float64)
    mean = (w * n * D).sum(axis=0) / np.maximum(n.sum(axis=0), 1)
    found = np.ldexp(total.total.astype(np.float64), -total.scale.power)
    np.testing.assert_allclose(found / np.maximum(total.trainers, 1), mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(total.apply(HEADS), HEADS + mean, rtol=2e-7, atol=2e-7)


@given(differences, masks, st.integers(1, 100_000))
def test_the_weight_of_an_update_that_counts_once_changes_no_bit(
    difference: np.ndarray, mask: np.ndarray | None, most: int
) -> None:
    plain, weighted = (ExactSum.empty(SIZE, MergeScale.for_cohort(most)) for _ in range(2))
    plain.add(difference, mask)
    weighted.add(difference, mask, Weight(1, FULL_FACTOR))  # equal to PLAIN, and not it
    assert Weight() == PLAIN
    assert plain.total.tobytes() == weighted.total.tobytes()
    assert plain.trainers.tobytes() == weighted.trainers.tobytes()


def test_the_largest_numbers_with_the_largest_weights_do_not_overflow() -> None:
    largest = np.full(SIZE, np.nextafter(np.float32(64), np.float32(0)))
    total = ExactSum.empty(SIZE, MergeScale.for_cohort(MOST_COUNTED))
    for _ in range(2):
        total.add(largest, None, Weight(MOST_COUNTED // 2 - 1))
        total.add(-largest, None, Weight(1, 1))
    assert (total.total > 2**61).all()
    assert total.trainers.tolist() == [MOST_COUNTED] * SIZE


def test_more_than_can_be_counted_is_refused() -> None:
    assert MergeScale.for_cohort(MOST_COUNTED).power == 29
    with pytest.raises(ValueError, match="expected 1 to 134217728"):
        MergeScale.for_cohort(MOST_COUNTED + 1)


@given(st.integers(0, 1 << 40))
def test_the_factor_is_the_nearest_integer(t: int) -> None:
    """|w - x| <= 1/2 with x = 2^32 / sqrt(1 + t), squared so that only integers are compared."""
    w, square = staleness_factor(t), Fraction(2**64, 1 + t)
    assert (w - Fraction(1, 2)) ** 2 <= square <= (w + Fraction(1, 2)) ** 2


def test_factors_of_the_specification() -> None:
    text = (Path(__file__).parents[2] / "docs" / "artifact.md").read_text("utf-8")
    found = re.search(r"^\| t \|(.*)\|\n\|[-|]*\|\n\| w \|(.*)\|$", text, re.MULTILINE)
    assert found is not None
    stale, factor = ([int(word) for word in row.split("|")] for row in found.groups())
    assert [staleness_factor(t) for t in stale] == factor
    assert factor[0] == FULL_FACTOR
    assert len(factor) == 6


def test_the_factor_never_becomes_nothing() -> None:
    assert staleness_factor(1 << 100) == 1
    with pytest.raises(ValueError, match="staleness -1"):
        staleness_factor(-1)


@pytest.mark.parametrize(
    "values", [(0, 1), (-1, 1), (MOST_COUNTED + 1, 1), (1, 0), (1, FULL_FACTOR + 1)]
)
def test_a_weight_out_of_its_range_is_refused(values: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected 1 to"):
        Weight(*values)
