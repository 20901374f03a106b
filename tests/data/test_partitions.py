"""Rows on devices: disjoint, complete, seeded, and as uneven as asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ravan_edge.data import describe_partition, parse_partition, partition, validation_split
from ravan_edge.errors import UsageError

labels_arrays = st.lists(st.integers(0, 6), max_size=120).map(
    lambda labels: np.array(labels, dtype=np.int64)
)


def everything(parts: list[NDArray[np.int64]]) -> list[int]:
    return sorted(index for part in parts for index in part.tolist())


@given(
    labels=labels_arrays,
    spec=st.sampled_from(["iid", "dirichlet:0.001", "dirichlet:0.3", "dirichlet:1000", "column:u"]),
    devices=st.integers(1, 40),
    seed=st.integers(0, 2**64 - 1),
)
def test_every_row_is_on_exactly_one_device(
    labels: NDArray[np.int64], spec: str, devices: int, seed: int
) -> None:
    users = [f"user {label % 3}" for label in labels.tolist()]
    wanted = None if spec == "column:u" else devices
    parts = partition(labels, users, parse_partition(spec), wanted, seed)
    assert everything(parts) == list(range(len(labels)))
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    again = partition(labels, users, parse_partition(spec), wanted, seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    if spec == "column:u":
        assert len(parts) == len(set(users))
        assert all(len({users[row] for row in part}) == 1 for part in parts)
    else:
        assert len(parts) == devices
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_another_seed_is_another_partition() -> None:
    labels = np.arange(200) % 5
    for spec in ("iid", "dirichlet:0.3"):
        first, second = (partition(labels, None, parse_partition(spec), 4, seed) for seed in (0, 1))
        assert not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_alpha_is_how_even_the_classes_are() -> None:
    labels = np.repeat(np.arange(20), 200)
    effective = []
    for alpha in ("0.05", "0.3", "3", "100000"):
        parts = partition(labels, None, parse_partition(f"dirichlet:{alpha}"), 20, 0)
        share = describe_partition(parts, labels, 20).counts / 200
        effective.append(float((1 / (share**2).sum(axis=1)).mean()))
    assert effective == sorted(effective)
    assert effective[0] < 5
    # Dirichlet(0.3, ..., 0.3) of 20 classes: 1 / E[sum q^2] = (20 * 0.3 + 1) / (0.3 + 1).
    assert effective[1] == pytest.approx(7 / 1.3, rel=0.35)
    assert effective[-1] > 18


def test_golden_partitions() -> None:
    # The values were printed by these very calls, with numpy 2.4. numpy promises no fixed stream of
    # gamma variates: should a version change it, old dirichlet runs cannot be repeated with it.
    def rows_of(spec: str) -> list[list[int]]:
        parts = partition(np.arange(12) % 3, None, parse_partition(spec), 3, 0)
        return [part.tolist() for part in parts]

    assert rows_of("dirichlet:0.3") == [[2, 5, 8, 11], [0, 1, 3, 6], [4, 7, 9, 10]]
    assert rows_of("iid") == [[1, 4, 8, 11], [0, 3, 6, 9], [2, 5, 7, 10]]


def test_natural_users() -> None:
    users = ["ann", "bob", "ann", "cy", "bob", "dan"]
    labels = np.zeros(6, dtype=np.int64)
    spec = parse_partition("column:who")
    assert [part.tolist() for part in partition(labels, users, spec, None, 0)] == [
        [0, 2], [1, 4], [3], [5],
    ]  # fmt: skip
    # The two largest stay, then of equal ones the first.
    assert [part.tolist() for part in partition(labels, users, spec, 3, 0)] == [[0, 2], [1, 4], [3]]
    numbers = np.array([5, 3, 5, 9, 3, 1], dtype=np.int32)
    assert [part.tolist() for part in partition(labels, numbers, spec, 2, 0)] == [[0, 2], [1, 4]]
    with pytest.raises(UsageError, match="has only 4 users"):
        partition(labels, users, spec, 5, 0)
    with pytest.raises(UsageError, match="users were not read"):
        partition(labels, None, spec, None, 0)


def test_more_devices_than_rows() -> None:
    labels = np.array([0, 1])
    for spec in ("iid", "dirichlet:1"):
        parts = partition(labels, None, parse_partition(spec), 5, 0)
        statistics = describe_partition(parts, labels, 3)
        assert statistics.empty == 3
        assert statistics.rows.sum() == 2
        assert statistics.counts.shape == (5, 3)
        assert (statistics.classes <= 1).all()


def test_describe_counts_rows_and_classes() -> None:
    statistics = describe_partition([np.array([0, 1, 2]), np.array([3])], np.array([0, 1, 1, 2]), 4)
    assert statistics.rows.tolist() == [3, 1]
    assert statistics.classes.tolist() == [2, 1]
    assert statistics.counts.tolist() == [[1, 2, 0, 0], [0, 0, 1, 0]]
    assert statistics.empty == 0


@pytest.mark.parametrize("text", ["iid", "dirichlet:0.3", "dirichlet:100", "column:user id"])
def test_a_specification_prints_as_it_is_typed(text: str) -> None:
    assert str(parse_partition(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "IID", "iid:1", "dirichlet", "dirichlet:", "dirichlet:0", "dirichlet:-1", "dirichlet:nan",
     "dirichlet:inf", "dirichlet:x", "column", "column:", "label:2"],
)  # fmt: skip
def test_bad_specifications(text: str) -> None:
    with pytest.raises(UsageError, match=r"--partition.*iid, dirichlet:ALPHA.*or column:NAME"):
        parse_partition(text)


def test_numbers_of_devices_out_of_range() -> None:
    labels = np.zeros(3, dtype=np.int64)
    for devices in (0, -1, 10**7):
        with pytest.raises(UsageError, match="--devices"):
            partition(labels, None, parse_partition("iid"), devices, 0)
    with pytest.raises(UsageError, match="needs a number of devices"):
        partition(labels, None, parse_partition("iid"), None, 0)


@given(
    labels=labels_arrays,
    fraction=st.floats(0, 0.99),
    seed=st.integers(0, 2**64 - 1),
    stratified=st.booleans(),
)
def test_validation_split_covers_and_stratifies(
    labels: NDArray[np.int64], fraction: float, seed: int, stratified: bool
) -> None:
    rows = len(labels)
    train, validation = validation_split(rows, labels if stratified else None, fraction, seed)
    assert everything([train, validation]) == list(range(rows))
    assert len(validation) <= np.floor(rows * fraction + 0.5)
    if rows:
        assert len(train) > 0
    if stratified:
        assert set(labels[train].tolist()) == set(labels.tolist())
        for label in set(labels.tolist()):
            count = int((labels == label).sum())
            assert abs(int((labels[validation] == label).sum()) - count * fraction) <= 1
    again = validation_split(rows, labels if stratified else None, fraction, seed)
    assert np.array_equal(train, again[0])


def test_validation_split_takes_its_share() -> None:
    labels = np.repeat(np.arange(10), 50)
    train, validation = validation_split(500, labels, 0.1, 3)
    assert len(train) == 450
    assert np.bincount(labels[validation]).tolist() == [5] * 10
    assert validation_split(500, labels, 0.0, 3)[1].size == 0
    for fraction in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match="--validation"):
            validation_split(500, labels, fraction, 3)
