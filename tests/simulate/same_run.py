"""What two equal runs must have in common: everything but wall time and memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ravan_edge.simulate import WALL_FIELDS

DIFFERENT_BY_NATURE = {*WALL_FIELDS, "command", "files"}


def comparable(folder: Path) -> dict[str, Any]:
    """Bytes of heads, metrics and partition, and the summary without what differs by nature."""
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    return {
        "summary": {key: summary[key] for key in summary.keys() - DIFFERENT_BY_NATURE},
        **{
            name: (folder / name).read_bytes()
            for name in ("metrics.jsonl", "partition.json", "heads/last.safetensors")
        },
        "best": _bytes(folder / "heads" / "best.safetensors"),
        "rounds timed": len((folder / "timing.jsonl").read_bytes().splitlines()),
    }


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def metrics(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    return [line for line in lines if kind is None or line["kind"] == kind]
