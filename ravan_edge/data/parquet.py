"""Reading parquet, batch by batch.

The only module that needs pyarrow (the extra ``parquet``): import it where a parquet file is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ravan_edge.data.rows import ColumnRequest, ReaderLimits, Rows, data_error
from ravan_edge.data.word_rows import collector_for
from ravan_edge.errors import DataError
from ravan_edge.files import sha256_file

__all__ = ["damaged_parquet", "read_parquet"]

# Rows decoded at a time: 256 of the longest allowed are 256 MiB.
_BATCH_ROWS = 256
_LIST = "list of "


def read_parquet(path: Path, request: ColumnRequest, limits: ReaderLimits) -> Rows:
    """Read a parquet file, with the label names of its schema metadata.

    Raises:
        DataError: Anything about the file that is not as docs/data.md says.
    """
    source = str(path)
    try:
        # Limits on the footer: a broken length in it must not allocate gigabytes.
        with pq.ParquetFile(
            path, thrift_string_size_limit=64 << 20, thrift_container_size_limit=1 << 20
        ) as file:
            return _read(file, path, request, limits)
    except (pa.ArrowException, OSError) as error:
        raise damaged_parquet(error, source) from None


def damaged_parquet(error: Exception, source: str) -> DataError:
    """What to say of a file that the library cannot read."""
    reason = str(error).strip().partition("\n")[0][:200].rstrip(".")
    hint = "write the file again, or copy it again; it may be cut short"
    return DataError(f"not a readable parquet file: {reason}", where=source, hint=hint)


def _read(file: pq.ParquetFile, path: Path, request: ColumnRequest, limits: ReaderLimits) -> Rows:
    source = str(path)
    schema = file.schema_arrow
    columns = request.resolve(list(schema.names), source)
    label_names = None
    # A string stands for the list of its words.
    lists = (f"{_LIST}string", f"{_LIST}integer", "string")
    expected = {
        columns.user: ("string", "integer"),
        columns.label: lists if request.words else ("string", "integer"),
        columns.text: (f"{_LIST}string", "string") if request.words else ("string",),
    }
    for name, kinds in expected.items():
        if name is not None:
            _check_type(schema, name, kinds, source)
    label = None if columns.label is None else _kind(schema.field(columns.label).type)
    if columns.label is not None and label in {"integer", f"{_LIST}integer"}:
        label_names = _label_names(schema.metadata or {}, columns.label, source)
    if file.metadata.num_rows > limits.rows:
        raise DataError(
            f"{file.metadata.num_rows} rows, expected at most {limits.rows}",
            where=source,
            hint="use a part of the file",
        )
    wanted = (columns.text, columns.label, columns.user)
    collector = collector_for(source, request, columns, limits, "row")
    number = 0
    names = [name for name in wanted if name is not None]
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=names):
        values = [
            [None] * batch.num_rows
            if name is None
            else list(_values(batch.column(name), number, source, limits))
            for name in wanted
        ]
        for text, label, user in zip(*values, strict=True):
            number += 1
            collector.count_row(number)
            collector.add(number, text, label, user)
    return collector.finish(sha256_file(path), label_names)


def _values(column: pa.Array, before: int, source: str, limits: ReaderLimits) -> Iterator[object]:
    """The values of one column of a batch; ``before`` rows came before it."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    for index, value in enumerate(column, start=before + 1):
        try:
            item = value.as_py()
        except UnicodeDecodeError as error:
            raise data_error(
                f"column holds text that is not UTF-8, at byte {error.start} of the value",
                source,
                index,
                "row",
                "write the file with strings in UTF-8",
            ) from None
        if _longer(item, limits.row_bytes):
            raise data_error(
                f"a row of more than {limits.row_bytes} bytes",
                source,
                index,
                "row",
                "shorten it, or remove the row",
            )
        yield item


def _longer(item: object, limit: int) -> bool:
    """Whether a string, or a list with its strings, has more bytes."""
    if isinstance(item, list):
        parts = [part for part in item if isinstance(part, str)]
        return len(item) + sum(map(len, parts)) > limit or _longer("".join(parts), limit)
    # A character is at most 4 bytes: most strings need not be encoded to know they are short.
    return isinstance(item, str) and 4 * len(item) > limit and len(item.encode()) > limit


def _kind(kind: pa.DataType) -> str:
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _LIST + _kind(kind.value_type)
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "string"
    return "integer" if types.is_integer(kind) else str(kind)


def _check_type(schema: pa.Schema, name: str, expected: tuple[str, ...], source: str) -> None:
    found = _kind(schema.field(name).type)
    if found not in expected:
        raise DataError(
            f"column {name!r} has type {found}, expected {' or '.join(expected)}",
            where=source,
            hint=f"name another column, or write this one as {expected[0]}",
        )


def _label_names(metadata: dict[bytes, bytes], column: str, source: str) -> tuple[str, ...] | None:
    """Names of integer labels: ``label_names``, else the class labels of a ``datasets`` file."""
    own, hub = metadata.get(b"label_names"), metadata.get(b"huggingface")
    names: object = None
    try:
        if own is not None:
            names = json.loads(own)
        elif hub is not None:
            feature = json.loads(hub)["info"]["features"][column]
            # Labels of words: a list or a Sequence of class labels, as the version wrote it.
            feature = feature[0] if isinstance(feature, list) else feature
            names = feature.get("feature", feature).get("names")
            if names is None:
                return None
        else:
            return None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        if own is None:  # somebody else's metadata: not ours to judge
            return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(
            "the schema metadata 'label_names' is not a JSON list of strings",
            where=source,
            hint="write it as a JSON list of names, one for each label index",
        )
    return tuple(names)
