"""Merging so that a few devices cannot decide the result: pure functions on the vectors of all devices."""

from ravan_edge.merge.robust.blocks import Rows
from ravan_edge.merge.robust.geometric_median import geometric_median
from ravan_edge.merge.robust.krum import krum, multi_krum
from ravan_edge.merge.robust.median import coordinate_median
from ravan_edge.merge.robust.trimmed_mean import trimmed_mean

__all__ = [
    "Rows",
    "coordinate_median",
    "geometric_median",
    "krum",
    "multi_krum",
    "trimmed_mean",
]
