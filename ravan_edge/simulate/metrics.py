"""The lines of metrics.jsonl (docs/simulation.md). Nothing in them depends on wall time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ravan_edge.errors import NumericsError, WorkerError
from ravan_edge.simulate.clock import DeviceTime
from ravan_edge.simulate.messages import DeviceOutcome, OpenData
from ravan_edge.training import LocalResult

__all__ = ["Trained", "device_outcome", "failed_status", "line", "trained_outcome"]

_ENCODE = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class Trained(NamedTuple):
    """What a metrics line says of a device's training.

    Args:
        steps, tokens: What it trained on.
        losses: Mean, first and last loss of its steps.
    """

    steps: int
    tokens: int
    losses: tuple[float, float, float]

    @classmethod
    def of(cls, result: LocalResult) -> Trained:
        """Of a local round."""
        losses = result.mean_loss, float(result.losses[0]), float(result.losses[-1])
        return cls(result.steps, result.tokens, losses)


def failed_status(error: NumericsError | WorkerError) -> str:
    """The status of a device whose training ended like this."""
    return "bad_numbers" if isinstance(error, NumericsError) else "crashed"


def line(kind: str, values: Mapping[str, Any]) -> bytes:
    r"""One line, newline included.

    >>> line("round", {"round": 1})
    b'{"kind":"round","round":1}\n'
    """
    return _ENCODE({"kind": kind, **values}).encode() + b"\n"


def device_outcome(
    *,
    round: int,
    device: int,
    status: str,
    heads: int,
    examples: int,
    steps: int = 0,
    tokens: int = 0,
    losses: tuple[float, float, float] | None = None,
    download_bytes: int,
    upload_bytes: int = 0,
    time: DeviceTime,
    error: str | None = None,
    asynchronous: Mapping[str, Any] | None = None,
) -> DeviceOutcome:
    """A device's outcome with its line.

    Args:
        round: From 1: the version its update leads to.
        device: Its number.
        status: See :class:`DeviceOutcome`.
        heads: K, heads it trains in each layer.
        examples: Rows it has.
        steps, tokens: What it trained on.
        losses: Mean, first and last loss of its steps.
        download_bytes, upload_bytes: What travelled.
        time: Simulated.
        error: What went wrong.
        asynchronous: Further keys of a run with ``--mode async``.
    """
    mean, first, last = losses if losses is not None else (None, None, None)
    values: dict[str, Any] = {
        "round": round,
        "device": device,
        "status": status,
        "heads": heads,
        "examples": examples,
        "steps": steps,
        "tokens": tokens,
        "loss": mean,
        "first_loss": first,
        "last_loss": last,
        "download_bytes": download_bytes,
        "upload_bytes": upload_bytes,
        "download_seconds": time.download,
        "compute_seconds": time.compute,
        "upload_seconds": time.upload,
    }
    if asynchronous is not None:
        values |= asynchronous
    if error is not None:
        values["error"] = error
    return DeviceOutcome(
        device,
        status,
        line("device", values),
        mean,
        time.total,
        download_bytes,
        upload_bytes,
        tokens,
        error,
    )


def trained_outcome(
    data: OpenData,
    *,
    version: int,
    device: int,
    first: bool,
    trained: Trained | None,
    status: str = "merged",
    error: str | None = None,
    staleness: int | None = None,
) -> DeviceOutcome:
    """The outcome of a device that was asked to train, with the time that this would have taken.

    Args:
        data: The run's.
        version: That it trained from.
        device: Its number.
        first: Whether it never took part before.
        trained: What it did; None: it failed.
        status: How it ended, were there no deadline; beyond the deadline it is ``late``.
        error: Why it failed.
        staleness: Versions made since that one; None: rounds are synchronous. If not, deadlines were
            looked at before (``at_work.py``).
    """
    heads = int(data.heads[device])
    download = data.transfer.download(first=first)
    upload = 0 if trained is None else data.transfer.upload[heads]
    if trained is None:
        time = DeviceTime(download / float(data.clock.download[device]), 0.0, 0.0)
    else:
        time = data.clock.device_time(
            device,
            heads=heads,
            tokens=trained.tokens,
            download_bytes=download,
            upload_bytes=upload,
        )
        deadline = data.settings.deadline_seconds
        if staleness is None and deadline is not None and time.total > deadline:
            status = "late"
    return device_outcome(
        round=version + (staleness or 0) + 1,
        device=device,
        status=status,
        heads=heads,
        examples=int(data.offsets[device + 1] - data.offsets[device]),
        steps=0 if trained is None else trained.steps,
        tokens=0 if trained is None else trained.tokens,
        losses=None if trained is None else trained.losses,
        download_bytes=download,
        upload_bytes=upload,
        time=time,
        error=error,
        asynchronous=None if staleness is None else {"version": version, "staleness": staleness},
    )
