from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ravan_edge.plans.frames import Frame, read_frame, write_frame

DTYPES = ("float32", "float64", "int32", "int64", "bool", "uint8")


def crossed(frame: Frame) -> Frame:
    pipe = io.BytesIO()
    write_frame(pipe, frame)
    pipe.seek(0)
    return read_frame(pipe)


@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_dims=4))
    ),
    st.floats(),
)
def test_everything_crosses_bit_by_bit(array: np.ndarray, number: float) -> None:
    found = crossed(Frame("train", {"loss": number}, {"a": array, "b.c": array.T}))
    assert found.op == "train"
    assert struct.pack("<d", found.fields["loss"])[:6] == struct.pack("<d", number)[:6] or (
        np.isnan(number) and np.isnan(found.fields["loss"])
    )
    for name, expected in (("a", array), ("b.c", array.T)):
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].shape == expected.shape
        assert found.arrays[name].tobytes() == expected.tobytes()


def test_an_array_of_a_type_that_no_message_may_hold() -> None:
    with pytest.raises(ValueError, match="object"):
        write_frame(io.BytesIO(), Frame("train", arrays={"a": np.array([object()])}))


def raw(header: object, rest: bytes = b"", magic: bytes = b"RVF1") -> io.BytesIO:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return io.BytesIO(magic + struct.pack("<I", len(text)) + text + rest)


def listed(*items: object) -> dict[str, object]:
    return {"op": "x", "fields": {}, "arrays": list(items)}


@pytest.mark.parametrize(
    ("pipe", "match"),
    [
        (raw(listed(), magic=b"loss"), "no message"),
        (io.BytesIO(b"RVF1\xff\xff\xff\xff"), "a header of"),
        (raw(b"{nonsense"), "Expecting"),
        (raw(b"\xff\xfe{}"), "decode"),
        (raw(b"[" * 100_000), "nested"),
        (raw([]), "without op"),
        (raw({"op": "x", "fields": {}}), "without op"),
        (raw({"op": 3, "fields": {}, "arrays": []}), "wrong types"),
        (raw(listed("a")), "name, dtype and shape"),
        (raw(listed(["a", "object", [1]])), "'object'"),
        (raw(listed(["a", ["float32"], [1]])), "float32"),
        (raw(listed(["a", "float32", [-1]])), "shape"),
        (raw(listed(["a", "float32", [True]])), "shape"),
        (raw(listed(["a", "float32", [1] * 9])), "shape"),
        (raw(listed(["a", "float32", "3"])), "shape"),
        (raw(listed(["a", "float32", [1 << 40, 1 << 40]])), "more than"),
        (raw(listed(["a", "float32", [0]], ["a", "float32", [0]])), "'a'"),
        (raw(listed(*[[str(i), "bool", [0]] for i in range(100_001)])), "expected at most"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_before_memory_is_taken(pipe: io.BytesIO, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read_frame(pipe)


@pytest.mark.parametrize("kept", [0, 3, 8, 20, -1])
def test_a_torn_message_is_the_end(kept: int) -> None:
    whole = io.BytesIO()
    write_frame(whole, Frame("train", {}, {"a": np.arange(10)}))
    with pytest.raises(EOFError):
        read_frame(io.BytesIO(whole.getvalue()[:kept]))
