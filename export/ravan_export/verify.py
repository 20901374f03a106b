"""Exports are checked before they are published: a fresh process against torch autograd."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.manifest import Conformance, ConformanceCase, TensorEntry
from ravan_edge.errors import ArtifactError, ModelError
from ravan_edge.generator import Purpose, Stream
from ravan_edge.plans.conformance import relative_error
from ravan_export.adaptation import Adaptation
from ravan_export.reference import Reference, autograd, to_float64
from ravan_export.source import Source
from ravan_export.tasks import Task

__all__ = [
    "CONFORMANCE_FILE",
    "TOLERANCE",
    "Case",
    "Checked",
    "check",
    "exact_cases",
    "judge",
    "make_cases",
]

CONFORMANCE_FILE = "conformance.safetensors"
TOLERANCE = 1e-5
_LEAST_MOVE = 0.01
_SECONDS = 600

Array = NDArray[Any]

# Runs where torch cannot be imported: what a device does.
_CHILD = """
import json, sys
from pathlib import Path
for name in ("torch", "transformers", "onnx"):
    sys.modules[name] = None
from ravan_edge.artifact.opening import open_artifact
from ravan_edge.errors import RavanError
from ravan_edge.plans import RuntimeSettings, open_step
from ravan_edge.plans.conformance import check_conformance
try:
    artifact = open_artifact(Path(sys.argv[1]))
    with open_step(artifact, sys.argv[3], RuntimeSettings(threads=int(sys.argv[2]))) as step:
        _, results = check_conformance(artifact, step)
except RavanError as error:
    print(json.dumps({"refused": str(error)}))
else:
    print(json.dumps([
        {"name": result.name, "errors": dict(result.errors), "eval_gap": result.eval_gap}
        for result in results
    ]))
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One batch with what autograd found for it.

    Args:
        name: ``a`` or ``b``.
        batch: The task's inputs and labels, padded.
        parameters: Random values of every trained tensor, scales other than 1.
        reference: In float32.
        loss_move: How far the adapters move the loss, relative.
    """

    name: str
    batch: Mapping[str, Array]
    parameters: Mapping[str, Array]
    reference: Reference
    loss_move: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first input."""
        first: tuple[int, ...] = next(iter(self.batch.values())).shape
        return first

    def tensors(self) -> dict[str, Array]:
        """The case as it is stored (docs/artifact.md, section 7)."""
        stored = {f"{self.name}.{key}": array for key, array in self.batch.items()}
        stored |= {f"{self.name}.param.{key}": array for key, array in self.parameters.items()}
        stored |= {
            f"{self.name}.grad.{key}": array for key, array in self.reference.gradients.items()
        }
        stored[f"{self.name}.loss_sum"] = np.asarray(self.reference.loss_sum, np.float32)
        return stored


def _parameters(
    table: tuple[TensorEntry, ...], initial: Mapping[str, Array], use: int, seed: int, size: float
) -> dict[str, Array]:
    """Random trained values: adapters of the given size, scales around 1, a task head off its start."""
    values: dict[str, Array] = {}
    adapters = any(entry.role != "task_head" for entry in table)
    for index, entry in enumerate(table):
        stream = Stream(seed, Purpose.CONFORMANCE, round=use + 1, device=index)
        normal = stream.normal(entry.size).reshape(entry.shape)
        if entry.role == "scale":
            value = 1.0 + 0.2 * normal
        elif entry.role in {"core", "lora_b"}:
            value = size * normal
        elif entry.role == "lora_a":
            value = initial[entry.name]
        else:
            value = initial[entry.name] + (0.05 if adapters else size) * normal
        values[entry.name] = value.astype(np.float32)
    return values


def _without_adapters(parameters: Mapping[str, Array]) -> dict[str, Array]:
    return {
        name: array if name.startswith("task_head.") else np.zeros_like(array)
        for name, array in parameters.items()
    }


def make_cases(
    task: Task,
    source: Source,
    adaptation: Adaptation,
    table: tuple[TensorEntry, ...],
    initial: Mapping[str, Array],
) -> list[Case]:
    """Two padded batches of different shape, at trained values that move the loss by 1 % or more.

    Raises:
        ModelError: No size of the adapters moves the loss: the adapted layers have no influence.
    """
    seed = adaptation.settings.seed
    cases = []
    for use in range(2):
        batch = task.batch(source, use)
        for size in (0.1, 0.3, 1.0, 3.0, 10.0):
            parameters = _parameters(table, initial, use, seed, size)
            found = autograd(task, source, adaptation, batch, parameters)
            still = initial if not adaptation.layers else _without_adapters(parameters)
            start = autograd(task, source, adaptation, batch, still).loss_sum
            move = abs(found.loss_sum - start) / (abs(start) or 1.0)
            if move >= _LEAST_MOVE:
                break
        else:
            raise ModelError(
                "the adapted layers do not change the loss",
                where=adaptation.layers[0].name if adaptation.layers else "task_head",
                hint="choose other --targets",
            )
        cases.append(Case("ab"[use], batch, parameters, found, move))
    return cases


