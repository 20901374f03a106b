"""Plans: the ways a step is laid out in graph files."""

from ravan_export.plans.whole import WholePlan, build_whole

__all__ = ["WholePlan", "build_whole"]
