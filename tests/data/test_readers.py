"""Every format reads what it should, and refuses the rest with a row and a way out."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravan_edge.data import ReaderLimits, Rows, read_rows
from ravan_edge.errors import DataError, MissingExtraError, UsageError

Write = Callable[[str, bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def write_parquet(path: Path, columns: dict[str, object], names: object = None) -> Path:
    table = pa.table(columns)
    if names is not None:
        table = table.replace_schema_metadata({"label_names": json.dumps(names)})
    pq.write_table(table, path)
    return path


GOOD = {
    "comma.csv": b'text,label\none,a\n"two, and\nmore",b\n',
    "semicolon.csv": b'text;label\none;a\n"two, and\nmore";b\n',
    "tab.csv": b'text\tlabel\none\ta\n"two, and\nmore"\tb\n',
    "tabs.tsv": b'text\tlabel\none\ta\n"two, and\nmore"\tb\n',
    "mark.csv": b'\xef\xbb\xbftext,label\r\none,a\r\n"two, and\nmore",b\r\n\r\n',
    "lines.jsonl": b'{"text": "one", "label": "a"}\n\n{"text": "two, and\\nmore", "label": "b"}',
    "lines.ndjson": (
        b'\xef\xbb\xbf{"label": "a", "text": "one"}\n{"text": "two, and\\nmore", "label": "b"}\n'
    ),
    "other.CSV": b'id,Sentence,Intent\n1,one,a\n2,"two, and\nmore",b\n',
}


@pytest.mark.parametrize("name", GOOD)
def test_reads_texts_and_labels(write: Write, name: str) -> None:
    rows = read_rows(write(name, GOOD[name]))
    assert rows.texts == ["one", "two, and\nmore"]
    assert rows.labels == ["a", "b"]
    assert rows.users is None
    assert rows.unit == "line"
    assert rows.numbers == ([1, 3] if name == "lines.jsonl" else [1, 2] if "nd" in name else [2, 3])
    assert rows.file_sha256 == hashlib.sha256(GOOD[name]).hexdigest()
    assert rows.where(0) == f"{rows.source}, line {rows.numbers[0]}"


def test_reads_parquet(tmp_path: Path) -> None:
    columns = {"text": ["x", "y"], "label": pa.array([1, 0], pa.int32()), "who": [7, 8]}
    path = write_parquet(tmp_path / "a.parquet", columns, ["no", "yes"])
    rows = read_rows(path, user_column="who")
    assert rows.texts == ["x", "y"]
    assert rows.labels == [1, 0]
    assert rows.users == ["7", "8"]
    assert rows.label_names == ("no", "yes")
    assert (rows.unit, rows.numbers) == ("row", [1, 2])
    assert rows.file_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_reads_categories_and_the_hub_s_class_labels(tmp_path: Path) -> None:
    columns = {"text": pa.array(["x", "y"]), "label": pa.array(["b", "a"]).dictionary_encode()}
    assert read_rows(write_parquet(tmp_path / "a.parquet", columns)).labels == ["b", "a"]
    table = pa.table({"text": ["x"], "label": [1]})
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "b.parquet")
    assert read_rows(tmp_path / "b.parquet").label_names == ("no", "yes")


def test_reads_the_shipped_data(banking77: Path) -> None:
    rows = read_rows(banking77 / "test.parquet")
    assert len(rows) == 3080
    assert rows.label_names is not None
    assert len(rows.label_names) == 77


def test_columns_by_name(write: Write) -> None:
    path = write("a.csv", b"a,b,c\nx,1,ann\n")
    rows = read_rows(path, text_column="a", label_column="b", user_column="c")
    assert (rows.texts, rows.labels, rows.users) == (["x"], ["1"], ["ann"])
    assert (rows.columns.text, rows.columns.label, rows.columns.user) == ("a", "b", "c")


def test_delimiter_by_name_and_by_the_wanted_columns(write: Write) -> None:
    path = write("a.csv", b"text|label\nx|1\n")
    assert read_rows(path, delimiter="|").texts == ["x"]
    path = write("b.csv", b"text;label, or class\nx;1\n")
    assert read_rows(path, label_column="label, or class").labels == ["1"]
    for delimiter in ("", ",,", '"', "\n"):
        with pytest.raises(UsageError, match="one character"):
            read_rows(path, delimiter=delimiter)


def test_labels_are_optional_where_the_caller_says_so(write: Write) -> None:
    path = write("a.csv", b"text,label\nx,\n")
    assert read_rows(path, require_labels=False).labels is None
    only_text = write("b.csv", b"text\nx\n")
    assert read_rows(only_text, require_labels=False).texts == ["x"]
    with pytest.raises(DataError, match="no label column"):
        read_rows(only_text)


def test_empty_texts_can_be_left_out(write: Write) -> None:
    rows = read_rows(write("a.csv", b"text,label\nx,1\n ,2\ny,3\n"), skip_empty=True)
    assert (rows.texts, rows.labels, rows.numbers) == (["x", "y"], ["1", "3"], [2, 4])
    assert rows.skipped == 1


LINE_15 = b"text,label\n" + b"x,1\n" * 13

BAD: list[tuple[str, bytes, str]] = [
    ("a.csv", b"", "file is empty"),
    ("a.parquet", b"", "file is empty"),
    ("a.csv", b"text,label\n", "no rows"),
    ("a.jsonl", b"\n\n", "no rows"),
    ("a.csv", b"hello there,3\nx,1\n", "no text column.*found 'hello there', '3'.*--text-column"),
    ("a.csv", b"text,body,label\nx,y,1\n", "several columns may be the text: 'text', 'body'"),
    ("a.csv", b"text,text,label\nx,y,1\n", "column 'text' is there 2 times"),
    ("a.csv", b"text,label,intent\nx,y,1\n", "several columns.*--label-column"),
    ("a.csv", b"a;text,label;b\n", "header can be cut at ',', ';'.*--delimiter"),
    ("a.csv", LINE_15 + b" ,1\n", r"line 15: 1 row with an empty text \(line 15\).*--skip-empty"),
    ("a.csv", LINE_15 + b"x,\n", "line 15: 1 row without a label"),
    ("a.csv", LINE_15 + b"x\n", "header's 2 columns.*line 15: found 1"),
    ("a.csv", LINE_15 + b"x,y,1\n" * 9, r"9 rows .*\(line 15: .*line 19: found 3, \.\.\.\)"),
    ("a.csv", LINE_15 + b"caf\xe9,1\n", "line 15: expected UTF-8, but at byte 66 .* 0xe9"),
    ("a.csv", b"\xef\xbb\xbftext\xff,label\n", "at byte 7 of the file 0xff"),
    ("a.csv", "text,label\nx,1\n".encode("utf-16"), "UTF-16 byte order mark.*save .* as UTF-8"),
    ("a.csv", LINE_15 + b"x\0,1\n", "line 15: .* at byte 64 of the file a NUL byte"),
    ("a.csv", LINE_15 + b'"x"y,1\n', "line 15: not a valid csv row"),
    ("a.csv", LINE_15 + b'"x,1\ny,1\n', "line 15: not a valid csv row: unexpected end"),
    ("a.csv", LINE_15 + b"x\ry,1\n", "line 15: not a valid csv row"),
    ("a.jsonl", b"text,label\nx,1\n", r"2 rows that are not JSON \(line 1: Expecting value"),
    ("a.jsonl", b'{"text": "x"\n', "not JSON.*line 1: Expecting ',' delimiter at character"),
    ("a.jsonl", b"[" * 100_000, "not JSON.*nested too deeply"),
    ("a.jsonl", b'["x", 1]\n', r"no JSON object \(line 1: found"),
    ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": 5, "label": 1}\n', "line 2: found a number"),
    ("a.jsonl", b'{"text": "x", "label": 1}\n{"label": 1}\n', "line 2: 1 row without a text"),
    ("a.jsonl", b'{"text": "x", "label": null}\n', "line 1: 1 row without a label"),
    ("a.jsonl", b'{"text": "x", "label": 1.5}\n', "label is neither.*a number with a fraction"),
    ("a.jsonl", b'{"text": "x", "label": true}\n', "label is neither.*true or false"),
    ("a.jsonl", b'{"text": "\\ud83d", "label": 1}\n', r"not valid Unicode \(line 1: found .ud83d"),
    ("a.jsonl", b'{"a": "x", "label": 1}\n', "line 1: no text column.*found 'a', 'label'"),
    ("a.json", b"[]", "unsupported suffix '.json', expected .csv"),
    ("a.txt", b"x", "unsupported suffix"),
    ("a.parquet", b"PAR1 and no more PAR1", "not a readable parquet file"),
    ("a.parquet", b"text,label\nx,1\n", r"not a readable parquet file: .*[^.]\. To mend"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_refuses(write: Write, name: str, content: bytes, message: str) -> None:
    path = write(name, content)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 4


def test_several_problems_are_reported_at_once(write: Write) -> None:
    path = write("a.csv", b"text,label\nx,1\n,1\ny,\n,\n")
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert "line 3: 2 rows with an empty text (line 3, line 5)" in str(caught.value)
    assert "2 rows without a label (line 4, line 5)" in str(caught.value)


def test_more_kinds_of_problems_and_columns_than_are_shown(write: Write) -> None:
    path = write("a.csv", b"text,label,user\n,1,u\nx,,u\nx,1,\nx\n")
    with pytest.raises(DataError, match=r"1 row without a user \(line 4\); and further problems"):
        read_rows(path, user_column="user")
    many = ",".join(f"c{number}" for number in range(30))
    with pytest.raises(DataError, match=r"'c19', \.\.\. \(30 columns\)"):
        read_rows(write("b.csv", many.encode() + b"\n"))


def test_users_must_be_names_or_numbers(write: Write) -> None:
    path = write("a.jsonl", b'{"text": "x", "label": 1, "user": 7}\n')
    assert read_rows(path, user_column="user").users == ["7"]
    path = write("a.jsonl", b'{"text": "x", "label": 1, "user": [7]}\n')
    with pytest.raises(DataError, match=r"user is neither .*line 1: found a list"):
        read_rows(path, user_column="user")
    with pytest.raises(DataError, match=r"no user column|no column 'who'"):
        read_rows(path, user_column="who")


def test_refuses_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a directory"):
        read_rows(tmp_path)


def test_a_column_that_is_not_there(write: Write) -> None:
    path = write("a.csv", b"text,label\nx,1\n")
    for columns in ({"text_column": "t"}, {"label_column": "t"}, {"user_column": "t"}):
        with pytest.raises(DataError, match=r"no column 't'; found 'text', 'label'.*--"):
            read_rows(path, **columns)
    with pytest.raises(UsageError, match="both name 'text'"):
        read_rows(path, text_column="text", label_column="text")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "quote.csv", "a.parquet"])
def test_a_row_of_ten_megabytes_is_refused_without_reading_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = "x" * 10_000_000
    if name == "a.parquet":
        write_parquet(path, {"text": ["y", text], "label": [0, 1]})
    elif name == "a.csv":
        path.write_text(f"text,label\n{text},1\n")
    elif name == "quote.csv":  # never closed: every line after it would belong to the row
        path.write_text('text,label\n"' + "y\n" * 5_000_000)
    else:
        path.write_text(json.dumps({"text": text, "label": 1}) + "\n")
    with pytest.raises(DataError, match="a row of more than 1048576 bytes") as caught:
        read_rows(path)
    assert caught.value.where == str(path) + {"a.jsonl": ", line 1", "a.parquet": ", row 2"}.get(
        name, ", line 2"
    )


def test_a_long_row_below_the_limit_is_read(write: Write) -> None:
    before = csv.field_size_limit()
    text = b"y" * 1_000_000
    assert read_rows(write("a.csv", b"text,label\n" + text + b",1\n")).texts == [text.decode()]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_bounds_on_rows_and_texts(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.csv":
        path.write_text("text,label\nab,1\ncd,1\nef,1\n")
    elif name == "a.jsonl":
        path.write_text('{"text": "ab", "label": 1}\n' * 3)
    else:
        write_parquet(path, {"text": ["ab"] * 3, "label": [1] * 3})
    assert len(read_rows(path, limits=ReaderLimits(rows=3, text_bytes=6))) == 3
    with pytest.raises(DataError, match=r"2 rows|at most 2"):
        read_rows(path, limits=ReaderLimits(rows=2))
    with pytest.raises(DataError, match="more than 5 bytes together"):
        read_rows(path, limits=ReaderLimits(text_bytes=5))


def test_parquet_columns_of_a_wrong_type(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"text": [1], "label": [0.5], "user": [b"x"]})
    with pytest.raises(DataError, match="'label' has type double, expected string or integer"):
        read_rows(path)
    with pytest.raises(DataError, match="'text' has type integer, expected string"):
        read_rows(path, require_labels=False)
    with pytest.raises(DataError, match="'user' has type binary"):
        read_rows(path, require_labels=False, user_column="user")


def test_parquet_values_that_are_missing_or_not_text(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"text": ["x", None], "label": [None, 1]})
    with pytest.raises(DataError, match=r"without a label \(row 1\); 1 row without a text \(row 2"):
        read_rows(path)
    array = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))
    path = write_parquet(tmp_path / "b.parquet", {"text": array, "label": [1]})
    with pytest.raises(DataError, match=r"row 1: .*not UTF-8"):
        read_rows(path)


def test_parquet_cut_short(tmp_path: Path, banking77: Path) -> None:
    content = (banking77 / "test.parquet").read_bytes()
    path = tmp_path / "a.parquet"
    path.write_bytes(content[:-100])
    with pytest.raises(DataError, match="not a readable parquet file"):
        read_rows(path)
    middle = len(content) // 3
    path.write_bytes(content[:middle] + bytes(2000) + content[middle + 2000 :])
    with pytest.raises(DataError):
        read_rows(path)


@pytest.mark.parametrize("names", [{"a": 1}, [1, 2], "x"])
def test_parquet_with_broken_label_names(tmp_path: Path, names: object) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"text": ["x"], "label": [0]}, names)
    with pytest.raises(DataError, match="'label_names' is not a JSON list of strings"):
        read_rows(path)


def test_parquet_without_pyarrow(
    monkeypatch: pytest.MonkeyPatch, banking77: Path, write: Write
) -> None:
    monkeypatch.delitem(sys.modules, "ravan_edge.data.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ravan-edge\[parquet\]'"):
        read_rows(banking77 / "test.parquet")
    assert len(read_rows(write("a.csv", b"text,label\nx,1\n"))) == 1


words = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r", exclude_categories=["Cs"]), min_size=1
).filter(lambda text: bool(text.strip()))
tables = st.lists(st.tuples(words, words, words), min_size=1, max_size=8)


def same(rows: Rows, table: list[tuple[str, str, str]]) -> None:
    assert rows.texts == [row[0] for row in table]
    assert rows.labels == [row[1] for row in table]
    assert rows.users == [row[2] for row in table]


@given(table=tables, delimiter=st.sampled_from(",;\t"))
def test_what_the_csv_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, str, str]], delimiter: str
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["text", "label", "user"])
        writer.writerows(table)
    same(read_rows(path, user_column="user"), table)


@given(table=tables)
def test_json_lines_and_parquet_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    keys = ("text", "label", "user")
    with (folder / "a.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in table)
    same(read_rows(folder / "a.jsonl", user_column="user"), table)
    columns = dict(zip(keys, map(list, zip(*table, strict=True)), strict=True))
    same(read_rows(write_parquet(folder / "a.parquet", columns), user_column="user"), table)


@given(
    content=st.binary(max_size=200), suffix=st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"])
)
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("any") / f"a{suffix}"
    for prefix in (b"", b"text,label\n", b'{"text": "x", "label": 1}\n'):
        path.write_bytes(prefix + content)
        try:
            rows = read_rows(path)
        except DataError as error:
            assert error.hint  # noqa: PT017  (either outcome is right)
        else:
            assert len(rows) > 0
