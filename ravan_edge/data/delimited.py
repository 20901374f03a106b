"""Reading csv and tsv: a header, one record a row, double quotes, a bounded record."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ravan_edge.data.lines import BoundedLines
from ravan_edge.data.rows import ColumnRequest, ReaderLimits, Rows, data_error
from ravan_edge.data.word_rows import collector_for
from ravan_edge.errors import DataError, UsageError

__all__ = ["DELIMITERS", "read_delimited"]

DELIMITERS = (",", ";", "\t")


def read_delimited(
    path: Path, request: ColumnRequest, limits: ReaderLimits, delimiter: str | None
) -> Rows:
    """Read a csv or tsv file.

    Args:
        path: A regular file.
        request: Which columns.
        limits: What is refused as too large.
        delimiter: One character; None: the one of ``DELIMITERS`` that the header is cut by.

    Raises:
        DataError: Anything about the file that is not as docs/data.md says.
        UsageError: The delimiter is not one character.
    """
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise UsageError(
            f"--delimiter is {delimiter!r}, expected one character", hint="use ',', ';' or a tab"
        )
    source = str(path)
    with path.open("rb") as file, _field_limit(limits.row_bytes):
        lines = BoundedLines(file, source, limits.row_bytes)
        try:
            return _read(lines, source, request, limits, delimiter)
        except csv.Error as error:
            raise data_error(
                f"not a valid csv row: {error}",
                source,
                lines.record_line,
                "line",
                "put texts with quotes, delimiters or line ends in double quotes and double every "
                "quote inside",
            ) from None


def _read(
    lines: BoundedLines,
    source: str,
    request: ColumnRequest,
    limits: ReaderLimits,
    delimiter: str | None,
) -> Rows:
    first = next(lines, None)
    if first is None:
        raise DataError("the file is empty", where=source, hint="name a file with rows")
    if delimiter is None:
        delimiter = _sniff(first, source, request)
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    header = next(reader)
    lines.next_record()
    columns = request.resolve(header, source)
    places = [
        None if name is None else header.index(name)
        for name in (columns.text, columns.label, columns.user)
    ]
    collector = collector_for(source, request, columns, limits, "line")
    for fields in reader:
        number = lines.record_line
        lines.next_record()
        if not fields:  # a blank line, as many programs leave at the end
            continue
        collector.count_row(number)
        if len(fields) != len(header):
            collector.problem(
                f"that do not have the header's {len(header)} columns",
                number,
                "give every row as many columns as the header; quote texts that hold the delimiter "
                f"({delimiter!r}), or name another with --delimiter",
                f"found {len(fields)}",
            )
            continue
        text, label, user = (None if place is None else fields[place] for place in places)
        collector.add(number, text, label, user)
    return collector.finish(lines.file_sha256())


def _sniff(header: str, source: str, request: ColumnRequest) -> str:
    """The delimiter of a header line: the only one that cuts it, or that gives what is wanted."""
    cuts = {
        delimiter: next(csv.reader([header], delimiter=delimiter), [])
        for delimiter in DELIMITERS
        if delimiter in header
    }
    cuts = {delimiter: names for delimiter, names in cuts.items() if len(names) > 1}
    if len(cuts) > 1:
        fitting = {d: names for d, names in cuts.items() if _resolves(request, names, source)}
        if len(fitting) != 1:
            found = ", ".join(repr(delimiter) for delimiter in cuts)
            raise DataError(
                f"the header can be cut at {found}",
                where=source,
                hint="name the right one with --delimiter",
            )
        cuts = fitting
    return next(iter(cuts), ",")


def _resolves(request: ColumnRequest, names: list[str], source: str) -> bool:
    try:
        request.resolve(names, source)
    except DataError:
        return False
    return True


@contextmanager
def _field_limit(row_bytes: int) -> Iterator[None]:
    # The csv module's own limit (131,072 characters) is below the longest row that is allowed.
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, row_bytes))
    try:
        yield
    finally:
        csv.field_size_limit(before)
