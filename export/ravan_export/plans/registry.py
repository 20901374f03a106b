"""The plans that can stand beside ``whole``, by name; each is one file here that writes its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ravan_edge.artifact.manifest import Plan
from ravan_edge.errors import UsageError
from ravan_export.plans.context import PlanContext
from ravan_export.plans.executorch import write_executorch
from ravan_export.plans.ort_training import write_ort_training

__all__ = ["FURTHER_PLANS", "check_plans"]

FURTHER_PLANS: Mapping[str, Callable[[PlanContext], Plan]] = {
    "executorch": write_executorch,
    "ort-training": write_ort_training,
}


def check_plans(plans: Sequence[str]) -> tuple[str, ...]:
    """The plans without ``whole``, which every artifact has.

    Raises:
        UsageError: One is unknown or named twice, or ``whole`` is not among them.
    """
    known = ", ".join(("whole", *FURTHER_PLANS))
    wrong = [name for name in plans if name != "whole" and name not in FURTHER_PLANS]
    if wrong or len(set(plans)) != len(plans):
        raise UsageError(
            f"{','.join(plans)!r} is no list of plans", where="--plans", hint=f"known are {known}"
        )
    if "whole" not in plans:
        raise UsageError(
            "whole is missing: its check and its base serve all plans",
            where="--plans",
            hint=f"write --plans {','.join(('whole', *plans))}",
        )
    return tuple(name for name in plans if name != "whole")
