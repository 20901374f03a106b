"""Memory: measuring processes from outside, and sizes as people write them."""

from ravan_edge.memory.sampler import (
    MemoryPeak,
    PeakSampler,
    cgroup_peak_bytes,
    current_anonymous_bytes,
)
from ravan_edge.memory.sizes import format_bytes, parse_bytes

__all__ = [
    "MemoryPeak",
    "PeakSampler",
    "cgroup_peak_bytes",
    "current_anonymous_bytes",
    "format_bytes",
    "parse_bytes",
]
