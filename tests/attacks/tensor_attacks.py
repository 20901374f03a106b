"""Abuses of tensor files, read with the bounds of heads and updates."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

from tests.attacks.attack import Attack

__all__ = ["tensor_attacks"]

FOUR = struct.pack("<4f", 1, 2, 3, 4)


def _file(header: object, data: bytes = FOUR, *, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def _entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes


def _raw_entry(shape: str = "[4]", offsets: str = "[0,16]", dtype: str = '"F32"') -> bytes:
    return (f'{{"t":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}').encode()


def _named(
    name: str, tries: str, says: str | None, content: bytes, *, large: bool = False
) -> Attack:
    return Attack(f"tensors/{name}.safetensors", tries, says, content, large)


def tensor_attacks() -> Iterator[Attack]:
    yield from _headers()
    yield from _json()
    yield from _entries()
    yield from _offsets()
    yield from _values()
    yield from _accepted()


def _headers() -> Iterator[Attack]:
    good = _file({"t": _entry()})
    yield _named("empty", "no bytes at all", "0 bytes", b"")
    yield _named("seven-bytes", "too short for the length", "7 bytes", good[:7])
    yield _named(
        "length-huge",
        "header length 2^64 - 1",
        "18446744073709551615",
        _file(b"{}", length=2**64 - 1),
    )
    yield _named(
        "length-overflow",
        "8 + length wraps to a small number",
        "header of",
        _file(b"{}", length=2**64 - 8),
    )
    yield _named(
        "length-beyond-bound", "header of 1 MiB + 1, all there", "1048577",
        _file(b"{}" + b" " * (2**20 - 1), b""), large=True,
    )  # fmt: skip
    yield _named(
        "length-beyond-file", "header longer than the file", "cut off", _file(b"{}", b"", length=3)
    )
    yield _named("header-cut", "file ends inside the header", "cut off", good[:30])
    yield _named("header-empty", "header of 0 bytes", "JSON object", _file(b"", b""))
    yield _named("data-cut", "file ends inside the data", "'t'", good[:-1])
    yield _named("data-missing", "no data at all", "'t'", good[:-16])
    many = ",".join(
        f'"t{index}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for index in range(4097)
    )
    yield _named(
        "too-many-tensors", "4,097 tensors", "4096", _file(f"{{{many}}}".encode(), b""), large=True
    )


def _json() -> Iterator[Attack]:
    yield _named("not-json", "header is no JSON", "header", _file(b"{nonsense}"))
    yield _named("json-array", "header is an array", "JSON object", _file(b"[]", b""))
    yield _named("json-two", "two JSON documents", "header", _file(b"{}{}", b""))
    yield _named("json-leading-space", "a space before {", "JSON object", _file(b" {}", b""))
    yield _named(
        "json-newline-padding", "padded with newlines", "JSON object", _file(b"{}\n\n", b"")
    )
    yield _named("json-nul-padding", "padded with NUL bytes", "JSON object", _file(b"{}\0\0", b""))
    yield _named("json-bom", "a byte order mark", "JSON object", _file(b"\xef\xbb\xbf{}", b""))
    yield _named("json-latin1", "not UTF-8", "header", _file(b'{"\xe9":1}', b""))
    yield _named("json-utf16", "UTF-16", "JSON object", _file("{}".encode("utf-16-le"), b""))
    deep = b'{"t":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
    yield _named("json-deep", "nested 20,000 deep", "nested", _file(deep, b""))
    wide = b'{"t":[' + b"[]," * 20_000 + b"[]]}"
    yield _named(
        "json-wide",
        "20,000 empty arrays: many objects for few bytes",
        "more than",
        _file(wide, b""),
    )
    one = json.dumps(_entry()).encode()
    yield _named(
        "duplicate-tensor", "one name twice", "'t'", _file(b'{"t":' + one + b',"t":' + one + b"}")
    )
    yield _named(
        "duplicate-key", "dtype twice in an entry", "'dtype'",
        _file(b'{"t":{"dtype":"I32","dtype":"F32","shape":[4],"data_offsets":[0,16]}}'),
    )  # fmt: skip
    yield _named(
        "duplicate-escaped", "one name twice, once escaped", "'t'",
        _file(b'{"t":' + one + b',"\\u0074":' + one + b"}"),
    )  # fmt: skip
    yield _named("metadata-number", "metadata value is a number", "__metadata__",
                 _file({"__metadata__": {"version": 1}, "t": _entry()}))  # fmt: skip
    yield _named("metadata-nested", "metadata value is an object", "__metadata__",
                 _file({"__metadata__": {"a": {"b": "c"}}, "t": _entry()}))  # fmt: skip
    yield _named("metadata-list", "metadata is a list", "__metadata__",
                 _file({"__metadata__": ["a"], "t": _entry()}))  # fmt: skip
    yield _named("metadata-null", "metadata is null", "__metadata__",
                 _file({"__metadata__": None, "t": _entry()}))  # fmt: skip
    yield _named("metadata-many", "65 metadata keys", "65 keys",
                 _file({"__metadata__": {f"k{i}": "" for i in range(65)}, "t": _entry()}))  # fmt: skip
    yield _named("metadata-long", "65,537 bytes of metadata", "65537",
                 _file({"__metadata__": {"k": "x" * 65_536}, "t": _entry()}))  # fmt: skip
    yield _named("metadata-surrogate", "half a surrogate pair", "__metadata__",
                 _file(b'{"__metadata__":{"k":"\\ud800"},"t":' + one + b"}"))  # fmt: skip


def _entries() -> Iterator[Attack]:
    yield _named("entry-list", "an entry is a list", "'t'", _file({"t": [1]}))
    yield _named(
        "entry-extra-key", "a key that the format has not", "'t'", _file({"t": _entry(x=1)})
    )
    without = {"dtype": "F32", "shape": [4]}
    yield _named("entry-missing-key", "no data_offsets", "'t'", _file({"t": without}))
    for name, tensor, tries in (
        ("empty", "", "an empty name"),
        ("control", "a\x1b[2Jb", "a name that clears the terminal"),
        ("newline", "a\nb", "a name with a line break"),
        ("nul", "a\0b", "a name with a NUL"),
        ("unicode", "t\u00e9", "a name outside ASCII"),
        ("long", "n" * 257, "a name of 257 bytes"),
    ):
        yield _named(f"name-{name}", tries, "name", _file({tensor: _entry()}))
    for name, dtype, tries in (
        ("unknown", '"F31"', "a dtype that does not exist"),
        ("lower", '"f32"', "a dtype in lower case"),
        ("number", "1", "a dtype that is a number"),
        ("f64", '"F64"', "a dtype that heads and updates may not have"),
    ):
        yield _named(f"dtype-{name}", tries, "'t'", _file(_raw_entry("[2]", dtype=dtype)))
    yield _named(
        "dtype-f8",
        "a newer dtype, F8_E4M3",
        "F8_E4M3",
        _file(_raw_entry("[16]", dtype='"F8_E4M3"')),
    )
    for name, shape, tries in (
        ("negative", "[-4]", "a negative dimension"),
        ("two-negatives", "[-2,-2]", "negative dimensions whose product fits"),
        ("float", "[4.0]", "a dimension with a fraction"),
        ("exponent", "[4e0]", "a dimension with an exponent"),
        ("true", "[true]", "a dimension that is true"),
        ("text", '["4"]', "a dimension that is text"),
        ("null", "null", "no shape"),
        ("nan", "[NaN]", "a dimension that is NaN"),
        ("nine", "[1,1,1,1,1,1,1,1,4]", "nine dimensions"),
        ("large", f"[{2**40 + 1}]", "a dimension above 2^40"),
        ("overflow", f"[{2**32},{2**32}]", "a product of 2^64: 0 in 64 bits"),
        ("overflow-fits", f"[4,{2**31},{2**33}]", "a product that is 0 in 64 bits, times 4"),
        ("zero-overflow", f"[0,{2**40},{2**40}]", "0 elements, other dimensions overflow"),
        ("digits", f"[{'9' * 5000}]", "a number of 5,000 digits"),
        ("wrong", "[5]", "shape and bytes differ"),
    ):
        says = "header" if name in ("float", "exponent", "nan", "digits") else "'t'"
        offsets = "[0,0]" if name.startswith("zero") else "[0,16]"
        data = b"" if name.startswith("zero") else FOUR
        yield _named(f"shape-{name}", tries, says, _file(_raw_entry(shape, offsets), data))


def _offsets() -> Iterator[Attack]:
    for name, offsets, tries in (
        ("reversed", "[16,0]", "end before begin"),
        ("negative", "[-16,0]", "a negative offset"),
        ("true", "[false,16]", "an offset that is false"),
        ("text", '["0","16"]', "offsets that are text"),
        ("three", "[0,16,16]", "three offsets"),
        ("beyond", "[16,32]", "outside the file"),
        ("huge", f"[{2**63},{2**63 + 16}]", "offsets that are negative in 64 bits"),
        ("too-few-bytes", "[0,12]", "fewer bytes than the shape needs"),
    ):
        yield _named(f"offsets-{name}", tries, "'t'", _file(_raw_entry(offsets=offsets)))
    yield _named(
        "offsets-float",
        "an offset with a fraction",
        "header",
        _file(_raw_entry(offsets="[0,16.0]")),
    )
    two = {"a": _entry(), "b": _entry(data_offsets=[8, 24])}
    yield _named("overlap", "two tensors share bytes", "'b'", _file(two, FOUR + FOUR[:8]))
    same = {"a": _entry(), "b": _entry()}
    yield _named("overlap-whole", "two tensors are the same bytes", "'b'", _file(same))
    hole = {"a": _entry(), "b": _entry(data_offsets=[20, 36])}
    yield _named("hole", "4 bytes belong to no tensor", "'b'", _file(hole, FOUR + b"hide" + FOUR))
    first = {"t": _entry(data_offsets=[4, 20])}
    yield _named("hole-first", "bytes before the first tensor", "'t'", _file(first, b"hide" + FOUR))
    yield _named(
        "trailing", "bytes behind the last tensor", "1 bytes", _file({"t": _entry()}, FOUR + b"x")
    )
    yield _named("trailing-only", "data, but no tensor", "4 bytes", _file(b"{}", b"hide"))
    gap = {"a": _entry(), "z": _entry(shape=[0], data_offsets=[8, 8])}
    yield _named(
        "zero-inside", "an empty tensor inside another", "begins at 8, expected 16", _file(gap)
    )


def _values() -> Iterator[Attack]:
    for name, value in (("nan", "nan"), ("inf", "inf"), ("minus-inf", "-inf")):
        data = struct.pack("<4f", 1, 2, float(value), 4)
        yield _named(f"value-{name}", f"a value is {value}", "[2]", _file({"t": _entry()}, data))
    signalling = FOUR[:12] + b"\x01\x00\x80\x7f"
    yield _named(
        "value-signalling-nan", "a signalling NaN", "[3]", _file({"t": _entry()}, signalling)
    )


def _accepted() -> Iterator[Attack]:
    yield _named("accept-empty", "no tensor at all", None, _file(b"{}", b""))
    yield _named("accept-spaces", "header padded with spaces", None, _file(b"{}" + b" " * 54, b""))
    yield _named(
        "accept-scalar",
        "no dimensions: one number",
        None,
        _file(_raw_entry("[]", "[0,4]"), FOUR[:4]),
    )
    yield _named("accept-zero", "a dimension of 0", None, _file(_raw_entry("[3,0]", "[0,0]"), b""))
    swapped = {"b": _entry(data_offsets=[16, 32]), "a": _entry()}
    yield _named(
        "accept-order", "header order is not data order", None, _file(swapped, FOUR + FOUR)
    )
    yield _named(
        "accept-unaligned", "data start at an odd byte", None, _file(_raw_entry() + b"  ", FOUR)
    )
    yield _named("accept-white-space", "white space inside the JSON", None,
                 _file(json.dumps({"t": _entry()}, indent=1).encode()))  # fmt: skip
    metadata = {"__metadata__": {"k": "\u00fc \U0001f600"}, "t": _entry()}
    yield _named("accept-metadata", "metadata outside ASCII", None, _file(metadata))
    yield _named("accept-denormal", "denormal numbers and minus zero", None,
                 _file({"t": _entry()}, b"\x01\0\0\0" + b"\0\0\0\x80" + FOUR[:8]))  # fmt: skip
