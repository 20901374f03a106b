"""The files of a run folder as the report reads them (docs/simulation.md says what is in them).

A run folder may have been copied from elsewhere, so everything is checked; keys that the report
does not use are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ravan_edge.errors import StorageError, UsageError
from ravan_edge.files import storage_errors

__all__ = [
    "DeviceLine",
    "EvaluationLine",
    "Partition",
    "RoundLine",
    "Run",
    "RunFiles",
    "Summary",
    "read_json",
    "read_run_files",
]

_Model = TypeVar("_Model", bound=BaseModel)
Setting = str | int | float | bool | None
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]

_HINT = "point to a folder that `ravan simulate` wrote"


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class _Configuration(_File):
    settings: dict[str, Setting]
    versions: dict[str, str | None] = {}


class Run(_File):
    """run.json: what was asked for."""

    configuration: _Configuration
    command: str
    python: str | None = None
    machine: str | None = None


class DeviceLine(_File):
    """A device's round."""

    kind: Literal["device"]
    round: Count
    device: Count
    status: str
    download_bytes: Count
    upload_bytes: Count
    download_seconds: Seconds
    compute_seconds: Seconds
    upload_seconds: Seconds

    @property
    def seconds(self) -> float:
        """From the start of the round to the arrival of the update."""
        return self.download_seconds + self.compute_seconds + self.upload_seconds


class RoundLine(_File):
    """A round over its devices."""

    kind: Literal["round"]
    round: Count
    loss: float | None
    download_bytes: Count
    upload_bytes: Count
    seconds: Seconds
    staleness: Annotated[float, Field(ge=0)] | None = None
    heads_kept: Count = 0


class EvaluationLine(_File):
    """The heads after a round on one set of rows."""

    kind: Literal["evaluation"]
    round: Count
    set: str
    loss: float | None
    accuracy: Share


Line = Annotated[DeviceLine | RoundLine | EvaluationLine, Field(discriminator="kind")]
_LINE: TypeAdapter[DeviceLine | RoundLine | EvaluationLine] = TypeAdapter(Line)


class Partition(_File):
    """partition.json: how rows lie on devices."""

    labels: list[str]
    rows: list[Count]
    classes: list[Count]
    heads: list[Count] = []
    counts: list[list[Count]] | None = None


class _Best(_File):
    round: Count
    accuracy: Share | None


class _Class(_File):
    label: str
    rows: Count
    initial_accuracy: Share | None
    accuracy: Share | None


class _PartitionSummary(_File):
    devices_without_data: Count = 0
    devices_below_one_batch: Count = 0
    skipped_rows: Count = 0


class _Artifact(_File):
    digest: str
    model: str
    method: str
    heads: int | None = None
    rank: int | None = None
    trainable_numbers: int | None = None
    task: str | None = None
    architecture: str | None = None
    license: str | None = None
    layers: int | None = None
    parameters: int | None = None


class Summary(_File):
    """summary.json of a finished run."""

    best: _Best | None
    upload_bytes_per_update: Count
    download_bytes_once: Count
    download_bytes_per_round: Count
    model_bytes: Count
    peak_memory_bytes: Count | None
    seconds: Seconds
    per_class: list[_Class] = []
    partition: _PartitionSummary = _PartitionSummary()
    artifact: _Artifact


@dataclass(frozen=True)
class RunFiles:
    """Everything in a run folder that a report needs; no summary: the run is not finished."""

    run: Run
    partition: Partition | None
    summary: Summary | None
    devices: tuple[DeviceLine, ...]
    rounds: tuple[RoundLine, ...]
    evaluations: tuple[EvaluationLine, ...]


def read_run_files(folder: Path) -> RunFiles:
    """Read a run folder.

    Raises:
        UsageError: It is not the folder of a run.
        StorageError: A file is damaged or cannot be read.
    """
    run = read_json(folder / "run.json", Run)
    if run is None:
        raise UsageError("there is no run.json, so this is no run", where=str(folder), hint=_HINT)
    devices, rounds, evaluations = [], [], []
    for line in _metrics(folder / "metrics.jsonl"):
        if isinstance(line, DeviceLine):
            devices.append(line)
        elif isinstance(line, RoundLine):
            rounds.append(line)
        else:
            evaluations.append(line)
    return RunFiles(
        run=run,
        partition=read_json(folder / "partition.json", Partition),
        summary=read_json(folder / "summary.json", Summary),
        devices=tuple(devices),
        rounds=tuple(rounds),
        evaluations=tuple(evaluations),
    )


def read_json(path: Path, kind: type[_Model]) -> _Model | None:
    """A JSON file as ``kind``; None where there is no such file.

    Raises:
        StorageError: It is damaged or cannot be read.
    """
    with storage_errors(path, "read the file"):
        if not path.is_file():
            return None
        content = path.read_bytes()
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise _damaged(path, error) from None


def _metrics(path: Path) -> Iterator[DeviceLine | RoundLine | EvaluationLine]:
    with storage_errors(path, "read the file"):
        content = path.read_bytes() if path.is_file() else b""
    lines = content.split(b"\n")
    # Behind the last newline there is nothing, or the torn line of a run that was killed.
    for number, line in enumerate(lines[:-1], 1):
        try:
            yield _LINE.validate_json(line)
        except ValidationError as error:
            raise _damaged(path, error, f"line {number}, ") from None


def _damaged(path: Path, error: ValidationError, line: str = "") -> StorageError:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the document"
    return StorageError(
        f"the file is damaged: {line}{place}: {first['msg']}",
        where=str(path),
        hint="run the simulation again in another folder",
    )
