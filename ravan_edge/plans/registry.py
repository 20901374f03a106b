"""The plans of this version: how each is opened, and what each cannot do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ravan_edge.artifact.manifest import Manifest
from ravan_edge.artifact.opening import Artifact
from ravan_edge.errors import ArtifactError, UsageError
from ravan_edge.plans.executorch import open_executorch
from ravan_edge.plans.ort_training import OrtTrainingStep
from ravan_edge.plans.step import RuntimeSettings, Step
from ravan_edge.plans.whole import WholeStep

__all__ = ["PLANS", "PlanKind", "check_plan", "open_step"]


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
            "any size: rows and tokens are fixed at export; smaller batches are padded, longer texts cut",
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


def check_plan(plan: str, manifest: Manifest, where: str | None = None) -> None:
    """Refuse a plan that is unknown, or that an artifact does not have.

    Args:
        plan: Its name.
        manifest: The artifact's.
        where: The artifact's folder.

    Raises:
        UsageError: There is no such plan in this version.
        ArtifactError: The artifact does not have it.
    """
    if plan not in PLANS:
        raise UsageError(
            f"no plan {plan!r}; this version has {', '.join(PLANS)}",
            where="--plan",
            hint="use one of them",
        )
    if plan not in manifest.plans:
        wanted = ",".join(dict.fromkeys(("whole", plan)))
        raise ArtifactError(
            f"the artifact has no plan {plan!r}; found {', '.join(sorted(manifest.plans)) or 'none'}",
            where=where,
            hint=f"use a plan that is there, or export the model again with --plans {wanted}",
        )


def open_step(artifact: Artifact, plan: str, settings: RuntimeSettings) -> Step:
    """The step of one plan of an opened artifact.

    Raises:
        UsageError: There is no such plan in this version.
        ArtifactError: The artifact does not have it, or its graphs cannot be loaded.
        MissingExtraError: Its runtime is not installed.
    """
    check_plan(plan, artifact.manifest, str(artifact.folder))
    return PLANS[plan].open(artifact, settings)
