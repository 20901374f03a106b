"""Labels of files against an artifact's map, and the maps that ``--labels`` makes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravan_edge.data import (
    Columns,
    Rows,
    encode_labels,
    label_map,
    label_map_from_file,
    numbered_labels,
    read_rows,
)
from ravan_edge.errors import DataError, UsageError


def rows_of(*labels: str | int, names: tuple[str, ...] | None = None) -> Rows:
    return Rows(
        source="a.csv",
        file_sha256="0" * 64,
        columns=Columns("text", "label", None),
        texts=["x"] * len(labels),
        labels=list(labels),
        users=None,
        numbers=list(range(2, 2 + len(labels))),
        unit="line",
        label_names=names,
    )


def test_names_and_indices() -> None:
    assert encode_labels(rows_of("b", " a ", 1, "0"), ["a", "b"]).tolist() == [1, 0, 1, 0]


def test_integers_are_names_where_names_are_numbers() -> None:
    stars = ["1", "2", "3"]
    assert encode_labels(rows_of(1, "1", 3), stars).tolist() == [0, 0, 2]
    with pytest.raises(DataError, match="label 0"):
        encode_labels(rows_of(0), stars)


def test_a_parquet_s_own_names_are_mapped_by_name() -> None:
    rows = rows_of(0, 1, 2, names=("c", "a", "b"))
    assert encode_labels(rows, ["a", "b", "c"]).tolist() == [2, 0, 1]


@pytest.mark.parametrize("names", [("0", "1", "2"), ("LABEL_0", "LABEL_1", "LABEL_2")])
def test_a_map_without_real_names_takes_indices_as_they_are(names: tuple[str, ...]) -> None:
    assert encode_labels(rows_of(0, 2, names=("c", "a", "b")), names).tolist() == [0, 2]
    assert encode_labels(rows_of("0", "2"), names).tolist() == [0, 2]
    with pytest.raises(DataError, match="label 'red'"):
        encode_labels(rows_of("red"), names)


def test_an_unknown_label_names_the_row_and_the_known_ones() -> None:
    with pytest.raises(DataError) as caught:
        encode_labels(rows_of("cat", "dig", "dig"), ["dog", "cat"])
    assert caught.value.where == "a.csv, line 3"
    assert "'dig' (line 3, line 4) is not one of the artifact's 2 labels ('dog', 'cat')" in str(
        caught.value
    )
    assert "write 'dog'" in str(caught.value)


def test_more_labels_than_the_artifact_has() -> None:
    with pytest.raises(DataError, match="the data have 3 labels, more than the artifact"):
        encode_labels(rows_of(0, 1, 2), ["a", "b"])
    with pytest.raises(DataError, match=r"label 5 \(line 2\)"):
        encode_labels(rows_of(5), ["a", "b"])
    with pytest.raises(DataError, match="label -1"):
        encode_labels(rows_of(-1), ["a", "b"])
    with pytest.raises(DataError, match=r"label 1 \('z' in this file\)"):
        encode_labels(rows_of(0, 1, names=("a", "z")), ["a", "b"])
    with pytest.raises(DataError, match=r"label 2 \(no name in this file\)"):
        encode_labels(rows_of(2, names=("a", "b")), ["a", "b"])


def test_many_unknown_labels_are_named_in_part() -> None:
    rows = rows_of(*("x",) * 9, *(f"label {number}" for number in range(9)))
    with pytest.raises(DataError) as caught:
        encode_labels(rows, ["a", "b"])
    assert "line 6, ... (9 rows)" in caught.value.message
    assert "9 further labels are not either ('label 0', 'label 1', " in caught.value.message
    assert "the data have 10 labels, more than the artifact" in caught.value.message


def test_rows_without_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\nx\n")
    with pytest.raises(DataError, match=r"no labels.*--label-column"):
        encode_labels(read_rows(path, require_labels=False), ["a", "b"])


names_lists = st.lists(
    st.text(st.characters(codec="utf-8"), min_size=1).map(str.strip).filter(bool),
    min_size=2,
    max_size=10,
    unique=True,
)


@given(names=names_lists, data=st.data())
def test_names_round_trip(names: list[str], data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, len(names) - 1), min_size=1))
    encoded = encode_labels(rows_of(*(names[index] for index in indices)), names)
    assert encoded.tolist() == indices


@given(names=names_lists, data=st.data())
def test_a_shuffled_file_map_round_trips(names: list[str], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(names))))
    own = tuple(names[index] for index in order)
    encoded = encode_labels(rows_of(*range(len(names)), names=own), [*names, "one more"])
    assert encoded.tolist() == list(order)


FILES = [
    ("a.txt", "red\n\ngreen\r\nblue", ("red", "green", "blue")),
    ("a.json", '["red",\n"green"]', ("red", "green")),
    ("a.csv", "text,label\nx,b\ny,a\nz,b\n", ("a", "b")),
    ("n.csv", "text,label\nx,0\ny,3\n", ("0", "1", "2", "3")),
    ("only.csv", "other,label\n,b\n,a\n", ("a", "b")),
    ("a.jsonl", '{"label": 2}\n{"label": 0}\n', ("0", "1", "2")),
]


@pytest.mark.parametrize(("name", "content", "expected"), FILES)
def test_map_from_file(tmp_path: Path, name: str, content: str, expected: tuple[str, ...]) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert label_map_from_file(path) == expected
    assert label_map(str(path)) == expected


def test_map_from_a_parquet_keeps_its_order(banking77: Path) -> None:
    names = label_map_from_file(banking77 / "train.parquet")
    assert len(names) == 77
    assert names[0] == "Refund_not_showing_up"


def test_map_of_a_number() -> None:
    assert label_map("3") == numbered_labels(3) == ("0", "1", "2")
    for bad in ("0", "1", "100001"):
        with pytest.raises(UsageError, match="expected 2 to 100000"):
            label_map(bad)


BAD_FILES = [
    ("a.txt", b"one\n", "1 labels, expected 2"),
    ("a.txt", b"one\ntwo\none\n", "'one' is there twice"),
    ("a.txt", b"\xff\n", "UTF-8"),
    ("a.txt", b"x" * 1001 + b"\ny", "label 0 is 1001 bytes"),
    ("a.json", b"{}", "not a JSON list of strings"),
    ("a.json", b"[1, 2]", "not a JSON list of strings"),
    ("a.json", b"[", "not a JSON list of strings"),
    ("a.json", b'["\\ud800", "x"]', "not valid Unicode"),
    ("a.json", b'["", "x"]', "label 0 is 0 bytes"),
    ("a.xlsx", b"x", "unsupported suffix"),
    ("a.csv", b"text,label\nx,100000\n", "largest label is 100000"),
    ("a.csv", b"text,other\nx,1\n", "no label column"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_bad_map_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        label_map_from_file(path)
    assert caught.value.hint


def test_a_map_file_that_is_not_there(tmp_path: Path) -> None:
    for name in ("a.txt", "a.csv"):
        with pytest.raises(DataError):
            label_map_from_file(tmp_path / name)
