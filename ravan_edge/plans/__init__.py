"""Plans: the ways to compute a training step, all behind one protocol."""

from ravan_edge.plans.registry import PLANS, PlanKind, check_plan, open_step
from ravan_edge.plans.step import Evaluation, RuntimeSettings, Step, StepResult
from ravan_edge.plans.whole import WholeStep

__all__ = [
    "PLANS",
    "Evaluation",
    "PlanKind",
    "RuntimeSettings",
    "Step",
    "StepResult",
    "WholeStep",
    "check_plan",
    "open_step",
]
