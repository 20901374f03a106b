"""txt files: one row a paragraph."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravan_edge.data.readers import read_table
from ravan_edge.data.rows import ColumnRequest, ReaderLimits
from ravan_edge.errors import DataError

ANY = ColumnRequest(require_labels=False)


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "a.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_paragraphs_are_rows(tmp_path: Path, end: str) -> None:
    lines = ["", "First line,", "its second.", "", " \t", "Another.", ""]
    rows = read_table(write(tmp_path, end.join(lines)), ANY)
    assert rows.texts == [f"First line,{end}its second.", "Another."]
    assert rows.numbers == [2, 6]
    assert rows.labels is None
    assert rows.where(1).endswith("a.txt, line 6")


def test_a_last_line_without_its_end_counts(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, "\ufeffone\n\ntwo"), ANY).texts == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "no rows"),
        (b"good\n\nb\xffd\n", "expected UTF-8, but at byte 7"),
        (b"a line\n" * 200, "a row of more than 1000 bytes"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, content), ANY, limits=ReaderLimits(row_bytes=1000))


def test_a_txt_has_no_labels_and_no_users(tmp_path: Path) -> None:
    path = write(tmp_path, "words\n")
    with pytest.raises(DataError, match=r"unsupported suffix '\.txt'"):
        read_table(path, ColumnRequest())
    for request in (
        ColumnRequest(label="label", require_labels=False),
        ColumnRequest(user="user", require_labels=False),
    ):
        with pytest.raises(DataError, match="no column"):
            read_table(path, request)
