"""Reading txt: one row a paragraph, that is, lines up to a blank one."""

from __future__ import annotations

from pathlib import Path

from ravan_edge.data.lines import BoundedLines
from ravan_edge.data.rows import ColumnRequest, Columns, ReaderLimits, RowCollector, Rows
from ravan_edge.errors import DataError

__all__ = ["read_plain_text"]

_COLUMN = "text"


def read_plain_text(path: Path, request: ColumnRequest, limits: ReaderLimits) -> Rows:
    """Read a txt file, whose only column is ``text``.

    Raises:
        DataError: Anything about the file that is not as docs/data.md says, or labels or users are
            wanted.
    """
    source = str(path)
    columns = request.resolve([_COLUMN], source)
    collector = RowCollector(source, request, Columns(columns.text, None, None), limits, "line")
    paragraph: list[str] = []
    begin = 1
    with path.open("rb") as file:
        lines = BoundedLines(file, source, limits.row_bytes)
        for line in lines:
            if line.strip():
                if not paragraph:
                    begin = lines.line
                paragraph.append(line)
                continue
            _add(collector, begin, paragraph)
            lines.next_record()
        _add(collector, begin, paragraph)
    if lines.line == 0:
        raise DataError("the file is empty", where=source, hint="name a file with text")
    return collector.finish(lines.file_sha256())


def _add(collector: RowCollector, begin: int, paragraph: list[str]) -> None:
    if paragraph:
        collector.count_row(begin)
        collector.add(begin, "".join(paragraph).rstrip("\r\n"), None, None)
        paragraph.clear()