def _run_child(folder: Path, threads: int, plan: str) -> list[dict[str, Any]]:
    environment = dict(os.environ)
    # The child must find ravan_edge where this process found it, installed or not.
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        finished = subprocess.run(  # noqa: S603  our own interpreter with our own text
            [sys.executable, "-c", _CHILD, str(folder), str(threads), plan],
            capture_output=True,
            check=False,
            env=environment,
            text=True,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise ArtifactError(
            f"the check of plan {plan!r} in a fresh process took more than {_SECONDS} s",
            where=str(folder),
            hint="try again on a machine that is less busy, or with fewer --tokens",
        ) from error
    if finished.returncode:
        last = finished.stderr.strip().splitlines()
        raise ArtifactError(
            f"the check in a fresh process failed: {last[-1] if last else 'no output'}",
            where=str(folder),
            hint="this is a bug of ours: please report it with the model's name",
        )
    report = json.loads(finished.stdout)
    if isinstance(report, dict):
        raise ArtifactError(f"the fresh process refuses it: {report['refused']}", where=str(folder))
    return list(report)


def exact_cases(
    task: Task, source: Source, adaptation: Adaptation, cases: Sequence[Case]
) -> tuple[list[Case], float]:
    """The cases with float64's results in place of float32's, and the limit that goes with them.

    For models whose float32 arithmetic is coarser than 1e-5: both torch and the graph round, so
    only float64 can say which of the two is off. The limit is twice torch's own largest error: a
    small tensor's may be near 0 by luck, while rounding does not differ from tensor to tensor.
    """
    exact, own = [], 0.0
    for case in cases:
        with to_float64(source):
            found = autograd(task, source, adaptation, case.batch, case.parameters)
        own = max(own, abs(case.reference.loss_sum - found.loss_sum) / (abs(found.loss_sum) or 1.0))
        for name, gradient in found.gradients.items():
            own = max(own, relative_error(case.reference.gradients[name], gradient))
        rounded = {name: array.astype(np.float32) for name, array in found.gradients.items()}
        exact.append(replace(case, reference=Reference(found.loss_sum, rounded)))
    return exact, max(TOLERANCE, 2 * own)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a fresh process found.

    Args:
        errors: By case and tensor, relative; NaN where a number went bad.
        eval_gaps: By case, between the losses of step and evaluation.
    """

    errors: Mapping[str, Mapping[str, float]]
    eval_gaps: Mapping[str, float]

    @property
    def worst(self) -> float:
        """The largest error; infinity for NaN."""
        return max(_size(error) for case in self.errors.values() for error in case.values())


def _size(error: float) -> float:
    return error if error >= 0 else np.inf


def check(folder: Path, threads: int, plan: str = "whole") -> Checked:
    """Run a finished artifact's stored cases in a fresh process without torch.

    A runtime that needs torch has a worker process of its own, beside that one.

    Raises:
        ArtifactError: The process refuses it, or fails.
    """
    report = _run_child(folder, threads, plan)
    return Checked(
        {str(item["name"]): item["errors"] for item in report},
        {str(item["name"]): float(item["eval_gap"]) for item in report},
    )


def judge(found: Checked, cases: Sequence[Case], limit: float, plan: str = "whole") -> Conformance:
    """The figures for the manifest.

    Raises:
        ModelError: An error is above the limit; names the tensor.
    """
    rows = []
    for case in cases:
        errors = found.errors[case.name]
        worst = max(errors, key=lambda name: _size(errors[name]))
        if not errors[worst] <= limit:
            raise ModelError(
                f"plan {plan!r} differs from torch by {errors[worst]:.1e}, expected at most {limit:.1e}",
                where=worst,
                hint="this is a bug of ours: please report it with the model's name",
            )
        gap = found.eval_gaps[case.name]
        if not gap <= TOLERANCE:
            raise ModelError(
                f"step and evaluation differ by {gap:.1e} in the loss", where=f"case {case.name}"
            )
        rows.append(
            ConformanceCase(
                name=case.name,
                batch=case.shape,
                loss=case.reference.loss_sum,
                loss_move=case.loss_move,
                worst_error=errors[worst],
                worst_tensor=worst,
            )
        )
    return Conformance(file=CONFORMANCE_FILE, tolerance=limit, cases=tuple(rows))
