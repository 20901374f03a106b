"""A header taken apart says what the whole one says."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ravan_edge.artifact.tensor_header import (
    HEADS_BOUNDS,
    TensorHeader,
    header_bytes,
    parse_header,
    planned_header,
    split_header,
)
from ravan_edge.errors import TensorFileError

PLANNED = planned_header({"b": ("F32", (2, 3)), "a": ("I32", (4,))}, {})
DATA_BYTES = PLANNED.file_bytes - PLANNED.data_offset


def written(metadata: dict[str, str]) -> bytes:
    return header_bytes(PLANNED.specs, metadata, "test")[8:]


def parsed(raw: bytes) -> TensorHeader | None:
    try:
        return parse_header(raw, 8 + len(raw) + DATA_BYTES, HEADS_BOUNDS, "test")
    except TensorFileError:
        return None


def split(raw: bytes) -> tuple[dict[str, str], bytes] | None:
    try:
        return split_header(raw, HEADS_BOUNDS, "test")
    except TensorFileError:
        return None


def assert_the_same(raw: bytes, known: bytes) -> None:
    """Whatever ``raw`` is: if its tensors look as ``known``, it is as the whole parser says."""
    found = split(raw)
    if found is not None and found[1] == known:
        whole = parsed(raw)
        assert whole is not None
        assert (whole.metadata, whole.specs) == (found[0], PLANNED.specs)


KNOWN = (split(written({"x": "y"})) or ({}, b""))[1]
plain = st.text(st.characters(exclude_characters='"\\', exclude_categories=["C"]), max_size=9)


def test_there_is_something_to_know() -> None:
    assert KNOWN.startswith(b'"a":{')
    assert split_header(written({}), HEADS_BOUNDS, "test") is None


@given(st.dictionaries(plain, plain, min_size=1, max_size=5))
def test_what_our_writer_makes_is_taken_apart(metadata: dict[str, str]) -> None:
    raw = written(metadata)
    found = split(raw)
    assert found is not None
    assert found[0] == metadata
    assert found[1].rstrip() == KNOWN.rstrip()
    assert_the_same(raw, found[1])


any_bytes = st.binary(max_size=6) | st.sampled_from(
    [b'"', b"\\", b'","', b'":"', b"},", b'{"', b"}", b'"__metadata__":{},', b"\xff", b"\x00", b" "]
)


@settings(max_examples=500)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3), any_bytes), max_size=4))
@example([(16, 0, b'"__metadata__":{"x":"y"},')])
@example([(24, 0, b'","x":"z')])
def test_metadata_of_any_bytes(changes: list[tuple[int, int, bytes]]) -> None:
    raw = bytearray(written({"x": "y", "z": "longer"}).removesuffix(KNOWN))
    for place, count, some in changes:
        raw[place : place + count] = some
    assert_the_same(bytes(raw) + KNOWN, KNOWN)
    known_with_spaces = KNOWN + b"  "
    assert_the_same(bytes(raw) + known_with_spaces, known_with_spaces)


def test_metadata_out_of_bounds_are_refused() -> None:
    for metadata in ({str(i): "" for i in range(65)}, {"x": "y" * 65_537}):
        text = ",".join(f'"{key}":"{value}"' for key, value in metadata.items())
        raw = b'{"__metadata__":{' + text.encode() + b"}," + KNOWN
        assert split(raw) is None
        assert parsed(raw) is None
