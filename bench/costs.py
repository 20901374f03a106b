"""What real checkpoints cost, from their configurations; and how good the estimate of memory is.

    python -m bench.costs [--json] [--models NAME,NAME]
    python -m bench.costs --measure [--json] [--shapes NAME,NAME]

``configs/`` has the sizes that the checkpoints were published with; no weights are needed. With
``--measure`` the models of bench/plans.py are exported, run, and watched from another process: anonymous
memory above the idle one, loading and three steps, without optimiser. Their weights are random but for
MiniLM's, which changes no size.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.plans import MODELS, exported
from bench.step import LORA_RANK, peak_of
from bench.step_sides import LABELS
from ravan_edge.memory import format_bytes
from ravan_export.costs import Estimate, estimate
from ravan_export.settings import ExportSettings

__all__ = ["CHECKPOINTS", "SHAPES", "Checkpoint", "cost", "line_of", "measured", "shown"]

_HEADER = (
    "| checkpoint | task | numbers | download once | up, and down, each round | step | memory of a step "
    "| in micro-batches of 1 |"
)
CONFIGS = Path(__file__).resolve().parent / "configs"


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint, and the step to look at.

    Args:
        name: On the hub, and its folder in ``configs/``.
        task: What it learns.
        rows: Of a batch.
        length: Tokens of a row.
    """

    name: str
    task: str
    rows: int = 8
    length: int = 128


CHECKPOINTS = (
    Checkpoint("sentence-transformers/all-MiniLM-L6-v2", "text-classification"),
    Checkpoint("google-bert/bert-base-uncased", "text-classification"),
    Checkpoint("FacebookAI/roberta-base", "masked-lm"),
    Checkpoint("answerdotai/ModernBERT-base", "text-classification"),
    Checkpoint("google/vit-base-patch16-224", "image-classification"),
    Checkpoint("google-t5/t5-small", "seq2seq"),
    Checkpoint("google/flan-t5-base", "seq2seq"),
    Checkpoint("HuggingFaceTB/SmolLM2-135M", "causal-lm", 4, 256),
    Checkpoint("google/gemma-3-270m", "causal-lm", 4, 256),
    Checkpoint("Qwen/Qwen2.5-0.5B", "causal-lm", 4, 256),
    Checkpoint("Qwen/Qwen3-0.6B", "causal-lm", 4, 256),
    Checkpoint("meta-llama/Llama-3.2-1B", "causal-lm", 4, 256),
)

SHAPES: Mapping[str, tuple[str, int, int]] = {
    "minilm 8 x 128": ("minilm-128", 8, 128),
    "minilm 1 x 128": ("minilm-128", 1, 128),
    "minilm 8 x 64": ("minilm-64", 8, 64),
    "bert-base 8 x 128": ("bert-base", 8, 128),
    "bert-base 2 x 128": ("bert-base", 2, 128),
    "vit-b16 4 images": ("vit-b16", 4, 197),
    "llama-0.1b 1 x 256": ("llama-0.1b", 1, 256),
    "llama-0.1b 4 x 128": ("llama-0.1b", 4, 128),
}
"""What ``--measure`` compares: a model of bench/plans.py, rows and tokens of a row."""


def cost(checkpoint: Checkpoint, rows: int | None = None) -> Estimate:
    """The estimate of one checkpoint, its graph laid out for the batch.

    Args:
        checkpoint: One of ``CHECKPOINTS``.
        rows: Of the step to look at; None: of its batch.
    """
    return estimate(
        CONFIGS / checkpoint.name.rpartition("/")[2],
        checkpoint.task,
        options=ExportSettings(tokens=checkpoint.rows * checkpoint.length),
        batch=rows or checkpoint.rows,
        length=checkpoint.length,
    )


def measured(name: str, work: Path) -> dict[str, Any]:
    """One line of the comparison.

    Args:
        name: Of ``SHAPES``.
        work: Where models and artifacts are kept.
    """
    kind, rows, length = SHAPES[name]
    model = MODELS[kind]
    folder, artifact = exported(kind, model, work, ("whole",))
    found = estimate(
        folder,
        model.shape.task,
        None if model.shape.vocabulary else LABELS,
        options=ExportSettings(lora_budget=LORA_RANK, tokens=model.shape.tokens),
        batch=rows,
        length=length,
    )
    shape = replace(model.shape, rows=rows, length=length)
    options = {
        "artifact": str(artifact), "micro": rows, "prepack": False, "arena": True, "threads": 2,
    }  # fmt: skip
    peak = peak_of("artifact", shape, options)
    return {
        "name": name,
        "live_bytes": found.live_bytes,
        "predicted_bytes": found.memory_bytes,
        "measured_bytes": peak,
        "error": found.memory_bytes / peak - 1,
    }


def line_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """One line of the table of checkpoints, as ``--json`` prints it."""
    whole, single = cost(checkpoint), cost(checkpoint, 1)
    return {
        **asdict(checkpoint),
        "parameters": whole.model.parameters,
        "model_bytes": whole.model.bytes,
        "base_bytes": whole.base_bytes,
        "heads_bytes": whole.heads_bytes,
        "graph_bytes": whole.graph_bytes,
        "memory_bytes": whole.memory_bytes,
        "single_bytes": single.memory_bytes,
    }


def shown(line: dict[str, Any]) -> str:
    """The line for people, as the README has it."""
    images = line["task"].startswith("image")
    step = f"{line['rows']} images" if images else f"{line['rows']} x {line['length']}"
    cells = (
        f"`{line['name']}`",
        line["task"],
        f"{line['parameters'] / 1e6:,.0f} M",
        format_bytes(line["base_bytes"] + line["graph_bytes"]),
        format_bytes(line["heads_bytes"]),
        step,
        format_bytes(line["memory_bytes"]),
        format_bytes(line["single_bytes"]),
    )
    return f"| {' | '.join(cells)} |"


def _print_measured(line: dict[str, Any]) -> None:
    print(
        f"| {line['name']} | {line['live_bytes'] / 1e6:.1f} MB | "
        f"{line['predicted_bytes'] / 1e6:.1f} MB | {line['measured_bytes'] / 1e6:.1f} MB | "
        f"{line['error']:+.0%} |"
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.costs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--models", default="", help="names without owner, separated by commas")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--work", type=Path, default=Path("runs/bench-plans"))
    options = parser.parse_args()
    if not options.measure:
        wanted = {name for name in options.models.split(",") if name}
        lines = []
        if not options.json:
            print(_HEADER, "|---|---|---|---|---|---|---|---|", sep="\n")
        for checkpoint in CHECKPOINTS:
            if not wanted or checkpoint.name.rpartition("/")[2] in wanted:
                lines.append(line_of(checkpoint))
                if not options.json:
                    print(shown(lines[-1]))
    else:
        options.work.mkdir(parents=True, exist_ok=True)
        lines = []
        if not options.json:
            print("| model and batch | live tensors | predicted | measured | error |")
            print("|---|---|---|---|---|")
        for name in options.shapes.split(","):
            lines.append(measured(name, options.work))
            if not options.json:
                _print_measured(lines[-1])
    if options.json:
        print(json.dumps(lines, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
