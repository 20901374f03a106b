"""Adding up updates straight from their bytes, one after another.

Only the sum stays in memory, and one update (a second one while its reader reads the next). No vector
of an update's numbers is made, and no mask: they go from where they were read into the sum.

An update whose numbers a codec wrote is decoded first, each into the same buffer.

**Nothing is trusted.** An update was checked when it was accepted; what is read again, hours later
and maybe by another process, is checked again in full: size, header, names, shapes, heads, artifact, and
every number. That takes less time than a digest of the bytes would, which would only say that they are
the ones that were accepted. What makes it cheap is that the reader knows the tensors of a header it
has accepted before, and that the numbers are looked at once: the bound of the merge also refuses a NaN
and an infinity.

What only the round knows stays with the caller: that an assignment counts once, and that the version
is one that is merged now; :class:`UpdateInfo` has both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import repeat

from ravan_edge.errors import NumericsError
from ravan_edge.merge.exact import ExactSum, MergeScale
from ravan_edge.merge.weight import PLAIN, Weight
from ravan_edge.methods import Vector
from ravan_edge.protocol import UpdateInfo, UpdateReader, UpdateView

__all__ = ["add_update", "sum_updates"]


def add_update(
    total: ExactSum,
    content: bytes | memoryview,
    reader: UpdateReader,
    *,
    weight: Weight = PLAIN,
    where: str = "update",
) -> UpdateInfo:
    """Check the bytes of an update and add its difference to ``total``, in place.

    The result is bitwise that of ``total.add(update.difference, update.mask, weight)`` with ``update =
    reader.decode(content)``. ``content`` is not needed afterwards: its buffer can be used again.

    Args:
        total: A sum over the parameters of the reader's method.
        content: The whole file.
        reader: Of the artifact.
        weight: How much it counts.
        where: How errors call the update.

    Raises:
        ArtifactError: As :meth:`UpdateReader.view`. In each of these cases the sum is unchanged.
        TensorFileError: As there; a NaN or an infinity too.
        NumericsError: A number is not below the bound.
    """
    view = _add_numbers(total, content, reader, where, weight)
    for place in view.places:
        total.trainers[place] += weight.count
    return view.info


def sum_updates(
    updates: Iterable[tuple[str, bytes | memoryview]],
    reader: UpdateReader,
    scale: MergeScale,
    weights: Iterable[Weight] | None = None,
) -> ExactSum:
    """The exact sum of the updates of a round.

    ``sum_updates(reader.contents(paths), reader, scale).apply(heads)`` are the next heads.

    Args:
        updates: How errors call each one, and its bytes; they need to last only until the next one
            is asked for. See :meth:`UpdateReader.contents`.
        reader: Of the artifact.
        scale: Of the round.
        weights: How much each update counts; None: each counts once.

    Raises:
        ArtifactError: As :func:`add_update`.
        TensorFileError: As there.
        NumericsError: As there.
        ValueError: There are more updates, or they count more, than the scale can hold; or not as
            many weights as updates.
    """
    total = ExactSum.empty(reader.method.layout.size, scale)
    # Most devices train the same ranges. They are counted as such: to count up each number for each
    # device takes a tenth of the time of the merge.
    trained: Counter[tuple[int, int]] = Counter()
    counted = 0
    buffer = reader.numbers_buffer()  # memory that nobody writes to costs nothing
    each = repeat(PLAIN) if weights is None else weights
    for (where, content), weight in zip(updates, each, strict=weights is not None):
        counted += weight.count
        if counted > scale.most_devices:
            raise ValueError(
                f"more than {scale.most_devices} updates (or counts), for which the scale was chosen"
            )
        view = _add_numbers(total, content, reader, where, weight, buffer)
        for place in view.places:
            trained[place.start, place.stop] += weight.count
    for (start, stop), devices in trained.items():
        total.trainers[start:stop] += devices
    return total


def _add_numbers(
    total: ExactSum,
    content: bytes | memoryview,
    reader: UpdateReader,
    where: str,
    weight: Weight,
    buffer: Vector | None = None,
) -> UpdateView:
    """Check the bytes of an update and add its numbers; who trained them is not counted yet."""
    view = reader.view(content, finite=False, where=where, buffer=buffer)
    try:
        total.add_pieces(view.data, view.pieces, (), weight)
    except NumericsError as error:
        reader.view(content, where=where)  # refuses a NaN or an infinity, and says in which tensor
        raise NumericsError(error.message, where=where, hint=error.hint) from None
    return view
