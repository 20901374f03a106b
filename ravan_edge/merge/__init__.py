"""Merging updates into the next version of the heads."""

from ravan_edge.merge.exact import DEFAULT_BOUND_EXPONENT, ExactSum, MergeScale
from ravan_edge.merge.streaming import add_update, sum_updates

__all__ = ["DEFAULT_BOUND_EXPONENT", "ExactSum", "MergeScale", "add_update", "sum_updates"]
