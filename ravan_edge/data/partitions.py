"""How training rows are dealt out to simulated devices, and the validation split.

Everything here happens on one machine before a simulation starts. Integers come from the generator
of docs/generator.md; only the gamma variates of a Dirichlet distribution come from numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ravan_edge.errors import UsageError
from ravan_edge.generator import Purpose, Stream

__all__ = [
    "PartitionSpec",
    "PartitionStatistics",
    "describe_partition",
    "parse_partition",
    "partition",
    "validation_split",
]

Labels = NDArray[np.int64] | NDArray[np.int32]

_MAX_DEVICES = 1_000_000
_HINT = "use iid, dirichlet:ALPHA (such as dirichlet:0.3) or column:NAME"


@dataclass(frozen=True, slots=True)
class PartitionSpec:
    """What ``--partition`` asks for.

    Args:
        kind: The rule.
        alpha: Of ``dirichlet``: the concentration of a class; small is uneven.
        column: Of ``column``: the column of natural users.
    """

    kind: Literal["iid", "dirichlet", "column"]
    alpha: float | None = None
    column: str | None = None

    def __str__(self) -> str:
        if self.kind == "dirichlet":
            return f"dirichlet:{self.alpha:g}"
        return f"column:{self.column}" if self.kind == "column" else "iid"


def parse_partition(text: str) -> PartitionSpec:
    """Parse ``iid``, ``dirichlet:ALPHA`` or ``column:NAME``.

    Raises:
        UsageError: None of them, or ALPHA out of range.

    >>> parse_partition("dirichlet:0.3")
    PartitionSpec(kind='dirichlet', alpha=0.3, column=None)
    """
    kind, colon, value = text.partition(":")
    if text == "iid":
        return PartitionSpec("iid")
    if kind == "column" and value:
        return PartitionSpec("column", column=value)
    if kind == "dirichlet" and colon:
        try:
            alpha = float(value)
        except ValueError:
            alpha = -1.0
        if not 1e-3 <= alpha <= 1e6:
            raise UsageError(
                f"ALPHA of dirichlet:ALPHA is {value!r}, expected 0.001 to 1000000",
                where="--partition",
                hint=_HINT,
            )
        return PartitionSpec("dirichlet", alpha=alpha)
    raise UsageError(f"unknown partition {text!r}", where="--partition", hint=_HINT)


def partition(
    labels: Labels,
    users: Sequence[str] | NDArray[np.int32] | None,
    spec: PartitionSpec,
    devices: int | None,
    seed: int,
) -> list[NDArray[np.int64]]:
    """Deal rows out to devices.

    * ``iid``: a seeded permutation of the rows, cut into pieces whose sizes differ by at most one.
    * ``dirichlet``: every device draws its own class proportions, see :func:`_dirichlet`.
    * ``column``: a natural user is a device, in the order of first appearance. With ``devices``
      only the users with the most rows stay (of equal ones those who appear first), in that order.

    Args:
        labels: [rows], class indices.
        users: [rows], names or numbers; needed for ``column`` only.
        spec: The rule.
        devices: How many; None with ``column``: all users.
        seed: The run's seed.

    Returns:
        One ascending int64 array of row numbers per device, some perhaps empty. They are disjoint;
        together they are all rows, unless ``devices`` left users out.

    Raises:
        UsageError: ``devices`` does not fit the rule or the data.
    """
    if devices is not None and not 1 <= devices <= _MAX_DEVICES:
        raise UsageError(
            f"{devices}, expected 1 to {_MAX_DEVICES}",
            where="--devices",
            hint="use another number",
        )
    if spec.kind == "column":
        return _column(users, devices, spec)
    if devices is None:
        raise UsageError(
            f"--partition {spec} needs a number of devices", where="--devices", hint="give one"
        )
    if spec.kind == "iid":
        order = Stream(seed, Purpose.PARTITION).permutation(len(labels))
        return [np.sort(piece) for piece in np.array_split(order, devices)]
    assert spec.alpha is not None  # noqa: S101  (parse_partition sets it)
    return _dirichlet(labels, spec.alpha, devices, seed)


def _column(
    users: Sequence[str] | NDArray[np.int32] | None, devices: int | None, spec: PartitionSpec
) -> list[NDArray[np.int64]]:
    if users is None:
        raise UsageError(
            f"--partition {spec}, but the users were not read from the data",
            where="--partition",
            hint="read the data with that column as user column",
        )
    _, first, codes = np.unique(np.asarray(users), return_index=True, return_inverse=True)
    if devices is not None and devices > len(first):
        raise UsageError(
            f"{devices} devices, but column {spec.column!r} has only {len(first)} users",
            where="--devices",
            hint=f"use at most {len(first)}, or leave --devices out to take all users",
        )
    counts = np.bincount(codes, minlength=len(first))
    chosen = np.lexsort((first, -counts))[:devices]
    chosen = chosen[np.argsort(first[chosen])]
    by_user = np.split(np.argsort(codes, kind="stable"), np.cumsum(counts)[:-1])
    return [by_user[user].astype(np.int64) for user in chosen]


def _dirichlet(labels: Labels, alpha: float, devices: int, seed: int) -> list[NDArray[np.int64]]:
    """Class proportions per device from a Dirichlet distribution, every row dealt exactly once.

    After Hsu, Qi, Brown: "Measuring the effects of non-identical data distribution for federated
    visual classification", 2019: device d draws q_d ~ Dirichlet(alpha L p), with L classes that
    occur and p [L] their shares of the rows. For balanced classes this is Dirichlet(alpha, ...,
    alpha), what "Dirichlet(0.3)" means in the Ravan paper. (Hsu et al. leave out the factor L.)

    1. q_d: L gamma variates of shapes alpha L p by numpy's Generator(Philox(seed)), device by
       device, divided by their sum (p itself, should all be zero).
    2. Rows of a class wait in the order of permutation(rows of the class) of purpose 8, index the
       class.
    3. Devices 0, 1, ... N-1, 0, 1, ... take one row each in turn until none is left, so sizes
       differ by at most one. A device draws the class from q_d restricted to the classes that still
       have rows (if q_d has nothing on them, from the rows that are left), with the next number of
       uniform(rows) of purpose 8, index 1 + the largest label: the first class whose cumulative
       weight exceeds that number times the sum of weights. It takes the class's next row.

    In turn, not one device after the other: otherwise the last devices get what others left over.
    """
    rows = len(labels)
    class_labels, counts = np.unique(labels, return_counts=True)
    if rows == 0:
        return [np.empty(0, dtype=np.int64) for _ in range(devices)]
    waiting = []
    for label in class_labels.tolist():
        members = np.flatnonzero(labels == label)
        order = Stream(seed, Purpose.PARTITION, index=label).permutation(len(members))
        waiting.append(members[order])
    shapes = alpha * len(counts) * counts / rows
    gammas = np.random.Generator(np.random.Philox(key=seed)).gamma(
        shapes, size=(devices, len(counts))
    )
    # Weights need not sum to one. All zero can only be underflow, at tiny shapes.
    weights = np.where(gammas.sum(axis=1, keepdims=True) > 0, gammas, counts / rows)
    uniform = Stream(seed, Purpose.PARTITION, index=int(class_labels[-1]) + 1).uniform(rows)
    tiny = np.finfo(np.float64).tiny  # below it, products are too coarse to compare
    left = counts.astype(np.int64)
    taken: list[list[int]] = [[] for _ in range(devices)]
    for number in range(rows):
        device = number % devices
        cumulative = weights[device].cumsum()
        if cumulative[-1] < tiny:
            cumulative = left.cumsum().astype(np.float64)
        choice = int(cumulative.searchsorted(uniform[number] * cumulative[-1], side="right"))
        taken[device].append(int(waiting[choice][counts[choice] - left[choice]]))
        left[choice] -= 1
        if left[choice] == 0:
            weights[:, choice] = 0.0
    return [np.sort(np.array(mine, dtype=np.int64)) for mine in taken]


def validation_split(
    rows: int, labels: Labels | None, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training and validation rows, both ascending.

    floor(rows * fraction + 1/2) rows go to validation, the first ones in the order of
    permutation(rows) of purpose 7. With labels every class gives its share: rows of the class times
    ``fraction``, rounded down, and the places that are left go to the largest remainders (of equal
    ones to the smaller label). A class always keeps one row for training, so the total may be less.

    Args:
        rows: How many rows there are.
        labels: [rows], or None: not stratified.
        fraction: 0 <= fraction < 1; 0: no validation.
        seed: The run's seed.

    Returns:
        (train, validation), int64 row numbers.

    Raises:
        UsageError: The fraction is out of range.
    """
    if not 0.0 <= fraction < 1.0:
        raise UsageError(
            f"{fraction}, expected at least 0 and less than 1",
            where="--validation",
            hint="use 0.1 for a tenth of the rows",
        )
    order = Stream(seed, Purpose.VALIDATION_SPLIT).permutation(rows)
    total = int(np.floor(rows * fraction + 0.5))
    chosen = np.zeros(rows, dtype=np.bool_)
    if labels is None or rows == 0:
        chosen[order[: min(total, max(rows - 1, 0))]] = True
    else:
        _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
        share = counts * fraction
        quota = np.floor(share).astype(np.int64)
        by_remainder = np.argsort(quota - share, kind="stable")
        quota[by_remainder[: max(total - int(quota.sum()), 0)]] += 1
        quota = np.minimum(quota, counts - 1)
        # The rank of each row within its class, in the order of the permutation.
        grouped = order[np.argsort(codes[order], kind="stable")]
        begins = np.repeat(np.cumsum(counts) - counts, counts)
        rank = np.arange(rows) - begins
        chosen[grouped[rank < np.repeat(quota, counts)]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


@dataclass(frozen=True, slots=True, eq=False)
class PartitionStatistics:
    """How data lie on devices, for a report.

    Args:
        rows: int64 [devices], rows of each device.
        classes: int64 [devices], different classes of each device.
        counts: int64 [devices, labels], rows of each device and class.
        empty: How many devices have no rows; they are never sampled.
    """

    rows: NDArray[np.int64]
    classes: NDArray[np.int64]
    counts: NDArray[np.int64]
    empty: int


def describe_partition(
    parts: Sequence[NDArray[np.int64]], labels: Labels, label_count: int
) -> PartitionStatistics:
    """Count rows and classes of each device.

    Args:
        parts: What :func:`partition` returned.
        labels: [rows], each 0 .. label_count - 1.
        label_count: How many labels the artifact has.
    """
    counts = np.zeros((len(parts), label_count), dtype=np.int64)
    for device, part in enumerate(parts):
        counts[device] = np.bincount(labels[part], minlength=label_count)
    rows = counts.sum(axis=1)
    return PartitionStatistics(
        rows=rows,
        classes=np.count_nonzero(counts, axis=1),
        counts=counts,
        empty=int((rows == 0).sum()),
    )
