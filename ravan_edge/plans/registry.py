"""Opening the step of a plan by the plan's name."""

from __future__ import annotations

from ravan_edge.artifact.opening import Artifact
from ravan_edge.errors import UsageError
from ravan_edge.plans.step import RuntimeSettings, Step
from ravan_edge.plans.whole import WholeStep

__all__ = ["PLANS", "open_step"]

PLANS = {"whole": WholeStep}


def open_step(artifact: Artifact, plan: str, settings: RuntimeSettings) -> Step:
    """The step of one plan of an opened artifact.

    Raises:
        UsageError: There is no such plan in this version.
        ArtifactError: The artifact does not have it, or its graphs cannot be loaded.
        MissingExtraError: Its runtime is not installed.
    """
    if plan not in PLANS:
        raise UsageError(f"no plan {plan!r}; this version has {', '.join(PLANS)}", where="--plan")
    return PLANS[plan](artifact, settings)
