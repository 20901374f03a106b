"""The robust rules: against byzfl, against numpy float64, and in any order."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from ravan_edge.merge import MergeScale
from ravan_edge.merge.robust import (
    blocks,
    coordinate_median,
    geometric_median,
    krum,
    multi_krum,
    products,
    trimmed_mean,
)
from ravan_edge.merge.robust.geometric_median import SMOOTHING, median_weights
from ravan_edge.merge.robust.products import scalar_products
from tests.byzfl_rules import byzfl_rules

Rule = Callable[[NDArray[np.float32]], NDArray[np.float64]]

values = st.one_of(
    st.floats(-63, 63, width=32),
    st.floats(-1, 1, width=32),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-30]),
)


def rows(least: int) -> st.SearchStrategy[NDArray[np.float32]]:
    shapes = st.tuples(st.integers(least, 9), st.integers(1, 40))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=values))


def scale_of(found: NDArray[np.float32]) -> MergeScale:
    return MergeScale.for_cohort(len(found))


def every_rule(devices: int) -> list[Rule]:
    most = (devices - 1) // 2
    found: list[Rule] = [
        coordinate_median,
        geometric_median,
        lambda x: trimmed_mean(x, most, scale_of(x)),
    ]
    if devices >= 3:
        bears = (devices - 3) // 2
        found += [lambda x: krum(x, bears), lambda x: multi_krum(x, bears, scale_of(x))]
    return found


@given(rows(1), st.randoms(use_true_random=False), st.integers(16, 200))
def test_the_order_of_the_devices_changes_no_bit(
    found: NDArray[np.float32], random: object, block: int
) -> None:
    order = list(range(len(found)))
    random.shuffle(order)  # type: ignore[attr-defined]
    for rule in every_rule(len(found)):
        expected = rule(found).tobytes()
        with patch.object(blocks, "_BLOCK", block), patch.object(blocks, "_MOST_THREADS", 1):
            assert rule(found[order]).tobytes() == expected


@given(rows(1))
def test_the_median_is_numpys(found: NDArray[np.float32]) -> None:
    expected = np.median(found.astype(np.float64), axis=0)
    np.testing.assert_array_equal(coordinate_median(found), expected)


@given(st.data(), rows(1))
def test_the_trimmed_mean_is_the_exact_mean_of_what_is_left(
    data: st.DataObject, found: NDArray[np.float32]
) -> None:
    trimmed = data.draw(st.integers(0, (len(found) - 1) // 2))
    scale = data.draw(st.sampled_from([MergeScale.for_cohort(n) for n in (9, 100, 1 << 20)]))
    result = trimmed_mean(found, trimmed, scale)
    for column, got in zip(found.T.tolist(), result.tolist(), strict=True):
        left = sorted(column)[trimmed : len(column) - trimmed]
        total = sum(round(Fraction(x) * 2**scale.power) for x in left)
        assert got == float(total) * 2.0**-scale.power / len(left)


@given(rows(3))
def test_krum_chooses_as_its_paper_says(found: NDArray[np.float32]) -> None:
    bears = (len(found) - 3) // 2
    exact = [[Fraction(x) for x in row] for row in found.tolist()]
    scores = []
    for one in range(len(exact)):
        distances = sorted(
            sum((a - b) ** 2 for a, b in zip(exact[one], other, strict=True))
            for number, other in enumerate(exact)
            if number != one
        )
        scores.append(float(sum(distances[: len(exact) - bears - 2])))
    chosen = krum(found, bears)
    score = min(s for s, row in zip(scores, found, strict=True) if (row == chosen).all())
    # The vectors are rounded to 20 bits below their largest number before their distances are taken.
    slack = 2.0**-16 * float(np.square(found.astype(np.float64)).sum(axis=1).max())
    assert score <= min(scores) + slack


@given(rows(3))
def test_multi_krum_of_all_is_the_exact_mean(found: NDArray[np.float32]) -> None:
    scale = scale_of(found)
    everything = multi_krum(found, 0, scale)
    assert everything.tobytes() == trimmed_mean(found, 0, scale).tobytes()


def distance_sum(found: NDArray[np.float32], z: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(found.astype(np.float64) - z, axis=1).sum())


@given(rows(1))
def test_no_point_near_the_geometric_median_is_nearer_to_all(found: NDArray[np.float32]) -> None:
    z = geometric_median(found)
    best = distance_sum(found, z)
    size = float(np.abs(found).max()) + 1e-9
    generator = np.random.default_rng(0)
    others = [*found.astype(np.float64), *(z + generator.normal(0, size / 20, (20, len(z))))]
    for other in others:
        assert best <= distance_sum(found, other) * (1 + 1e-6) + 1e-5 * len(found)


@pytest.mark.parametrize("devices", [1, 2, 3, 7, 12])
def test_the_geometric_median_adds_as_the_page_says(devices: int) -> None:
    """Bit by bit, from floats as Python has them: docs/artifact.md, section 9."""
    found = np.random.default_rng(devices).normal(0, 0.1, (devices, 50)).astype("<f4")
    ordered = sorted(found, key=lambda row: row.tobytes())
    weights = median_weights(scalar_products(ordered), SMOOTHING, None).tolist()
    expected = []
    for number in range(50):
        terms = [weight * float(row[number]) for weight, row in zip(weights, ordered, strict=True)]
        while len(terms) > 1:
            half = len(terms) // 2
            last = terms[-half:]
            terms = [each + (last[i] if i < half else 0.0) for i, each in enumerate(terms[:-half])]
        expected.append(terms[0])
    assert geometric_median(found).tolist() == expected


def test_the_geometric_median_is_the_converged_one() -> None:
    generator = np.random.default_rng(1)
    found = generator.normal(0, 0.01, (21, 300)).astype(np.float32)
    found[:5] += 1.0
    wide = found.astype(np.float64)
    z = wide.mean(axis=0)
    for _ in range(20_000):
        b = 1 / np.maximum(1e-6, np.linalg.norm(wide - z, axis=1))
        z = (b[:, None] * wide).sum(axis=0) / b.sum()
    assert np.abs(geometric_median(found) - z).max() < 1e-7


@pytest.mark.parametrize("devices", [7, 20, 33])
@pytest.mark.parametrize("attackers", [0, 3])
def test_every_rule_is_byzfls_at_its_own_parameters(devices: int, attackers: int) -> None:
    """byzfl's Krum has n - f - 1 neighbours, its geometric median three steps with nu 0.1."""
    byzfl, generator = byzfl_rules(), np.random.default_rng(devices)
    found = generator.normal(0, 0.05, (devices, 2000)).astype(np.float32)
    found[:attackers] *= 20
    f, near = max(attackers, 1), devices - max(attackers, 1) - 1
    scale = scale_of(found)
    pairs = [
        (coordinate_median(found), byzfl.Median()),
        (trimmed_mean(found, f, scale), byzfl.TrMean(f)),
        (krum(found, f, neighbours=near), byzfl.Krum(f)),
        (multi_krum(found, f, scale, neighbours=near), byzfl.MultiKrum(f)),
        (geometric_median(found, smoothing=0.1, iterations=3), byzfl.GeometricMedian()),
    ]
    for mine, theirs in pairs:
        np.testing.assert_allclose(mine, theirs(found.astype(np.float64)), rtol=0, atol=1e-6)
        np.testing.assert_allclose(mine, theirs(found), rtol=0, atol=1e-6)


