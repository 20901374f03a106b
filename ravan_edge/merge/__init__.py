"""Merging updates into the next version of the heads."""

from ravan_edge.merge.exact import DEFAULT_BOUND_EXPONENT, ExactSum, MergeScale
from ravan_edge.merge.merge_settings import MergeName, MergeSettings
from ravan_edge.merge.merging import Gathered, Gathering, Merged, combined, merge
from ravan_edge.merge.rule import RoundMode, RoundRule, Weighting
from ravan_edge.merge.server_optimizer import Moments, ServerOptimizerName
from ravan_edge.merge.streaming import add_update, sum_updates
from ravan_edge.merge.vectors import HeadVectors
from ravan_edge.merge.weight import FULL_FACTOR, MOST_COUNTED, PLAIN, Weight, staleness_factor

__all__ = [
    "DEFAULT_BOUND_EXPONENT",
    "FULL_FACTOR",
    "MOST_COUNTED",
    "PLAIN",
    "ExactSum",
    "Gathered",
    "Gathering",
    "HeadVectors",
    "MergeName",
    "MergeScale",
    "MergeSettings",
    "Merged",
    "Moments",
    "RoundMode",
    "RoundRule",
    "ServerOptimizerName",
    "Weight",
    "Weighting",
    "add_update",
    "combined",
    "merge",
    "staleness_factor",
    "sum_updates",
]
