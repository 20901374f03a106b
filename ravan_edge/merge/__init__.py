"""Merging updates into the next version of the heads."""

from ravan_edge.merge.exact import DEFAULT_BOUND_EXPONENT, ExactSum, MergeScale

__all__ = ["DEFAULT_BOUND_EXPONENT", "ExactSum", "MergeScale"]
