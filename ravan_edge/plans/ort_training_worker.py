"""Plan ``ort-training`` inside its own environment; see :mod:`ravan_edge.plans.ort_training`.

The runtime owns the parameters. The host owns the optimiser, so each step writes G into H and 1 into
s: the graph's G = s H is then exactly that G, and its dH exactly dG.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.manifest import Role
from ravan_edge.artifact.opening import BASE_NAME, Artifact
from ravan_edge.closing import Closing
from ravan_edge.errors import ArtifactError, MissingExtraError, NumericsError
from ravan_edge.files import storage_errors
from ravan_edge.methods.layout import Vector
from ravan_edge.methods.method import HeadIndices
from ravan_edge.plans.all_heads import AllHeads
from ravan_edge.plans.step import Evaluation, RuntimeSettings, StepResult
from ravan_edge.plans.worker_serve import serve

__all__ = ["FILES", "OrtTraining", "import_training", "session_options"]

PLAN = "ort-training"
FILES = ("training_model.onnx", "eval_model.onnx", "optimizer_model.onnx", "checkpoint")
_FIXED = {"loss_sum", "count", "logits"}


def import_training(name: str) -> Any:
    """The module ``onnxruntime.training.<name>``.

    ``onnxruntime.training`` itself imports torch, for helpers that nothing here uses: the package is
    entered without running it, so that its environment needs no torch.

    Raises:
        MissingExtraError: onnxruntime-training-cpu is not installed here.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            f"onnxruntime-training-cpu cannot be imported: {error}", where=sys.executable
        ) from error
    package = "onnxruntime.training"
    folder = Path(str(onnxruntime.__file__)).parent / "training"
    if not folder.is_dir():
        raise MissingExtraError(
            f"this is onnxruntime {onnxruntime.__version__} without training",
            where=sys.executable,
            hint="take onnxruntime out of that environment and install ravan-edge[ort-training]",
        )
    if package not in sys.modules:
        entered = ModuleType(package)
        entered.__path__ = [str(folder)]
        sys.modules[package] = entered
    onnxruntime.set_default_logger_severity(3)
    return importlib.import_module(f"{package}.{name}")


def session_options(settings: RuntimeSettings) -> Any:
    """How the runtime may use the machine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = settings.arena
    options.enable_mem_pattern = False
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    if not settings.prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _place(source: Path, target: Path) -> None:
    """The same file under another path, without copying where the system can do that."""
    for way in (os.symlink, os.link, shutil.copyfile):
        try:
            way(source.absolute(), target)
        except OSError:
            if way is shutil.copyfile:
                raise
        else:
            return


class OrtTraining(Closing):
    """The step; see :class:`ravan_edge.plans.step.Step`.

    The runtime is loaded when first used: its models, and the base that their external data lies in,
    are placed side by side in a folder of its own, since this version looks for external data beside
    the model only.

    Args:
        artifact: An opened artifact.
        settings: Threads and memory behaviour.
    """

    def __init__(self, artifact: Artifact, settings: RuntimeSettings) -> None:
        self._api = import_training("api")
        self._artifact = artifact
        self._settings = settings
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        manifest = artifact.manifest
        self._heads = AllHeads(manifest.layers)
        self._cores = {
            f"{entry.layer}.G": entry.name for entry in manifest.tensors if entry.role == Role.CORE
        }
        self._scales = {
            entry.name: entry.shape for entry in manifest.tensors if entry.role == Role.SCALE
        }
        self._shapes = {entry.name: entry.shape for entry in manifest.tensors}

    @cached_property
    def _module(self) -> Any:
        source = self._artifact.graph_path(PLAN, "step").parent
        with storage_errors(source, "place the plan's files"):
            self._folder = tempfile.TemporaryDirectory(prefix="ravan-ort-training-")
            folder = Path(self._folder.name)
            for name in FILES:
                _place(source / name, folder / name)
            _place(self._artifact.base_folder / BASE_NAME, folder / BASE_NAME)
        training, evaluation, _, checkpoint = (str(folder / name) for name in FILES)
        try:
            state = self._api.CheckpointState.load_checkpoint(checkpoint)
            options = session_options(self._settings)
            module = self._api.Module(training, state, evaluation, "cpu", options)
            self._check(module, state)
        except Exception as error:  # the runtime's exceptions share no base but Exception
            raise ArtifactError(
                f"onnxruntime-training cannot load the plan: {error}",
                where=str(source),
                hint="export the artifact again",
            ) from error
        # Not before: a parameter that no module has yet cannot be set in this version, it crashes.
        for name, shape in self._scales.items():
            state.parameters[name] = np.ones(shape, np.float32)
        return module

    def _check(self, module: Any, state: Any) -> None:
        """The checkpoint's parameters are the manifest's."""
        del module  # shapes are known once it is attached
        found = {name: item.data.shape for name, item in state.parameters}
        if found != self._shapes:
            different = sorted(set(found.items()) ^ set(self._shapes.items()))[:3]
            raise ValueError(f"its parameters are not those of the manifest: {different}")

    def use_heads(self, running: Mapping[str, HeadIndices]) -> None:
        """All heads run here; those that are not wanted are zero, and have no gradient."""
        self._heads.use(running)

    def _set(self, trainables: Mapping[str, Vector]) -> Any:
        parameters = self._module._state.parameters
        for name, value in trainables.items():
            parameters[self._cores.get(name, name)] = self._heads.spread(name, value)
        return parameters

    def _run(self, batch: Mapping[str, NDArray[Any]], *, trains: bool) -> dict[str, Any]:
        module = self._module.train(trains)
        try:
            if trains:
                module.lazy_reset_grad()
            values = module(*[batch[name] for name in module.input_names()])
        except Exception as error:  # the runtime's exceptions share no base but Exception
            raise NumericsError(f"onnxruntime-training could not run the step: {error}") from error
        return dict(zip(module.output_names(), values, strict=False))

    def train(
        self, batch: Mapping[str, NDArray[Any]], trainables: Mapping[str, Vector]
    ) -> StepResult:
        """Loss sum, count, metrics and gradients of the sum for one batch."""
        parameters = self._set(trainables)
        values = self._run(batch, trains=True)
        gradients = {
            name: self._heads.taken(name, parameters[self._cores.get(name, name)].grad)
            for name in trainables
        }
        return StepResult(
            float(values["loss_sum"]), int(values["count"]), _metrics(values), gradients
        )

    def evaluate(
        self, batch: Mapping[str, NDArray[Any]], trainables: Mapping[str, Vector]
    ) -> Evaluation:
        """Loss sum, count, metrics and logits of one batch."""
        self._set(trainables)
        values = self._run(batch, trains=False)
        return Evaluation(
            float(values["loss_sum"]), int(values["count"]), _metrics(values), values.get("logits")
        )

    def close(self) -> None:
        """Drop the runtime and its folder."""
        self.__dict__.pop("_module", None)
        if self._folder is not None:
            self._folder.cleanup()


def _metrics(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if name not in _FIXED}


if __name__ == "__main__":
    serve(OrtTraining, distribution="onnxruntime-training-cpu")
