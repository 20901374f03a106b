"""Reading protobuf's wire format, bounded: what an ONNX file is made of, without the onnx package.

Stricter than protobuf where readers differ, so that no other reader sees another graph than ours:
an unknown field, a singular field that is there twice (protobuf merges or overwrites), an overlong
number and a group are refused.
"""

from __future__ import annotations

from collections.abc import Iterator

from ravan_edge.errors import ArtifactError

__all__ = ["MESSAGES", "WireReader"]

_MAX_FIELDS = 2_000_000  # a graph of 10,000 nodes has about 300,000

# Field number -> kind: v a number, l a text or message, f a float; capitals: repeated. N: numbers,
# packed into one field or one by one.
_METADATA = "L"
MESSAGES: dict[str, dict[int, str]] = {
    "model": {
        1: "v", 2: "l", 3: "l", 4: "l", 5: "v", 6: "l", 7: "l", 8: "L", 14: _METADATA, 20: "L",
        25: "L", 26: "L",
    },
    "opset": {1: "l", 2: "v"},
    "graph": {
        1: "L", 2: "l", 5: "L", 10: "l", 11: "L", 12: "L", 13: "L", 14: "L", 15: "L", 16: _METADATA,
    },
    "node": {
        1: "L", 2: "L", 3: "l", 4: "l", 5: "L", 6: "l", 7: "l", 8: "l", 9: _METADATA, 10: "L",
    },
    "attribute": {
        1: "l", 2: "f", 3: "v", 4: "l", 5: "l", 6: "l", 7: "N", 8: "N", 9: "L", 10: "L", 11: "L",
        13: "l", 14: "l", 15: "L", 20: "v", 21: "l", 22: "l", 23: "L",
    },
    "value": {1: "l", 2: "l", 3: "l", 4: _METADATA},
    "type": {1: "l", 4: "l", 5: "l", 6: "l", 8: "l", 9: "l"},
    "tensor type": {1: "v", 2: "l"},
    "shape": {1: "L"},
    "dimension": {1: "v", 2: "l", 3: "l"},
    "tensor": {
        1: "N", 2: "v", 3: "l", 4: "N", 5: "N", 6: "L", 7: "N", 8: "l", 9: "l", 10: "N", 11: "N",
        12: "l", 13: "L", 14: "v", 16: _METADATA,
    },
    "entry": {1: "l", 2: "l"},
}  # fmt: skip
"""The messages of onnx.proto that we look into, and every field they may have."""

_WIRES = {"v": {0}, "l": {2}, "f": {5}, "L": {2}, "N": {0, 1, 2, 5}}


class WireReader:
    """The fields of one file.

    Args:
        data: The whole file.
        where: How errors call it.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self.data = data
        self.where = where
        self._fields_left = _MAX_FIELDS

    def refuse(self, message: str) -> ArtifactError:
        """The error for this file."""
        return ArtifactError(message, where=self.where, hint="export the artifact again")

    def number(self, position: int, end: int) -> tuple[int, int]:
        """A varint at ``position``, unsigned: (value, position behind it)."""
        value = shift = 0
        while position < end:
            byte = self.data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                return value, position
            shift += 7
            if shift > 63:
                break
        raise self.refuse(f"not an ONNX file: a broken number before byte {position}")

    def fields(self, kind: str, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Fields of a message ``[begin, end)`` as (number, a, b).

        A number's value is ``a``; a text, a message or packed numbers lie in the bytes ``[a, b)``.
        For a single number of a repeated field ``b`` is -1.

        Raises:
            ArtifactError: The bytes are no such message.
        """
        known = MESSAGES[kind]
        seen = set()
        position = begin
        while position < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise self.refuse(f"more than {_MAX_FIELDS} fields")
            key, position = self.number(position, end)
            field, wire = key >> 3, key & 7
            cardinality = known.get(field)
            if cardinality is None or wire not in _WIRES[cardinality]:
                raise self.refuse(
                    f"not an ONNX file we know: field {field} of wire type {wire} in a {kind}"
                )
            if cardinality.islower():
                if field in seen:
                    raise self.refuse(f"field {field} is twice in a {kind}")
                seen.add(field)
            if wire == 0:
                value, position = self.number(position, end)
                yield field, value, -1
                continue
            if wire == 2:
                size, position = self.number(position, end)
            else:
                size = 8 if wire == 1 else 4
            if size > end - position:
                raise self.refuse(f"not an ONNX file, or cut off: a {kind} ends too early")
            yield field, position, position + size
            position += size

    def text(self, begin: int, end: int) -> str:
        """The text in ``[begin, end)``.

        Raises:
            ArtifactError: It is not UTF-8, or longer than 64 KiB.
        """
        if end - begin > 1 << 16:
            raise self.refuse("a name is longer than 64 KiB")
        try:
            return self.data[begin:end].decode("utf-8")
        except UnicodeDecodeError:
            raise self.refuse("a name is not UTF-8") from None

    def numbers(self, a: int, b: int, most: int) -> list[int]:
        """Numbers of one repeated field: packed in ``[a, b)``, or the single number ``a``."""
        if b == -1:
            return [a]
        values = []
        while a < b:
            value, a = self.number(a, b)
            values.append(value)
            if len(values) > most:
                raise self.refuse(f"more than {most} dimensions")
        return values
