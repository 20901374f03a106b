"""The plans of this version: how each is opened, and what each cannot do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ravan_edge.artifact.opening import Artifact
from ravan_edge.errors import UsageError
from ravan_edge.plans.executorch import open_executorch
from ravan_edge.plans.ort_training import OrtTrainingStep
from ravan_edge.plans.step import RuntimeSettings, Step
from ravan_edge.plans.whole import WholeStep

__all__ = ["PLANS", "PlanKind", "open_step"]


@dataclass(frozen=True, slots=True)
class PlanKind:
    """One plan.

    Args:
        open: Opens its step.
        runtime: What computes it.
        cannot: What it cannot do and ``whole`` can, one sentence each. ``ravan inspect`` shows them.
    """

    open: Callable[[Artifact, RuntimeSettings], Step]
    runtime: str
    cannot: tuple[str, ...] = ()


PLANS: Mapping[str, PlanKind] = {
    "whole": PlanKind(WholeStep, "onnxruntime"),
    "executorch": PlanKind(
        open_executorch,
        "ExecuTorch, XNNPACK",
        (
            "any size: rows and tokens are fixed at export; smaller batches are padded, longer rows refused",
            "fewer heads: all run, those left out with zeros, so a smaller budget saves no time",
            "sharing the base: every process packs its own copy, and the data file is a second one",
        ),
    ),
    "ort-training": PlanKind(
        OrtTrainingStep,
        "onnxruntime-training 1.19.2",
        (
            "run beside onnxruntime: it needs an environment of its own, with Python 3.12 at most",
            "fewer heads: all run, those left out with zeros, so a smaller budget saves no time",
        ),
    ),
}


def open_step(artifact: Artifact, plan: str, settings: RuntimeSettings) -> Step:
    """The step of one plan of an opened artifact.

    Raises:
        UsageError: There is no such plan in this version.
        ArtifactError: The artifact does not have it, or its graphs cannot be loaded.
        MissingExtraError: Its runtime is not installed.
    """
    if plan not in PLANS:
        raise UsageError(f"no plan {plan!r}; this version has {', '.join(PLANS)}", where="--plan")
    return PLANS[plan].open(artifact, settings)
