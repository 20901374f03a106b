"""From the labels of a file to the indices of an artifact's frozen label map."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravan_edge.data.image_folder import class_names
from ravan_edge.data.lines import BoundedLines
from ravan_edge.data.readers import DATA_SUFFIXES, read_table
from ravan_edge.data.rows import ColumnRequest, Rows
from ravan_edge.data.word_rows import word_request
from ravan_edge.errors import DataError, UsageError

__all__ = ["encode_labels", "label_map", "label_map_from_file", "numbered_labels"]

MAX_LABELS = 100_000
_MAX_NAME_BYTES = 1000
_MAX_FILE_BYTES = 128 << 20
_SHOWN_NAMES = 5
_SHOWN_ROWS = 5


def numbered_labels(count: int) -> tuple[str, ...]:
    """The label map of ``--labels N``: the numbers themselves are the names.

    >>> numbered_labels(3)
    ('0', '1', '2')
    """
    return tuple(str(index) for index in range(count))


def encode_labels(rows: Rows, label_names: Sequence[str]) -> NDArray[np.int64]:
    """The index of each row's label in an artifact's label map.

    * A string is a name of the map; spaces around it do not count.
    * An integer (or a string of digits that is no name) is an index. But where names of the map are
      numbers themselves ("1" .. "5"), integers are names, so that csv and jsonl mean the same.
    * Where a parquet file says what its integers mean (``label_names``), they are mapped by that
      name, in whatever order the file has them. A map without real names ("0", "1", ... or
      "LABEL_0", ...) has nothing to compare with: there the integers are indices as they are.

    Args:
        rows: With labels.
        label_names: The artifact's map, index -> name.

    Returns:
        int64 [rows], each 0 .. len(label_names) - 1.

    Raises:
        DataError: No labels, or a label that the map does not have: names row, label, known ones.
    """
    if rows.labels is None:
        raise DataError(
            "the rows have no labels",
            where=rows.source,
            hint="name the label column with --label-column",
        )
    names = {name: index for index, name in enumerate(label_names)}
    file_names = None if _is_numbered(label_names) else rows.label_names
    numeric_names = not _is_numbered(label_names) and any(
        _as_integer(name) is not None for name in names
    )
    known: dict[str | int, int] = {}
    unknown: dict[str | int, list[int]] = {}
    encoded = np.empty(len(rows.labels), dtype=np.int64)
    for row, label in enumerate(rows.labels):
        index = known.get(label)
        if index is None:
            found = _index(label, names, file_names, numeric_names=numeric_names)
            if found is None:
                unknown.setdefault(label, []).append(row)
                continue
            index = known[label] = found
        encoded[row] = index
    if unknown:
        raise _unknown_labels(rows, label_names, known, unknown)
    return encoded


def _index(
    label: str | int,
    names: dict[str, int],
    file_names: tuple[str, ...] | None,
    *,
    numeric_names: bool,
) -> int | None:
    """The index of a label, or None where the map does not have it."""
    if isinstance(label, str):
        for name in (label, label.strip()):
            if name in names:
                return names[name]
        number = _as_integer(label.strip())
        if number is None:
            return None
    else:
        number = label
        if file_names is not None:
            return names.get(file_names[number]) if 0 <= number < len(file_names) else None
    if numeric_names:
        return names.get(str(number))
    return number if 0 <= number < len(names) else None


def _is_numbered(label_names: Sequence[str]) -> bool:
    return any(
        all(name == f"{prefix}{index}" for index, name in enumerate(label_names))
        for prefix in ("", "LABEL_")
    )


def _as_integer(text: str) -> int | None:
    """A plain decimal integer: ASCII digits, at most nine of them."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def _unknown_labels(
    rows: Rows,
    label_names: Sequence[str],
    known: dict[str | int, int],
    unknown: dict[str | int, list[int]],
) -> DataError:
    label, where = next(iter(unknown.items()))
    shown = _quoted(label)
    if isinstance(label, int) and rows.label_names is not None:
        named = 0 <= label < len(rows.label_names)
        shown += (
            f" ({rows.label_names[label]!r} in this file)" if named else " (no name in this file)"
        )
    rows_text = ", ".join(f"{rows.unit} {rows.numbers[row]}" for row in where[:_SHOWN_ROWS])
    if len(where) > _SHOWN_ROWS:
        rows_text += f", ... ({len(where)} rows)"
    message = (
        f"label {shown} ({rows_text}) is not one of the artifact's {len(label_names)} labels "
        f"({_listed(label_names)})"
    )
    if len(unknown) > 1:
        others = ", ".join(_quoted(other) for other in list(unknown)[1:_SHOWN_NAMES])
        message += f"; {len(unknown) - 1} further labels are not either ({others}"
        message += ", ...)" if len(unknown) > _SHOWN_NAMES else ")"
    if len(unknown) + len(set(known.values())) > len(label_names):
        found = len(unknown) + len(set(known.values()))
        message += f"; the data have {found} labels, more than the artifact"
    close = difflib.get_close_matches(str(label)[:100], list(label_names)[:1000], 1)
    hint = f"write {close[0]!r}, or " if close else "correct it, or "
    return DataError(
        message,
        where=rows.where(where[0]),
        hint=hint + "export the artifact again with --labels and this file",
    )


