"""A tensor of the graph, with what has not been computed yet: a factor, a permutation, a shape.

Most of what an exported graph loses against the plain matrix products are passes over large arrays
that only scale or reorder. So a value carries these lazily: multiplying by a number changes
``scale`` (a later ``Gemm`` takes it as its ``alpha``), transposing changes ``permutation`` (two of
them compose, often to nothing), and a [batch, length, width] tensor is kept as [tokens, width], the
form in which ``Gemm`` takes and returns it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnx import TensorProto

__all__ = ["BOOL", "FLOAT", "INT32", "INT64", "Dim", "Shape", "Value", "broadcast"]

Dim = int | str
"""A dimension: a number, or the name of a dynamic one (an expression of names counts as a name)."""
Shape = tuple[Dim, ...]

FLOAT = int(TensorProto.FLOAT)
INT64 = int(TensorProto.INT64)
INT32 = int(TensorProto.INT32)
BOOL = int(TensorProto.BOOL)


@dataclass(frozen=True, slots=True)
class Value:
    """What a tensor of the graph stands for.

    Args:
        name: The tensor in the graph.
        shape: The logical shape.
        dtype: An ``onnx.TensorProto`` element type.
        scale: The logical value is ``scale`` times the tensor.
        rows: The tensor is stored as [product of the leading dimensions, last dimension].
        permutation: The logical value is ``transpose(tensor, permutation)``; empty: as stored.
    """

    name: str
    shape: Shape
    dtype: int = FLOAT
    scale: float = 1.0
    rows: bool = False
    permutation: tuple[int, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether the tensor is stored with its logical shape and order (a factor may be open)."""
        return not self.rows and not self.permutation

    @property
    def layout(self) -> tuple[bool, tuple[int, ...]]:
        """How it is stored; values of one shape and layout combine element by element."""
        return self.rows, self.permutation

    def times(self, factor: float) -> Value:
        """The value times a number, not computed yet."""
        return replace(self, scale=self.scale * factor)


def broadcast(*shapes: Shape) -> Shape:
    """The shape of an elementwise result, by numpy's rules.

    >>> broadcast(("batch", 1, 4), ("length", 1))
    ('batch', 'length', 4)
    """
    rank = max(len(shape) for shape in shapes)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    result: list[Dim] = []
    for dims in zip(*padded, strict=True):
        wide = {dim for dim in dims if dim != 1}
        if len(wide) > 1:
            raise ValueError(f"shapes {shapes} do not broadcast")
        result.append(wide.pop() if wide else 1)
    return tuple(result)
