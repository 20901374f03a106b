"""Tensor files against the official library, and what only ours promises."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from ravan_edge.artifact.tensor_file import (
    BASE_BOUNDS,
    HEADS_BOUNDS,
    map_tensors,
    read_header,
    read_tensors,
    tensors_from_bytes,
    tensors_to_bytes,
    write_tensors,
)
from ravan_edge.errors import ArtifactNotFoundError, RavanError, StorageError, TensorFileError
from tests.attacks.make_attacks import all_attacks

Arrays = dict[str, NDArray[Any]]
DTYPES = ("<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "i1", "u1", "?")

names = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=12)
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: st_numpy.arrays(
        np.dtype(dtype), st_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    )
)
tensors = st.dictionaries(names.filter(lambda name: name != "__metadata__"), arrays, max_size=6)
metadata = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4)


def equal(one: Arrays, two: Arrays) -> bool:
    return one.keys() == two.keys() and all(
        one[name].dtype == two[name].dtype
        and one[name].shape == two[name].shape
        and one[name].tobytes() == two[name].tobytes()
        for name in one
    )


@given(tensors, metadata)
def test_what_we_write_the_official_library_reads(held: Arrays, texts: dict[str, str]) -> None:
    content = tensors_to_bytes(held, texts)
    assert equal(safetensors.numpy.load(content), held)
    assert equal(tensors_from_bytes(content, BASE_BOUNDS), held)
    assert read_header(content, BASE_BOUNDS).metadata == texts


@given(tensors, metadata)
def test_what_the_official_library_writes_we_read(held: Arrays, texts: dict[str, str]) -> None:
    content = safetensors.numpy.save(held, texts or None)
    assert equal(tensors_from_bytes(content, BASE_BOUNDS), held)
    assert read_header(content, BASE_BOUNDS).metadata == texts


@given(tensors, metadata)
def test_equal_content_is_equal_bytes(held: Arrays, texts: dict[str, str]) -> None:
    backwards = dict(reversed(held.items()))
    assert tensors_to_bytes(held, texts) == tensors_to_bytes(
        backwards, dict(reversed(texts.items()))
    )


SEEDS = [attack.content for attack in all_attacks() if attack.path.startswith("tensors/accept")]


@given(st.sampled_from(SEEDS), st.integers(0, 200), st.binary(max_size=4), st.integers(0, 4))
def test_changed_bytes_end_in_a_refusal_or_in_arrays(
    seed: bytes, at: int, put: bytes, cut: int
) -> None:
    changed = seed[:at] + put + seed[at + cut :]
    try:
        found = tensors_from_bytes(changed, HEADS_BOUNDS)
    except TensorFileError:
        return
    assert all(np.isfinite(array).all() for array in found.values())


@given(st.binary(max_size=64))
def test_random_headers_end_in_a_refusal(raw: bytes) -> None:
    content = len(raw).to_bytes(8, "little") + raw
    with contextlib.suppress(TensorFileError):
        assert tensors_from_bytes(content, HEADS_BOUNDS) == {}


def test_the_layout_is_byte_exact() -> None:
    content = tensors_to_bytes(
        {"b": np.array([1, 2], "<f4"), "a": np.array([3], "i1"), "c": np.array([4.0])},
        {"z": "1", "a": "2"},
    )
    header = (
        '{"__metadata__":{"a":"2","z":"1"},'
        '"c":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},'
        '"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},'
        '"a":{"dtype":"I8","shape":[1],"data_offsets":[16,17]}}'
    )
    padded = header + " " * (-(8 + len(header)) % 64)
    data = np.array([4.0]).tobytes() + np.array([1, 2], "<f4").tobytes() + b"\x03"
    assert content == len(padded).to_bytes(8, "little") + padded.encode() + data
    assert (len(content) - len(data)) % 64 == 0


def test_other_memory_layouts_are_stored_in_c_order(tmp_path: Path) -> None:
    held = {
        "turned": np.arange(6, dtype="<f4").reshape(2, 3).T,
        "big": np.arange(3, dtype=">f4"),
        "skipping": np.arange(8, dtype="<i4")[::2],
    }
    write_tensors(tmp_path / "file", held)
    for found in (
        read_tensors(tmp_path / "file", BASE_BOUNDS),
        map_tensors(tmp_path / "file", BASE_BOUNDS),
    ):
        for name, array in held.items():
            np.testing.assert_array_equal(found[name], array)


def test_read_arrays_can_be_written_mapped_ones_cannot(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", {"a": np.ones(3, np.float32)})
    read_tensors(tmp_path / "file", HEADS_BOUNDS)["a"][0] = 2
    with pytest.raises(ValueError, match="read-only"):
        map_tensors(tmp_path / "file", HEADS_BOUNDS)["a"][0] = 2


def test_bfloat16_comes_as_its_bits() -> None:
    raw = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    content = len(raw).to_bytes(8, "little") + raw + b"\x80\x3f\x00\x40"
    found = tensors_from_bytes(content, BASE_BOUNDS)["w"]
    assert found.dtype == np.uint16
    assert found.tolist() == [0x3F80, 0x4000]


def test_a_byte_that_is_no_bool() -> None:
    content = bytearray(tensors_to_bytes({"flags": np.array([True, False])}))
    content[-1] = 7
    with pytest.raises(TensorFileError, match=r"'flags': a byte other than 0 and 1 at index \[1\]"):
        tensors_from_bytes(bytes(content), BASE_BOUNDS)


@pytest.mark.parametrize(
    ("expected", "says"),
    [
        ({"a": ("F32", (2,)), "b": ("F32", (1,))}, "'b': is missing"),
        ({}, "'a': is not expected"),
        ({"a": ("F32", (3,))}, r"is F32 \[2\], expected F32 \[3\]"),
        ({"a": ("I32", (2,))}, r"is F32 \[2\], expected I32 \[2\]"),
    ],
)
def test_other_tensors_than_expected(
    tmp_path: Path, expected: dict[str, tuple[str, tuple[int, ...]]], says: str
) -> None:
    write_tensors(tmp_path / "file", {"a": np.ones(2, np.float32)})
    with pytest.raises(TensorFileError, match=says):
        read_tensors(tmp_path / "file", HEADS_BOUNDS, expected)
    with pytest.raises(TensorFileError, match=says):
        tensors_from_bytes((tmp_path / "file").read_bytes(), HEADS_BOUNDS, expected)


@pytest.mark.parametrize("read", [read_tensors, map_tensors])
def test_no_file(tmp_path: Path, read: Any) -> None:
    with pytest.raises(ArtifactNotFoundError, match="no such file"):
        read(tmp_path / "nowhere", HEADS_BOUNDS)
    with pytest.raises(TensorFileError, match="regular file"):
        read(tmp_path, HEADS_BOUNDS)


@pytest.mark.parametrize(
    ("held", "texts"),
    [
        ({"a": np.array(["text"])}, {}),
        ({"a": np.array([object()])}, {}),
        ({"a": np.array([1j])}, {}),
        ({"": np.ones(1)}, {}),
        ({"a b": np.ones(1)}, {}),
        ({"__metadata__": np.ones(1)}, {}),
        ({"a": np.ones((1,) * 9)}, {}),
        ({}, {"k": "x" * 70_000}),
    ],
)
def test_what_cannot_be_stored_leaves_no_file(
    tmp_path: Path, held: Arrays, texts: dict[str, str]
) -> None:
    with pytest.raises(TensorFileError):
        write_tensors(tmp_path / "file", held, texts)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tensors(tmp_path / "file", {"a": np.ones(2, np.float32)})
    before = (tmp_path / "file").read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=r"No space left.*nothing was lost") as refused:
        write_tensors(tmp_path / "file", {"a": np.zeros(2, np.float32)})
    assert refused.value.exit_code == 9
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == before


def peak_bytes(action: Any) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_writing_and_mapping_make_no_second_copy(tmp_path: Path) -> None:
    held = {"large": np.ones(4_000_000, np.float32), "small": np.ones(3, np.float32)}
    path = tmp_path / "file"
    assert peak_bytes(lambda: write_tensors(path, held, durable=False)) < 1_000_000
    assert peak_bytes(lambda: map_tensors(path, BASE_BOUNDS)) < 1_000_000


def test_claims_cost_nothing() -> None:
    """A refused file costs memory in proportion to its own size, not to what it claims."""

    def refuse(content: bytes) -> None:
        with pytest.raises(RavanError):
            tensors_from_bytes(content, HEADS_BOUNDS)

    for attack in all_attacks():
        if attack.path.startswith("tensors/") and attack.says is not None:
            content = attack.content
            assert peak_bytes(partial(refuse, content)) < 3_000_000 + 20 * len(content)
