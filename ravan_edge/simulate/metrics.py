"""The lines of metrics.jsonl (docs/simulation.md). Nothing in them depends on wall time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ravan_edge.simulate.clock import DeviceTime
from ravan_edge.simulate.messages import DeviceOutcome

__all__ = ["device_outcome", "line"]

_ENCODE = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


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
    """
    mean, first, last = losses if losses is not None else (None, None, None)
    values = {
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
