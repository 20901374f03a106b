"""The plan ``ort-training``: the training runtime of ONNX Runtime 1.19.2, in its own environment.

onnxruntime-training-cpu brings the same module as onnxruntime, so the two cannot be in one
environment. A process of the other environment runs the step (ravan_edge/plans/worker_step.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from ravan_edge.artifact.opening import Artifact
from ravan_edge.errors import MissingExtraError
from ravan_edge.plans.step import RuntimeSettings
from ravan_edge.plans.worker_step import WorkerStep

__all__ = ["BUILD_HINT", "ENVIRONMENT_VARIABLE", "OrtTrainingStep", "find_python"]

ENVIRONMENT_VARIABLE = "RAVAN_ORT_TRAINING"
_NAME = ".venv-ort-training"
_MODULE = "ravan_edge.plans.ort_training_worker"


def _own_folder() -> Path:
    """Where a person without a checkout makes it."""
    return Path(platformdirs.user_data_dir("ravan-edge", False)) / "ort-training"


def _interpreter(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _build_hint() -> str:
    if (Path(__file__).absolute().parents[2] / "Makefile").is_file():
        return "make ort-training"
    folder, windows = _own_folder(), sys.platform == "win32"
    return (
        f'{"py -3.11" if windows else "python3.11"} -m venv "{folder}" && '
        f'"{_interpreter(folder)}" -m pip install "ravan-edge[ort-training]"'
    )


BUILD_HINT = _build_hint()
"""The command that makes the environment."""


def _places() -> Iterator[Path]:
    # Not the current folder: it may be one that somebody else filled.
    yield Path(sys.prefix).parent / _NAME
    yield _own_folder()


def find_python() -> Path:
    """The interpreter of the environment with onnxruntime-training-cpu.

    It is looked for in the folder that ``RAVAN_ORT_TRAINING`` names; without that, in
    ``.venv-ort-training`` beside the running environment, and in the user's data folder.

    Raises:
        MissingExtraError: There is none; the hint is the command that makes it.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    for folder in [Path(named)] if named else _places():
        python = _interpreter(folder.absolute())
        if python.is_file():
            return python
    where = f"{ENVIRONMENT_VARIABLE}={named}" if named else None
    raise MissingExtraError(
        "plan 'ort-training' needs an environment of its own with onnxruntime-training-cpu, "
        f"{'which is not there' if named else 'and there is none'}",
        where=where,
        hint=BUILD_HINT,
    )


class OrtTrainingStep(WorkerStep):
    """Plan ``ort-training`` of one artifact; see :class:`ravan_edge.plans.step.Step`.

    Args:
        artifact: An opened artifact.
        settings: Threads and memory behaviour.

    Raises:
        MissingExtraError: The runtime's environment is not there, or is not of this version.
        ArtifactError: The artifact has no such plan, or the runtime refuses its files.
    """

    def __init__(self, artifact: Artifact, settings: RuntimeSettings) -> None:
        super().__init__(
            artifact,
            "ort-training",
            settings,
            python=str(find_python()),
            module=_MODULE,
            hint=BUILD_HINT,
        )
