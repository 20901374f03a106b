"""Reading a data file of any format the kit takes (docs/data.md)."""

from __future__ import annotations

import os
from pathlib import Path

from ravan_edge.data.delimited import read_delimited
from ravan_edge.data.json_lines import read_json_lines
from ravan_edge.data.plain_text import read_plain_text
from ravan_edge.data.rows import ColumnRequest, ReaderLimits, Rows
from ravan_edge.data.word_rows import WordRows, word_request
from ravan_edge.errors import DataError, MissingExtraError

__all__ = ["DATA_SUFFIXES", "TEXT_SUFFIXES", "read_rows", "read_table", "read_word_rows"]

DATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
TEXT_SUFFIXES = (*DATA_SUFFIXES, ".txt")
"""Where texts alone are needed, a txt file serves too."""


def read_rows(
    path: str | os.PathLike[str],
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    user_column: str | None = None,
    delimiter: str | None = None,
    require_labels: bool = True,
    skip_empty: bool = False,
    limits: ReaderLimits = ReaderLimits(),  # noqa: B008  (frozen: nobody can change the default)
) -> Rows:
    """Read texts, labels and users from a csv, tsv, jsonl, ndjson or parquet file.

    Args:
        path: The file; its suffix says the format.
        text_column: Name of the text column; None: the only column with a usual name.
        label_column: Name of the label column; None: the only column with a usual name.
        user_column: Name of the column of natural users; None: users are not read.
        delimiter: What cuts a csv row; None: found in the header. A tsv is always cut at tabs.
        require_labels: False: labels are read only where ``label_column`` names their column.
        skip_empty: True: rows with an empty text are left out and counted, not refused.
        limits: What is refused as too large.

    Returns:
        The rows in the file's order; no text is empty.

    Raises:
        DataError: The file is refused: what was found, in which row, and how to mend it.
        MissingExtraError: A parquet file without pyarrow installed.
        UsageError: The options contradict each other.
    """
    request = ColumnRequest(
        text=text_column,
        label=label_column,
        user=user_column,
        require_labels=require_labels,
        skip_empty=skip_empty,
    )
    return read_table(Path(path), request, limits=limits, delimiter=delimiter)


def read_word_rows(
    path: Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    user_column: str | None = None,
    skip_empty: bool = False,
    limits: ReaderLimits = ReaderLimits(),  # noqa: B008  (frozen: nobody can change the default)
) -> WordRows:
    """As :func:`read_rows`, for rows of words with a label for each word.

    Both columns hold lists, or strings that are cut at white space.
    """
    request = word_request(
        text=text_column, label=label_column, user=user_column, skip_empty=skip_empty
    )
    rows = read_table(path, request, limits=limits)
    assert isinstance(rows, WordRows)  # noqa: S101  (what a request for words gives)
    return rows


def read_table(
    path: Path,
    request: ColumnRequest,
    *,
    limits: ReaderLimits = ReaderLimits(),  # noqa: B008  (frozen: nobody can change the default)
    delimiter: str | None = None,
) -> Rows:
    """As :func:`read_rows`, for a prepared request (which may leave out the texts)."""
    source = str(path)
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            raise DataError("is a directory", where=source, hint="name a file inside it")
        if not path.exists():
            raise DataError("no such file", where=source, hint="check the path")
        if not path.is_file():
            raise DataError("is not a regular file", where=source, hint="copy it into a file")
        known = DATA_SUFFIXES if request.require_labels else TEXT_SUFFIXES
        if suffix not in known:
            raise DataError(
                f"unsupported suffix {suffix!r}, expected {', '.join(known)}",
                where=source,
                hint="convert the file to one of them (or rename it, if it is one)",
            )
        if path.stat().st_size == 0:
            raise DataError("the file is empty", where=source, hint="name a file with rows")
        if suffix == ".parquet":
            return _read_parquet(path, request, limits)
        if suffix == ".txt":
            return read_plain_text(path, request, limits)
        if suffix in {".jsonl", ".ndjson"}:
            return read_json_lines(path, request, limits)
        return read_delimited(path, request, limits, "\t" if suffix == ".tsv" else delimiter)
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror or error}", where=source, hint="check the file"
        ) from error


def _read_parquet(path: Path, request: ColumnRequest, limits: ReaderLimits) -> Rows:
    try:
        from ravan_edge.data.parquet import read_parquet
    except ImportError as error:
        raise MissingExtraError(
            "reading parquet needs pyarrow, which is not installed",
            where=str(path),
            hint="pip install 'ravan-edge[parquet]'",
        ) from error
    return read_parquet(path, request, limits)
