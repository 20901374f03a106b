"""Makes the files of plan ``ort-training`` out of a forward graph, in that runtime's environment.

Run by its path, with onnx and onnxruntime-training-cpu and without the rest of the exporter::

    python ort_training_generate.py FORWARD.onnx FOLDER PARAMETER...
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx

from ravan_edge.plans.ort_training_worker import import_training

__all__ = ["generate"]


def generate(forward: Path, folder: Path, parameters: list[str]) -> None:
    """Write training_model.onnx, eval_model.onnx, optimizer_model.onnx and checkpoint to a folder.

    Args:
        forward: Its first output is the loss; its other outputs stay outputs.
        folder: Where they go.
        parameters: The initialisers that train.
    """
    artifacts = import_training("artifacts")
    artifacts.generate_artifacts(
        onnx.load(forward),  # not the path: its temporary files get in each other's way
        requires_grad=parameters,
        frozen_params=[],  # the checkpoint holds what trains, a few kB
        optimizer=artifacts.OptimType.AdamW,
        artifact_directory=folder,
    )


if __name__ == "__main__":
    generate(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
