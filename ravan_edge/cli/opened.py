"""What most commands begin with: an opened artifact, its step, its method and some heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ravan_edge.artifact.heads import heads_version, read_heads
from ravan_edge.artifact.opening import Artifact, open_artifact
from ravan_edge.cli.common import DataSettings, PlanSettings, Reporter, say
from ravan_edge.methods import Method, Vector, method_for
from ravan_edge.plans import Step, open_step
from ravan_edge.tasks import (
    DataSource,
    LoadedData,
    Task,
    fixed_length,
    length_notice,
    task_for,
    text_length,
)

__all__ = ["Opened", "opened"]


@dataclass(frozen=True)
class Opened:
    """An artifact ready to compute.

    Attributes:
        artifact: Checked and mapped.
        method: What trains.
        plan: The plan's name.
        step: It, opened.
        task: What its data are.
    """

    artifact: Artifact
    method: Method
    plan: str
    step: Step
    task: Task

    @property
    def labels(self) -> tuple[str, ...]:
        """The label map."""
        return self.artifact.manifest.labels

    @property
    def layers(self) -> Mapping[str, int]:
        """Heads h of each adapted layer, in the manifest's order."""
        return {layer.name: layer.heads for layer in self.artifact.manifest.layers}

    def heads(self, path: Path | None) -> tuple[Vector, int]:
        """Saved heads as a parameter vector, and their version; None: the initial ones.

        Raises:
            ArtifactError: The file is refused, or not there.
        """
        if path is None:
            return self.method.layout.pack(self.artifact.initial_heads()), 0
        tensors = read_heads(path, self.artifact)
        return self.method.layout.pack(tensors), heads_version(path, self.artifact)

    def length(self, typed: int | None) -> int:
        """The most tokens of a row; where the model's limit decides, that is said.

        Raises:
            UsageError: More was typed than the model takes.
        """
        manifest = self.artifact.manifest
        fixed = fixed_length(manifest, self.plan)
        notice = length_notice(manifest.text, typed, fixed)
        if notice is not None:
            say(f"note: {notice}")
        return text_length(manifest.text, typed, fixed)

    def load(self, path: Path, settings: DataSettings, reporter: Reporter) -> LoadedData:
        """The rows of a labelled data file (cached).

        Raises:
            DataError: The file is refused, or not there.
            UsageError: More tokens were typed than the model takes.
        """
        source = DataSource(
            path,
            text_column=settings.text_column,
            label_column=settings.label_column,
            skip_empty=settings.skip_empty,
            max_length=self.length(settings.max_length),
        )
        with reporter.bar("reading") as bar:
            return self.task.load(
                self.artifact, source, on_rows=lambda done, total: bar(done, total, "")
            )


@contextmanager
def opened(folder: Path, plan: PlanSettings) -> Iterator[Opened]:
    """Open an artifact and its step; both are closed at the end.

    Raises:
        ArtifactError: The artifact is refused.
        MissingExtraError: The plan's runtime is not installed.
    """
    artifact = open_artifact(folder)
    task = task_for(artifact.manifest)
    with open_step(artifact, plan.plan, plan.runtime) as step:
        yield Opened(artifact, method_for(artifact.manifest), plan.plan, step, task)
