"""The plan ``executorch``: a ``.pte`` program, run by ExecuTorch in a process of its own."""

from __future__ import annotations

import sys

from ravan_edge.artifact.opening import Artifact
from ravan_edge.plans.step import RuntimeSettings
from ravan_edge.plans.worker_step import WorkerStep

__all__ = ["open_executorch"]


def open_executorch(artifact: Artifact, settings: RuntimeSettings) -> WorkerStep:
    """The step of plan ``executorch``.

    ExecuTorch's Python package needs torch, which the host never imports; hence the process.

    Raises:
        MissingExtraError: ExecuTorch is not installed.
        ArtifactError: The artifact has no such plan, or ExecuTorch cannot load it.
    """
    return WorkerStep(
        artifact,
        "executorch",
        settings,
        python=sys.executable,
        module="ravan_edge.plans.executorch_worker",
        hint="pip install 'ravan-edge[executorch]'",
    )