def test_attackers_break_the_mean_and_no_robust_rule() -> None:
    generator = np.random.default_rng(2)
    truth = generator.normal(0, 0.02, 500)
    found = (truth + generator.normal(0, 0.005, (11, 500))).astype(np.float32)
    scale = scale_of(found)
    for attack in (np.full(500, 60.0), -30 * truth, generator.normal(0, 5, 500)):
        attacked = found.copy()
        attacked[[0, 4, 9]] = attack
        broken = np.linalg.norm(trimmed_mean(attacked, 0, scale) - truth)
        for result in (
            coordinate_median(attacked),
            geometric_median(attacked),
            trimmed_mean(attacked, 3, scale),
            krum(attacked, 3),
            multi_krum(attacked, 3, scale),
        ):
            honest = np.linalg.norm(result - truth)
            assert honest < 0.25 * np.linalg.norm(truth)
            assert broken > 5 * honest


@given(rows(1), st.integers(1, 7))
def test_scalar_products_are_the_specification_bit_for_bit(
    found: NDArray[np.float32], block: int
) -> None:
    numbers = found.shape[1]
    bits = min(20, (62 - max(0, (numbers - 1).bit_length())) // 2)
    powers, integers = [], []
    for row in found.tolist():
        largest = max(abs(x) for x in row)
        power = -100
        while largest >= Fraction(2) ** power:
            power += 1
        powers.append(power)
        integers.append([round(Fraction(x) * Fraction(2) ** (bits - power)) for x in row])
    with patch.object(blocks, "_BLOCK", 16 * block):
        got = products.scalar_products(found)
    for i, j in itertools.product(range(len(found)), repeat=2):
        total = sum(a * b for a, b in zip(integers[i], integers[j], strict=True))
        assert got[i, j] == float(total) * 2.0 ** (powers[i] + powers[j] - 2 * bits)


def test_products_of_long_vectors_do_not_overflow() -> None:
    """All numbers as large as they can be, and so many that 20 bits would not fit."""
    largest = np.nextafter(np.float32(64), np.float32(0))
    found = np.full((2, 4_300_000), largest)
    found[1] *= -1
    expected = 4_300_000 * 64.0**2
    np.testing.assert_allclose(
        products.scalar_products(found), [[expected, -expected], [-expected, expected]], rtol=1e-6
    )


@pytest.mark.parametrize("devices", [1, 2])
def test_too_few_devices_are_refused(devices: int) -> None:
    found = np.ones((devices, 3), np.float32)
    with pytest.raises(ValueError, match="Krum for 0 attackers"):
        krum(found, 0)
    with pytest.raises(ValueError, match="cannot be trimmed"):
        trimmed_mean(found, 1, scale_of(found))
