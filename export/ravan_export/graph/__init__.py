"""Building ONNX graphs: values with lazy layouts, the builder, and reverse differentiation."""

from ravan_export.graph.builder import Builder
from ravan_export.graph.tape import Tape, Var
from ravan_export.graph.value import Dim, Value

__all__ = ["Builder", "Dim", "Tape", "Value", "Var"]
