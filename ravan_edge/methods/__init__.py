"""Methods: what trains, how it reaches a graph, how it merges."""

from ravan_edge.methods.choice import HeadScore, choose_heads
from ravan_edge.methods.layout import ParameterLayout, Piece, Segment, Vector
from ravan_edge.methods.method import HeadIndices, Method, Training
from ravan_edge.methods.plain import Plain, fedit_table
from ravan_edge.methods.ravan import Ravan, rank_for_lora_budget, ravan_table
from ravan_edge.methods.registry import method_for

__all__ = [
    "HeadIndices",
    "HeadScore",
    "Method",
    "ParameterLayout",
    "Piece",
    "Plain",
    "Ravan",
    "Segment",
    "Training",
    "Vector",
    "choose_heads",
    "fedit_table",
    "method_for",
    "rank_for_lora_budget",
    "ravan_table",
]