def _quoted(label: str | int) -> str:
    return repr(label if isinstance(label, int) else label[:80])


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(repr(name[:80]) for name in names[:_SHOWN_NAMES])
    return listed + (", ..." if len(names) > _SHOWN_NAMES else "")


def label_map(
    labels: str, *, label_column: str | None = None, of_words: bool = False
) -> tuple[str, ...]:
    """The label map that the exporter's ``--labels N|FILE`` asks for, index -> name.

    Args:
        labels: N, or the path of a file.
        label_column: Of a data file; None: the only column with a usual name.
        of_words: A row of a data file has a label for each word.

    Raises:
        UsageError: N is out of range.
        DataError: The file is refused.
    """
    number = _as_integer(labels)
    if number is None:
        return label_map_from_file(labels, label_column=label_column, of_words=of_words)
    if not 2 <= number <= MAX_LABELS:
        raise UsageError(
            f"--labels is {number}, expected 2 to {MAX_LABELS}", hint="count the classes again"
        )
    return numbered_labels(number)


def label_map_from_file(
    path: str | os.PathLike[str], *, label_column: str | None = None, of_words: bool = False
) -> tuple[str, ...]:
    """The label map a file holds, index -> name.

    * ``.txt``: one name a line, UTF-8, blank lines ignored; ``.json``: a list of names.
    * A data file: ``label_names`` of a parquet file in their order; otherwise the different labels,
      sorted by code point; where all are integers, the numbers 0 .. the largest.
    * A folder of images: the names of its sub-folders, sorted by code point.

    Args:
        path: The file, or folder.
        label_column: Of a data file; None: the only column with a usual name.
        of_words: A row of a data file has a label for each word.

    Raises:
        DataError: The file is refused, or holds no valid map: 2 to 100,000 different names of 1 to
            1,000 bytes.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_dir():
        names = list(class_names(path))
    elif suffix in DATA_SUFFIXES:
        request = (
            word_request(label=label_column, require_text=False)
            if of_words
            else ColumnRequest(label=label_column, require_text=False)
        )
        names = _names_of_data(read_table(path, request))
    elif suffix in {".txt", ".json"}:
        names = _names_of_list(path, suffix)
    else:
        raise DataError(
            f"unsupported suffix {suffix!r}, expected .txt, .json, {', '.join(DATA_SUFFIXES)}",
            where=str(path),
            hint="give a number, a list of names (.txt, .json), a data file or a folder of images",
        )
    return _checked(names, str(path))


def _names_of_data(rows: Rows) -> list[str]:
    if rows.label_names is not None:
        return list(rows.label_names)
    labels = {label.strip() if isinstance(label, str) else label for label in rows.labels or ()}
    numbers = [_as_integer(str(label)) for label in labels]
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        return sorted(str(label) for label in labels)
    if max(known) >= MAX_LABELS:
        raise DataError(
            f"the largest label is {max(known)}, expected less than {MAX_LABELS}",
            where=rows.source,
            hint="number the labels from 0, or write names",
        )
    return list(numbered_labels(max(known) + 1))


def _names_of_list(path: Path, suffix: str) -> list[str]:
    source = str(path)
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise DataError(
                f"more than {_MAX_FILE_BYTES} bytes", where=source, hint="list only the names"
            )
        with path.open("rb") as file:
            # A .json list may be one long line; a .txt line is a name.
            lines = BoundedLines(file, source, _MAX_FILE_BYTES)
            if suffix == ".txt":
                names = []
                for line in lines:
                    lines.next_record()
                    names.append(line.strip())
                return [name for name in names if name]
            document: object = json.loads("".join(lines))
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror or error}", where=source, hint="check the path"
        ) from error
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, list) or not all(isinstance(name, str) for name in document):
        raise DataError(
            "not a JSON list of strings", where=source, hint='write it as ["name", "name", ...]'
        )
    return document


def _checked(names: list[str], source: str) -> tuple[str, ...]:
    hint = "list every label once, in the order of its index"
    if not 2 <= len(names) <= MAX_LABELS:
        raise DataError(f"{len(names)} labels, expected 2 to {MAX_LABELS}", where=source, hint=hint)
    for index, name in enumerate(names):
        size = len(name.encode("utf-8", "surrogatepass"))
        if not 1 <= size <= _MAX_NAME_BYTES:
            raise DataError(
                f"label {index} is {size} bytes long, expected 1 to {_MAX_NAME_BYTES}",
                where=source,
                hint="give it a short name",
            )
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise DataError(
                f"label {index} is not valid Unicode", where=source, hint="write it again"
            )
    if len(set(names)) != len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(f"label {twice[:80]!r} is there twice", where=source, hint=hint)
    return tuple(names)
