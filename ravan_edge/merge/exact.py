"""The exact mean: integer sums, so that the order of arrival cannot matter (docs/artifact.md, section 9)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ravan_edge.errors import NumericsError
from ravan_edge.merge.weight import MOST_COUNTED, PLAIN, Weight
from ravan_edge.methods.layout import Piece, Vector

__all__ = ["DEFAULT_BOUND_EXPONENT", "ExactSum", "MergeScale"]

DEFAULT_BOUND_EXPONENT = 6
_SUM_BITS = 62
_HALF = 1 << 63
# Numbers worked on at a time: few enough that they, their float64 scratch and their part of the sum
# (1.3 MB together) stay near the processor, so many that numpy's cost per call is small beside them.
_BLOCK = 65_536


class _Scratch(threading.local):
    """Room for one block, kept: memory that is new to the process costs more to touch than to use."""

    def __init__(self) -> None:
        self.wide = np.empty(_BLOCK, np.float64)
        self.terms = np.empty(_BLOCK, np.int64)


_SCRATCH = _Scratch()


@dataclass(frozen=True, slots=True)
class MergeScale:
    """The fixed-point scale of one round: q = round(D n w * 2^power), |D| < 2^bound_exponent.

    >>> MergeScale.for_cohort(3).power
    54
    """

    power: int
    bound_exponent: int = DEFAULT_BOUND_EXPONENT

    @classmethod
    def for_cohort(
        cls, most_devices: int, bound_exponent: int = DEFAULT_BOUND_EXPONENT
    ) -> MergeScale:
        """The finest scale with which ``most_devices`` differences cannot overflow an int64.

        Args:
            most_devices: How many of them, or the most that their counts can add up to.
            bound_exponent: Of the bound on |D|.

        Raises:
            ValueError: There is none, or they are more than ``MOST_COUNTED``.
        """
        if not 1 <= most_devices <= MOST_COUNTED:
            raise ValueError(f"a cohort of {most_devices} devices, expected 1 to {MOST_COUNTED}")
        return cls(_SUM_BITS - bound_exponent - (most_devices - 1).bit_length(), bound_exponent)

    @property
    def most_devices(self) -> int:
        """How many differences (or counts) a sum of this scale holds for certain: N rounded up to 2^k.

        >>> MergeScale.for_cohort(100).most_devices
        128
        """
        return 1 << (_SUM_BITS - self.bound_exponent - self.power)

    def check(self, values: Vector, weight: Weight = PLAIN) -> float:
        """Refuse numbers that are not below the bound.

        Args:
            values: D, float32 [any].
            weight: How much they count.

        Returns:
            No |D| is larger. It is the largest one, or near enough to it to tell that :meth:`rounded`
            can take its short way with D n w.

        Raises:
            NumericsError: A number is not below the bound, or NaN.
        """
        bound = 2.0**self.bound_exponent
        enough = min(bound, self.near / (weight.count * weight.share))
        # All exponents or'ed together are no less than each of them: for numbers of usual size, below 1,
        # they say that none reaches 2, in one pass. Where that does not help, it is not looked at.
        if enough >= 2:
            bits = int(np.bitwise_or.reduce(values.view(np.uint32), axis=None))
            no_more = 2.0 ** (
                (bits >> 23 & 0xFF) - 126
            )  # 2^129 where there is a NaN or an infinity
            if no_more <= enough:
                return no_more * (1 - 2.0**-24)  # the float32 before it
        with np.errstate(invalid="ignore"):  # a signalling NaN is refused like any other
            high, low = float(values.max(initial=0.0)), float(values.min(initial=0.0))
        largest = max(high, -low)  # NaN where both are, which is when there is one
        if not largest < bound:  # also true for NaN
            raise NumericsError(
                f"an update holds {largest}, expected numbers below {bound:g}",
                hint="lower the learning rate",
            )
        return largest

    @property
    def near(self) -> float:
        """Numbers below it can be rounded by adding :attr:`middle`."""
        return 2.0 ** (51 - self.power)

    @property
    def middle(self) -> np.float64:
        """c of :meth:`rounded`."""
        return np.float64(1.5 * 2.0 ** (52 - self.power))

    def bits_of_middle(self, count: int) -> np.int64:
        """count bits(c) modulo 2^64."""
        return np.int64((count * int(self.middle.view(np.int64)) + _HALF) % (2 * _HALF) - _HALF)

    def rounded(
        self, wide: NDArray[np.float64], largest: float, room: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """q = round_half_even(x 2^p), int64.

        A float64 between 2^(52-p) and 2^(53-p) has a spacing of 2^-p, and the bits of two such numbers,
        read as integers, differ by as many as there are steps between them. So for |x| < 2^(51-p) (4,
        for 100 devices) the processor's own rounding does it: q = bits(x + c) - bits(c), c = 1.5 * 2^(52-p).
        Larger numbers are multiplied, rounded and converted, which takes twice as long.

        Args:
            wide: x, float64; overwritten.
            largest: No |x| is larger.
            room: Where the result may be written, of the same shape.

        Returns:
            In the memory of ``wide`` or of ``room``, or new.
        """
        if largest < self.near:
            np.add(wide, self.middle, out=wide)
            q = wide.view(np.int64)
            return np.subtract(q, self.middle.view(np.int64), out=q)
        np.multiply(wide, 2.0**self.power, out=wide)
        np.rint(wide, out=wide)
        q = np.empty(wide.shape, np.int64) if room is None else room
        np.copyto(q, wide, casting="unsafe")
        return q

    def mean(
        self, values: Vector, largest: float, axis: int, wide: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The exact mean of values below the bound, float32 [any, any], along an axis.

        S = sum of round_half_even(x 2^p); float64(S) 2^-p / how many.

        Args:
            values: Float32 [any, any].
            largest: No |x| is larger.
            axis: Along which.
            wide: Room of the same shape, overwritten.
        """
        count = values.shape[axis]
        if largest < self.near:  # as in :meth:`rounded`, without a pass of its own
            np.copyto(wide, values)
            wide += self.middle
            total = wide.view(np.int64).sum(axis=axis)  # modulo 2^64, in which S has one place
            total -= self.bits_of_middle(count)
        else:
            np.copyto(wide, values)
            total = self.rounded(wide, largest).sum(axis=axis)
        return self.divided(total, count)

    def divided(
        self, total: NDArray[np.int64], count: int | NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """float64(S) 2^-p / count, each operation rounded by itself.

        Args:
            total: S, int64 [any].
            count: How many were added, at least 1: of all numbers, or int32 [any].
        """
        mean: NDArray[np.float64] = total.astype(np.float64)
        mean *= 2.0**-self.power
        mean /= count
        return mean


@dataclass(frozen=True)
class ExactSum:
    """A running sum of differences; one accumulator, whatever the number of devices.

    Attributes:
        scale: The round's fixed-point scale.
        trainers: Int32 [parameters], how many devices trained each number, each as often as it counts.
    """

    scale: MergeScale
    trainers: NDArray[np.int32]
    _sum: NDArray[np.int64]
    # Ranges of the sum, and how often bits(c) is still in them: subtracted once, not for each difference.
    _owed: Counter[tuple[int, int]] = field(default_factory=Counter)

    @classmethod
    def empty(cls, parameters: int, scale: MergeScale) -> ExactSum:
        """The sum of no differences."""
        return cls(scale, np.zeros(parameters, np.int32), np.zeros(parameters, np.int64))

    @property
    def total(self) -> NDArray[np.int64]:
        """Int64 [parameters], the sum of the scaled differences."""
        for (start, stop), count in self._owed.items():  # modulo 2^64, in which S has one place
            self._sum[start:stop] -= self.scale.bits_of_middle(count)
        self._owed.clear()
        return self._sum

    def add(
        self, difference: Vector, mask: NDArray[np.bool_] | None, weight: Weight = PLAIN
    ) -> None:
        """Add one device's difference, in place.

        Args:
            difference: Float32 [parameters].
            mask: Bool [parameters], which numbers it trained; None: all of them.
            weight: How much it counts. The caller keeps to the scale: all counts of a sum together are
                at most its ``most_devices``.

        Raises:
            NumericsError: A number is NaN, infinite or not below the bound. The sum is unchanged.
            ValueError: It has another size than the sum, which is unchanged.
        """
        if difference.shape != self._sum.shape:
            raise ValueError(f"{difference.shape} numbers for a sum of {self._sum.shape}")
        if mask is None:
            whole = slice(0, len(difference))
            self.add_pieces(difference, [Piece(0, 0, len(difference))], [whole], weight)
            return
        largest = self.scale.check(difference, weight)  # also of what is masked: NaN times 0 is NaN
        masked = np.multiply(difference, mask)
        self._add_block_by_block(masked, [Piece(0, 0, len(masked))], largest, weight)
        counted = mask if weight.count == 1 else mask * np.int32(weight.count)
        np.add(self.trainers, counted, out=self.trainers, casting="unsafe")

    def add_pieces(
        self,
        data: Vector,
        pieces: Sequence[Piece],
        trained: Sequence[slice],
        weight: Weight = PLAIN,
    ) -> None:
        """Add one device's difference in place, from numbers in the order of its file.

        Args:
            data: Float32 [any]. Each number must be below the bound, also those in no piece.
            pieces: Which numbers of the data belong where, ascending by ``begin``. None overlap, in the
                data or in the sum. What no piece has is 0.
            trained: Which numbers the device trained, as ranges of the sum that do not overlap.
            weight: How much it counts, as in :meth:`add`.

        Raises:
            NumericsError: A number is NaN, infinite or not below the bound. The sum is unchanged.
            ValueError: A piece or a range ends behind the last number. The sum is unchanged.
        """
        most = len(self._sum)
        if any(
            start < 0 or start + size > most or begin < 0 or begin + size > len(data)
            for start, begin, size in pieces
        ) or any(place.start < 0 or place.stop > most for place in trained):
            raise ValueError(f"a piece of a difference ends behind the {most} numbers of the sum")
        # All are looked at before one is added: a refused update leaves no trace.
        self._add_block_by_block(data, pieces, self.scale.check(data, weight), weight)
        for place in trained:
            self.trainers[place] += weight.count

    def _add_block_by_block(
        self, data: Vector, pieces: Sequence[Piece], largest: float, weight: Weight
    ) -> None:
        """Round block after block of the data, and add what lies in it of each piece.

        q = round_half_even(D n w 2^p). D n is exact in float64 (24 and 27 bits), so D n w is rounded once,
        to float64.
        """
        largest = largest * weight.count * weight.share
        is_short, middle = largest < self.scale.near, self.scale.middle
        next_piece = 0
        for first in range(0, len(data), _BLOCK):
            block = data[first : first + _BLOCK]
            end = first + len(block)
            wide = _SCRATCH.wide[: len(block)]
            wide[...] = block
            if weight is not PLAIN:
                np.multiply(wide, float(weight.count), out=wide)
                np.multiply(wide, weight.share, out=wide)
            if is_short:  # as in MergeScale.rounded, but for the bits of c
                np.add(wide, middle, out=wide)
                q = wide.view(np.int64)
            else:
                q = self.scale.rounded(wide, largest, _SCRATCH.terms[: len(block)])
            while next_piece < len(pieces) and pieces[next_piece].begin < end:
                start, begin, size = pieces[next_piece]
                low, high = max(begin, first), min(begin + size, end)
                total = self._sum[start + low - begin : start + high - begin]
                np.add(total, q[low - first : high - first], out=total)
                if begin + size > end:
                    break  # the rest of it lies in the next block
                next_piece += 1
        if is_short:
            for start, _, size in pieces:
                self._owed[start, start + size] += 1

    def combine(self, other: ExactSum) -> None:
        """Add a sum that somebody else made of other devices of the same round, in place."""
        if other.scale != self.scale:
            raise ValueError(f"scale {other.scale} cannot be added to {self.scale}")
        np.add(self._sum, other.total, out=self._sum)
        np.add(self.trainers, other.trainers, out=self.trainers)

    def mean(self) -> NDArray[np.float64]:
        """The mean of the differences, float64 [parameters]; 0 where nobody trained."""
        return self.scale.divided(self.total, np.maximum(self.trainers, 1))

    def apply(self, heads: Vector) -> Vector:
        """The merged heads: heads + mean of the differences; bits stay where nobody trained.

        H <- float32(float64(H) + float64(S) 2^-p / count); nothing divides by the factors of weights.
        """
        merged, total = heads.copy(), self.total
        for begin in range(0, heads.size, _BLOCK):
            block = slice(begin, begin + _BLOCK)
            trainers = self.trainers[block]
            mean = self.scale.divided(total[block], np.maximum(trainers, 1))
            mean += heads[block]
            np.copyto(merged[block], mean, where=trainers > 0, casting="same_kind")
        return merged
