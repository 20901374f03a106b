"""One tiny artifact with data for all simulation tests, and requests on it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ravan_edge.simulate import SimulationRequest, SimulationSettings, engine
from ravan_edge.training import LocalSettings
from tests.conftest import BuildOnce
from tests.simulate.in_process import InProcessPool, NoSampler
from tests.tiny_artifact import make_tiny_artifact, tiny_rows

FAST: dict[str, Any] = {"max_length": 32, "rounds": 3, "per_round": 3, "devices": 8}
FAST_LOCAL: dict[str, Any] = {"local_steps": 3, "batch_size": 8, "lr": 0.01}


@dataclass(frozen=True)
class Tiny:
    """Paths: an artifact of each method, and data that can be learned."""

    folder: Path

    @property
    def train(self) -> Path:
        return self.folder / "train.csv"

    @property
    def test(self) -> Path:
        return self.folder / "test.csv"

    def artifact(self, method: str = "ravan") -> Path:
        return self.folder / method


def write_csv(path: Path, rows: list[tuple[str, str]], users: int = 0) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "user"] if users else ["text", "label"])
        for number, row in enumerate(rows):
            writer.writerow([*row, f"user{number * number % users}"] if users else row)


@pytest.fixture(scope="session")
def tiny(build_once: BuildOnce) -> Tiny:
    def build(folder: Path) -> None:
        folder.mkdir()
        for method in ("ravan", "fedit", "head-only"):
            make_tiny_artifact(folder / method, method=method)
        write_csv(folder / "train.csv", tiny_rows(240, seed=1), users=7)
        write_csv(folder / "test.csv", tiny_rows(60, seed=2))

    return Tiny(build_once("simulation", build))


RequestFor = Callable[..., SimulationRequest]


@pytest.fixture
def request_for(tiny: Tiny, tmp_path: Path) -> RequestFor:
    """``request_for("name", method="ravan", local={...}, rounds=3, ...)``: a quick run."""

    def make(
        name: str = "run",
        *,
        method: str = "ravan",
        local: dict[str, Any] | None = None,
        test: Path | None = tiny.test,
        train: Path = tiny.train,
        **settings: Any,
    ) -> SimulationRequest:
        return SimulationRequest(
            artifact=tiny.artifact(method),
            train=train,
            test=test,
            out=tmp_path / name,
            settings=SimulationSettings(
                local=LocalSettings(**(FAST_LOCAL | (local or {}))), **(FAST | settings)
            ),
        )

    return make


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are not processes: a run starts at once, and a test can reach into it."""
    monkeypatch.setattr(engine, "WorkerPool", InProcessPool)
    monkeypatch.setattr(engine, "PeakSampler", NoSampler)
