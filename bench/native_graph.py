"""What onnxruntime-training does without this kit: torch's model exported by torch, trained by its runtime.

Plan ``ort-training`` has the kit's own forward graph, so its times are not those of somebody who has
that runtime alone. Here the model of the eager side, PEFT adapters included, goes through torch's
TorchScript exporter and onnxruntime's ``generate_artifacts``; the runtime's settings are its own.

Run by :func:`write_files` in the runtime's environment::

    python -m bench.native_graph FORWARD.onnx FOLDER PARAMETER...
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.step_sides import EagerSide, Shape, batch_of
from ravan_edge.plans.child import child_environment
from ravan_edge.plans.ort_training import find_python
from ravan_edge.plans.ort_training_worker import import_training

if TYPE_CHECKING:
    import torch

__all__ = ["NativeSide", "write_files"]

_OPSET = 17
_NEWEST_IR = 10
"""Of models that onnxruntime 1.19 reads."""


def _module(side: EagerSide) -> torch.nn.Module:
    """The side's model as one module from its inputs, in their order, to logits."""
    import torch

    class Forward(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.head = side.model, side.head

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = side.logits(dict(zip(side.batch, inputs, strict=True)))
            return logits

    return Forward().eval()


def write_files(side: EagerSide, folder: Path) -> None:
    """Write the runtime's models and checkpoint to a new folder.

    Args:
        side: A classifier of texts: the runtime's loss wants one row of logits for each label. Its
            numbers are changed a little.
        folder: Where they go.

    Raises:
        MissingExtraError: The runtime's environment is not there.
        RuntimeError: The runtime cannot differentiate what the exporter made.
    """
    import torch

    module = _module(side)
    trained = [name for name, item in module.named_parameters() if item.requires_grad]
    with torch.no_grad():
        for item in module.parameters():  # of tensors that are equal the exporter makes one
            item.add_(0.01 * torch.randn_like(item))
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    forward = unfinished / "forward.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and says so in many ways
        torch.onnx.export(
            module,
            tuple(side.batch.values()),
            str(forward),
            dynamo=False,
            input_names=list(side.batch),
            output_names=["logits"],
            dynamic_axes={
                **{name: {0: "batch", 1: "length"} for name in side.batch},
                "logits": {0: "batch"},
            },
            opset_version=_OPSET,
            training=torch.onnx.TrainingMode.PRESERVE,  # no dropout, as in the other sides
            do_constant_folding=False,  # it would rename what trains
        )
    python = str(find_python())
    finished = subprocess.run(
        [python, "-P", "-m", "bench.native_graph", str(forward), str(unfinished), *trained],
        capture_output=True,
        check=False,
        encoding="utf-8",
        env=child_environment(python, threads=1),
        errors="replace",
    )
    if finished.returncode:
        raise RuntimeError(f"onnxruntime-training: {finished.stderr[-1000:]}")
    unfinished.rename(folder)


def _generate(forward: Path, folder: Path, trained: list[str]) -> None:
    """The runtime's files out of an exported forward graph."""
    import onnx

    artifacts = import_training("artifacts")
    model = onnx.load(forward)
    for node in model.graph.node:
        if node.op_type == "LayerNormalization" and len(node.output) == 1:
            # Its gradient takes mean and deviation from the forward pass.
            node.output.extend(f"{node.output[0]}.{name}" for name in ("mean", "inverse"))
    artifacts.generate_artifacts(
        model,
        requires_grad=trained,
        frozen_params=[],  # frozen numbers stay in the models, the checkpoint holds what trains
        loss=artifacts.LossType.CrossEntropyLoss,
        optimizer=artifacts.OptimType.AdamW,
        artifact_directory=folder,
    )
    for path in folder.glob("*_model.onnx"):
        made = onnx.load(path)
        made.ir_version = min(made.ir_version, _NEWEST_IR)
        onnx.save(made, path)


class NativeSide:
    """The runtime's step: forward, backward, no optimiser.

    Args:
        shape: The batch.
        folder: Of :func:`write_files`.
        threads: Of the runtime, whose other settings are its defaults.
    """

    def __init__(self, shape: Shape, folder: str, threads: int) -> None:
        api = import_training("api")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        models = {kind: str(Path(folder) / f"{kind}_model.onnx") for kind in ("training", "eval")}
        state = api.CheckpointState.load_checkpoint(str(Path(folder) / "checkpoint"))
        self._module: Any = api.Module(models["training"], state, models["eval"], "cpu", options)
        self._module.train()
        batch = batch_of(shape)
        self._inputs = [batch[name] for name in self._module.input_names()]

    def step(self) -> float:
        """One step; the loss, summed over the rows."""
        self._module.lazy_reset_grad()
        return float(self._module(*self._inputs)) * len(self._inputs[-1])


if __name__ == "__main__":
    _generate(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
