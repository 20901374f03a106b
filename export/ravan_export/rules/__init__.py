"""One rule for each operator of a captured model: its value and its gradient, as ``ai.onnx`` nodes."""

from ravan_export.rules import (
    attention,
    constants,
    convolve,
    linear,
    lookup,
    normalise,
    pointwise,
    reduce,
    shape,
)
from ravan_export.rules.registry import RULES, Call

__all__ = [
    "RULES",
    "Call",
    "attention",
    "constants",
    "convolve",
    "linear",
    "lookup",
    "normalise",
    "pointwise",
    "reduce",
    "shape",
]
