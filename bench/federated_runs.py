"""The runs of bench/federated.py: each one a process of its own, finished ones read back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["SIDES", "Job", "Rates", "Result", "Runner"]

SIDES = ("ravan", "head-only", "fedit", "twin")
"""The kit with each method, and plain torch with the method ``ravan``."""

LAST = 5
"""The figure of a run is the mean over so many of its last evaluated rounds."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Adam's learning rates: of adapters and of the task head."""

    lr: float
    task_head_lr: float


@dataclass(frozen=True)
class Job:
    """What all sides do.

    Args:
        name: Of the data; the folder of its runs.
        train: Training rows.
        test: Test rows, scored only.
        options: Options of ``ravan simulate`` and of the twin, by name.
    """

    name: str
    train: Path
    test: Path
    options: Mapping[str, int | float | str]


@dataclass(frozen=True)
class Result:
    """One finished run.

    Args:
        rounds: The evaluated rounds.
        accuracy: On the test rows, after each of them.
        seconds: Wall-clock time.
        upload_bytes: Of one update; None for the twin.
    """

    rounds: Sequence[int]
    accuracy: Sequence[float]
    seconds: float
    upload_bytes: int | None

    @property
    def figure(self) -> float:
        """Mean accuracy over the last evaluated rounds."""
        last = self.accuracy[-LAST:]
        return sum(last) / len(last)


@dataclass(frozen=True)
class Runner:
    """Starts runs and finds finished ones again.

    Args:
        job: What to do.
        model: The pretrained model's folder.
        work: Where everything is kept.
        micro_batch: Rows the kit computes at once; sums, so no result depends on it.
    """

    job: Job
    model: str
    work: Path
    micro_batch: int

    @property
    def folder(self) -> Path:
        """The folder of this data's runs."""
        return self.work / self.job.name

    def artifact(self, side: str) -> Path:
        """The artifact of a side's method, exported when it is not there yet."""
        method = "ravan" if side == "twin" else side
        folder = self.folder / "artifacts" / method
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            _ravan(
                "export", self.model, "--task", "text-classification", "--method", method,
                "--labels", str(self.job.train), "--out", str(folder),
            )  # fmt: skip
        return folder

    def run(self, side: str, seed: int, rates: Rates) -> Result:
        """The result of a run, made now unless it is there."""
        found = self.finished(side, seed, rates)
        if found is None:
            print(f"{self.job.name}: {side}, seed {seed} ...", file=sys.stderr, flush=True)
            if side == "twin":
                self._twin(seed, rates)
            else:
                self._simulate(side, seed, rates)
            found = self.finished(side, seed, rates)
        assert found is not None, f"{side}, seed {seed} ended without a result"
        return found

    def finished(self, side: str, seed: int, rates: Rates) -> Result | None:
        """The result of a finished run, or None.

        Raises:
            SystemExit: The folder holds a run with other options.
        """
        path = self._twin_path(seed) if side == "twin" else self._run(side, seed) / "summary.json"
        if not path.exists():
            return None
        document = json.loads(path.read_text())
        wanted = self._options(seed, rates)
        differing = [
            f"{name} {document['settings'].get(name)} there, {value} here"
            for name, value in wanted.items()
            # A default may be written as nothing, such as 20 devices.
            if document["settings"].get(name) not in (value, None)
        ]
        if differing:
            raise SystemExit(f"{path}: {'; '.join(differing)}: choose another --work")
        if side == "twin":
            evaluations = document["evaluations"]
            return Result(
                [each["round"] for each in evaluations],
                [each["accuracy"] for each in evaluations],
                document["seconds"],
                None,
            )
        scores = _test_scores(path.with_name("metrics.jsonl"))
        return Result(
            [number for number, _ in scores],
            [accuracy for _, accuracy in scores],
            document["seconds"],
            document["upload_bytes_per_update"],
        )

    def sweep(self, side: str, lrs: str, task_head_lrs: str, rounds: int) -> dict[str, Any]:
        """``ravan sweep`` on a validation split of the training rows; the test rows stay away."""
        options = dict(self.job.options) | {"rounds": rounds, "validation": 0.1, "seed": 0}
        options |= {"lr": lrs, "task_head_lr": task_head_lrs, "micro_batch": self.micro_batch}
        out = _ravan(
            "sweep", str(self.artifact(side)), "--train", str(self.job.train),
            "--out", str(self.folder / f"{side}-sweep"), "--json", *_flags(options),
        )  # fmt: skip
        return dict(json.loads(out))

    def _options(self, seed: int, rates: Rates) -> dict[str, int | float | str]:
        return {
            **self.job.options,
            "lr": rates.lr,
            "task_head_lr": rates.task_head_lr,
            "seed": seed,
        }

    def _run(self, side: str, seed: int) -> Path:
        return self.folder / f"{side}-seed{seed}"

    def _twin_path(self, seed: int) -> Path:
        return self.folder / f"twin-seed{seed}.json"

    def _simulate(self, side: str, seed: int, rates: Rates) -> None:
        options = self._options(seed, rates) | {"micro_batch": self.micro_batch}
        _ravan(
            "simulate", str(self.artifact(side)), "--train", str(self.job.train),
            "--test", str(self.job.test), "--out", str(self._run(side, seed)),
            "--workers", "1", "--json", *_flags(options),
        )  # fmt: skip

    def _twin(self, seed: int, rates: Rates) -> None:
        options = self._options(seed, rates)
        # With a test file the twin holds no validation rows back, as the kit with --validation 0.
        own = {name: value for name, value in options.items() if name != "validation"}
        out = _python(
            "bench.twin_run", str(self.artifact("twin")), "--model", self.model,
            "--train", str(self.job.train), "--test", str(self.job.test), *_flags(own),
        )  # fmt: skip
        path = self._twin_path(seed)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"settings": options, **json.loads(out)}))
        temporary.replace(path)


def _test_scores(metrics: Path) -> list[tuple[int, float]]:
    """Round and test accuracy of every evaluation after a merge."""
    found = []
    for line in metrics.read_text().splitlines():
        values = json.loads(line)
        if values["kind"] == "evaluation" and values["set"] == "test" and values["round"]:
            found.append((int(values["round"]), float(values["accuracy"])))
    return found


def _flags(options: Mapping[str, int | float | str]) -> list[str]:
    flags = []
    for name, value in options.items():
        flags.append(f"--{name.replace('_', '-')}")
        if value is not True:
            flags.append(str(value))
    return flags


def _ravan(*words: str) -> str:
    return _python("ravan_edge.cli.main", *words)


def _python(module: str, *words: str) -> str:
    """Standard output of a module run in a process of its own; its progress goes to our stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, *words],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{module} {' '.join(words)} ended with {done.returncode}")
    return done.stdout
