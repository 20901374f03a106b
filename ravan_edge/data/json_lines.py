"""Reading jsonl (ndjson): one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path

from ravan_edge.data.lines import BoundedLines
from ravan_edge.data.rows import ColumnRequest, Columns, ReaderLimits, Rows
from ravan_edge.data.word_rows import collector_for
from ravan_edge.errors import DataError

__all__ = ["read_json_lines"]

_HINT = 'write one JSON object a line, such as {"text": "...", "label": "..."}'


def read_json_lines(path: Path, request: ColumnRequest, limits: ReaderLimits) -> Rows:
    """Read a jsonl file. Its columns are the keys of the first object.

    Raises:
        DataError: Anything about the file that is not as docs/data.md says.
    """
    source = str(path)
    # Until an object says which columns there are, only what is no object can be reported.
    collector = collector_for(source, request, Columns(None, None, None), limits, "line")
    columns: Columns | None = None
    with path.open("rb") as file:
        lines = BoundedLines(file, source, limits.row_bytes)
        for line in lines:
            number = lines.record_line
            lines.next_record()
            if not line.strip():
                continue
            collector.count_row(number)
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                collector.problem("that are not JSON", number, _HINT, _reason(error))
                continue
            if not isinstance(row, dict):
                collector.problem("that are no JSON object", number, _HINT, f"found {line[:40]!r}")
                continue
            if columns is None:
                columns = request.resolve(list(row), f"{source}, line {number}")
                collector.use(columns)
            text, label, user = (
                None if name is None else row.get(name)
                for name in (columns.text, columns.label, columns.user)
            )
            collector.add(number, text, label, user)
    if lines.line == 0:
        raise DataError("the file is empty", where=source, hint="name a file with rows")
    return collector.finish(lines.file_sha256())


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error)[:80]
