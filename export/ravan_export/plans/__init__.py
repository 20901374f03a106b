"""Plans: the ways a step is laid out in graph files."""

from ravan_export.plans.whole import Parts, WholePlan, build_whole

__all__ = ["Parts", "WholePlan", "build_whole"]
