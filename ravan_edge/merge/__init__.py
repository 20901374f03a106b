"""Merging updates into the next version of the heads."""

from ravan_edge.merge.exact import DEFAULT_BOUND_EXPONENT, ExactSum, MergeScale
from ravan_edge.merge.rule import RoundMode, RoundRule, Weighting
from ravan_edge.merge.streaming import add_update, sum_updates
from ravan_edge.merge.weight import FULL_FACTOR, MOST_COUNTED, PLAIN, Weight, staleness_factor

__all__ = [
    "DEFAULT_BOUND_EXPONENT",
    "FULL_FACTOR",
    "MOST_COUNTED",
    "PLAIN",
    "ExactSum",
    "MergeScale",
    "RoundMode",
    "RoundRule",
    "Weight",
    "Weighting",
    "add_update",
    "staleness_factor",
    "sum_updates",
]
