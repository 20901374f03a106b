"""The plan ``whole`` on stock onnxruntime: one graph computes loss and all gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.opening import Artifact
from ravan_edge.closing import Closing
from ravan_edge.errors import ArtifactError, MissingExtraError, NumericsError
from ravan_edge.methods.layout import Vector
from ravan_edge.methods.method import HeadIndices
from ravan_edge.plans.step import Evaluation, RuntimeSettings, StepResult

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["WholeStep"]

_GRADIENT = "grad."


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "plan 'whole' needs onnxruntime, which is not installed",
            hint="pip install 'ravan-edge[onnxruntime]'",
        ) from error
    return onnxruntime


def _open_session(artifact: Artifact, role: str, settings: RuntimeSettings) -> Any:
    onnxruntime = _import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = settings.arena
    # A memory pattern is one block per batch shape, held beside the arena's chunks of the first step:
    # it doubled MiniLM's peak (8 x 128: 434 MB, 222 without) and saved no time.
    options.enable_mem_pattern = False
    # Reaches what only the forward pass needs before the backward pass begins: 190 MB of those 222.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(artifact.base_folder)
    )
    if not settings.prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if settings.bfloat16_products:
        options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "1")
    path = artifact.graph_path("whole", role)
    try:
        return onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise ArtifactError(
            f"onnxruntime {onnxruntime.__version__} cannot load the graph: {error}",
            where=str(path),
            hint="export the artifact again",
        ) from error


class _Graph:
    """One session with its output names, split into gradients, metrics and logits."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.input_names = frozenset(item.name for item in session.get_inputs())
        self.outputs: list[str] = [item.name for item in session.get_outputs()]
        fixed = {"loss_sum", "count", "logits"}
        self.metrics = [
            name for name in self.outputs if name not in fixed and not name.startswith(_GRADIENT)
        ]

    def run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        try:
            values: Sequence[Any] = self.session.run(self.outputs, dict(feed))
        except Exception as error:
            raise NumericsError(f"onnxruntime could not run the step: {error}") from error
        return dict(zip(self.outputs, values, strict=True))


class WholeStep(Closing):
    """Plan ``whole`` of one artifact; see :class:`ravan_edge.plans.step.Step`.

    Sessions are made when first used: a device that only trains never loads the evaluation graph.

    Args:
        artifact: An opened artifact; its base stays memory-mapped.
        settings: Threads and memory behaviour.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ArtifactError: The artifact has no such plan.
    """

    def __init__(self, artifact: Artifact, settings: RuntimeSettings) -> None:
        _import_onnxruntime()
        if "whole" not in artifact.manifest.plans:
            raise ArtifactError(
                f"no plan 'whole'; found {', '.join(artifact.manifest.plans) or 'none'}",
                where=str(artifact.folder),
                hint="export it with --plans whole",
            )
        self._artifact = artifact
        self._settings = settings
        self._graphs: dict[str, _Graph] = {}
        self._running: dict[str, bytes] = {}
        self._bases: dict[str, Vector] = {
            basis.name: artifact.base[basis.name] for basis in artifact.manifest.bases
        }

    def _graph(self, role: str) -> _Graph:
        if role not in self._graphs:
            self._graphs[role] = _Graph(_open_session(self._artifact, role, self._settings))
        return self._graphs[role]

    def use_heads(self, running: Mapping[str, HeadIndices]) -> None:
        """Run these heads: rows of the bases are gathered where not all of a layer's heads run."""
        for basis in self._artifact.manifest.bases:
            heads = running.get(basis.layer)
            if heads is None or self._running.get(basis.name) == heads.tobytes():
                continue
            whole = self._artifact.base[basis.name]
            self._bases[basis.name] = (
                whole if heads.size == whole.shape[0] else np.ascontiguousarray(whole[heads])
            )
            self._running[basis.name] = heads.tobytes()

    def _run(
        self,
        role: str,
        batch: Mapping[str, NDArray[Any]],
        trainables: Mapping[str, Vector],
    ) -> tuple[_Graph, dict[str, NDArray[Any]]]:
        graph = self._graph(role)
        feed: dict[str, NDArray[Any]] = {**self._bases, **batch, **trainables}
        if len(feed) != len(graph.input_names):  # a graph may need fewer batch inputs than given
            feed = {name: value for name, value in feed.items() if name in graph.input_names}
        return graph, graph.run(feed)

    def train(
        self, batch: Mapping[str, NDArray[Any]], trainables: Mapping[str, Vector]
    ) -> StepResult:
        """Loss sum, count, metrics and gradients of the sum for one batch."""
        graph, values = self._run("step", batch, trainables)
        return StepResult(
            loss_sum=float(values["loss_sum"]),
            count=int(values["count"]),
            metrics={name: float(values[name]) for name in graph.metrics},
            gradients={
                name[len(_GRADIENT) :]: value
                for name, value in values.items()
                if name.startswith(_GRADIENT)
            },
        )

    def evaluate(
        self, batch: Mapping[str, NDArray[Any]], trainables: Mapping[str, Vector]
    ) -> Evaluation:
        """Loss sum, count, metrics and logits of one batch."""
        graph, values = self._run("eval", batch, trainables)
        return Evaluation(
            loss_sum=float(values["loss_sum"]),
            count=int(values["count"]),
            metrics={name: float(values[name]) for name in graph.metrics},
            logits=values.get("logits"),
        )

    def close(self) -> None:
        """Drop the sessions; memory goes back when onnxruntime frees them."""
        self._graphs.clear()
        self._bases.clear()
