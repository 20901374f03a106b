"""Run folders of any shape in no time: files as a simulation writes them, with made-up numbers."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

HOSTILE_LABELS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "${7*7} {{ 7*7 }} {% raw %}",
    "turned \u202eround\x00",
    "漢字 🎉 &amp; ünï",
    "$\\frac{1}{",
    "long " * 200,
)


def make_up_run(
    folder: Path,
    *,
    devices: int = 20,
    classes: int = 77,
    rounds: int = 12,
    per_round: int = 3,
    labels: tuple[str, ...] = (),
    evaluated: bool = True,
    validated: bool = True,
    finished: bool = True,
    method: str = "ravan",
    counts: bool = True,
    command: str = "ravan simulate art --train train.csv --out run --lr 0.001",
) -> Path:
    """Write a run folder; the numbers depend on the arguments alone."""
    dice = random.Random(f"{devices} {classes} {rounds}")
    names = [*labels, *(f"class {number}" for number in range(classes))][:classes]
    folder.mkdir(parents=True)
    rows = [[dice.choice((0, 0, 0, dice.randint(1, 40))) for _ in names] for _ in range(devices)]
    rows[-1] = [0] * classes
    rows[0][0] = 5
    _write(folder / "partition.json", {
        "labels": names,
        "rows": [sum(row) for row in rows],
        "classes": [sum(count > 0 for count in row) for row in rows],
        "heads": [1 + number % 4 if method == "ravan" else 0 for number in range(devices)],
        "counts": rows if counts else None,
    })  # fmt: skip
    _write(folder / "run.json", {
        "configuration": {
            "settings": {
                "devices": devices, "per_round": per_round, "rounds": rounds,
                "partition": "dirichlet:0.3", "lr": 0.001, "drop_out": 0.1, "deadline_seconds": None,
                "skip_empty": False,
            },
            "artifact": {"digest": "ab" * 32},
            "data": {"train": "cd" * 32, "test": None},
            "versions": {"ravan-edge": "0.1.0", "numpy": "2.4.0", "onnxruntime": None},
        },
        "files": {"artifact": "art", "train": "train.csv", "test": None},
        "python": "3.11.9", "machine": "Linux x86_64", "command": command,
    })  # fmt: skip
    sets = (["test"] if evaluated else []) + (["validation"] if evaluated and validated else [])
    lines = [_evaluation(0, name, 0.02) for name in sets]
    done = rounds if finished else rounds // 2
    for number in range(1, done + 1):
        lines += _round(dice, number, devices, per_round)
        lines += [_evaluation(number, name, 0.9 * number / (number + 3)) for name in sets]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text, "utf-8")
    if finished:
        _write(folder / "summary.json", _summary(names, method, rounds, evaluated, validated))
    return folder


def _round(dice: random.Random, number: int, devices: int, per_round: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for device in sorted(dice.sample(range(devices), min(per_round, devices))):
        status = dice.choice(("merged", "merged", "merged", "late", "dropped_out", "bad_numbers"))
        lines.append({
            "kind": "device", "round": number, "device": device, "status": status, "heads": 4,
            "examples": 100, "steps": 50, "tokens": 9000, "loss": 2.0 / number,
            "first_loss": 2.2, "last_loss": 1.9, "download_bytes": 570_000 + 91_000_000 // number,
            "upload_bytes": 0 if status == "dropped_out" else 570_432,
            "download_seconds": 8.0 / number, "compute_seconds": dice.uniform(5, 40),
            "upload_seconds": 1.0,
        })  # fmt: skip
    merged = sum(line["status"] == "merged" for line in lines)
    times = [
        line["download_seconds"] + line["compute_seconds"] + line["upload_seconds"]
        for line in lines
        if line["status"] == "merged"
    ]
    found = Counter(line["status"] for line in lines)
    lines.append({
        "kind": "round", "round": number, "sampled": len(lines), **found,
        "loss": 2.0 / number if merged else None, "tokens": 9000,
        "download_bytes": sum(line["download_bytes"] for line in lines),
        "upload_bytes": sum(line["upload_bytes"] for line in lines),
        "seconds": 60.0 if merged < len(lines) else max(times), "clock": 60.0 * number,
    })  # fmt: skip
    return lines


def _evaluation(number: int, name: str, accuracy: float) -> dict[str, Any]:
    values = {"loss": 4.0 / (1 + number), "accuracy": accuracy, "count": 1000}
    return {"kind": "evaluation", "round": number, "set": name, **values}


def _summary(
    names: list[str], method: str, rounds: int, evaluated: bool, validated: bool
) -> dict[str, Any]:
    per_class = [
        {"label": name, "rows": 40, "initial_accuracy": 0.0, "accuracy": (number % 41) / 40}
        for number, name in enumerate(names)
    ]
    best = {"round": max(1, rounds - 1), "accuracy": 0.7, "loss": 1.0}
    ravan = method == "ravan"
    return {
        "best": best if evaluated and validated else None,
        "rounds": rounds,
        "upload_bytes_per_update": 570_432,
        "download_bytes_once": 91_000_000,
        "download_bytes_per_round": 571_000,
        "model_bytes": 90_868_376,
        "peak_memory_bytes": 412_000_000,
        "seconds": 247.0,
        "per_class": per_class if evaluated else [],
        "partition": {
            "devices_without_data": 1,
            "devices_below_one_batch": 2,
            "skipped_rows": 3,
        },
        "artifact": {
            "digest": "ab" * 32,
            "model": "all-MiniLM-L6-v2",
            "architecture": "BertModel",
            "license": "apache-2.0",
            "parameters": 22_713_216,
            "task": "text-classification",
            "layers": 12 if ravan else 0,
            "method": method,
            "heads": 4 if ravan else None,
            "rank": 19 if ravan else None,
            "trainable_numbers": 142_000,
        },
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2), "utf-8")
