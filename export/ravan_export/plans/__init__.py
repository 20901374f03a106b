"""Plans: the ways a step is laid out in files."""

from ravan_export.plans.context import Parts, PlanContext
from ravan_export.plans.registry import FURTHER_PLANS, check_plans
from ravan_export.plans.whole import WholePlan, build_whole

__all__ = ["FURTHER_PLANS", "Parts", "PlanContext", "WholePlan", "build_whole", "check_plans"]
