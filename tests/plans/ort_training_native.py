"""Runs in the environment of onnxruntime-training: what a user of that runtime does, without a host.

    python -m tests.plans.ort_training_native FOLDER IN.npz OUT.npz

FOLDER is the artifact. IN.npz holds parameters by name, batches as ``<number>.<input>``, and
``steps`` and ``lr``. OUT.npz receives the parameters read back before the first step as
``read.<name>``, and after the last one as ``reached.<name>``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ravan_edge.artifact import open_artifact
from ravan_edge.plans import RuntimeSettings
from ravan_edge.plans.ort_training_worker import OrtTraining, import_training, session_options


def main(folder: Path, given_path: Path, out: Path) -> None:
    given = dict(np.load(given_path))
    artifact = open_artifact(folder)
    settings = RuntimeSettings(threads=1)
    with OrtTraining(artifact, settings) as step:
        module = step._module
        parameters = module._state.parameters
        names = [entry.name for entry in artifact.manifest.tensors]
        for name in names:
            parameters[name] = given[name]
        found = {f"read.{name}": parameters[name].data.copy() for name in names}
        optimiser = import_training("api").Optimizer(
            str(artifact.folder / "plans/ort-training/optimizer_model.onnx"), module
        )
        optimiser.set_learning_rate(float(given["lr"]))
        module.train()
        for number in range(int(given["steps"])):
            module.lazy_reset_grad()
            module(*[given[f"{number}.{name}"] for name in module.input_names()])
            optimiser.step()
        found |= {f"reached.{name}": parameters[name].data.copy() for name in names}
        options = session_options(settings)
        assert options.intra_op_num_threads == 1
    np.savez(out, **found)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
