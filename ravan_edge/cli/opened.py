"""What most commands begin with: an opened artifact, its step, its method and some heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ravan_edge.artifact.heads import heads_version, read_heads
from ravan_edge.artifact.manifest import TextSettings
from ravan_edge.artifact.opening import Artifact, open_artifact
from ravan_edge.cli.common import DataSettings, PlanSettings, Reporter
from ravan_edge.data import Rows, TokenisedDataset, read_rows, tokenise
from ravan_edge.errors import ArtifactError
from ravan_edge.methods import Method, Vector, method_for
from ravan_edge.plans import Step, open_step

__all__ = ["Opened", "opened"]


@dataclass(frozen=True)
class Opened:
    """An artifact ready to compute.

    Attributes:
        artifact: Checked and mapped.
        method: What trains.
        step: The plan.
        text: How its texts become token ids.
        tokenizer: The tokenizer's file.
    """

    artifact: Artifact
    method: Method
    step: Step
    text: TextSettings
    tokenizer: Path

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

    def length(self, wanted: int) -> int:
        """The most tokens of a text: what is wanted, but no more than the model can take."""
        return min(wanted, self.text.max_length)

    def dataset(
        self, path: Path, settings: DataSettings, reporter: Reporter
    ) -> tuple[Rows, TokenisedDataset]:
        """The rows of a labelled data file, and their token ids (cached).

        Raises:
            DataError: The file is refused, or not there.
        """
        rows = read_rows(
            path,
            text_column=settings.text_column,
            label_column=settings.label_column,
            skip_empty=settings.skip_empty,
        )
        with reporter.bar("tokenising") as bar:
            dataset = tokenise(
                rows,
                self.tokenizer,
                max_length=self.length(settings.max_length),
                label_names=self.labels,
                progress=lambda done, total: bar(done, total, ""),
            )
        return rows, dataset


@contextmanager
def opened(folder: Path, plan: PlanSettings) -> Iterator[Opened]:
    """Open an artifact and its step; both are closed at the end.

    Raises:
        ArtifactError: The artifact is refused, or reads no text.
        MissingExtraError: The plan's runtime is not installed.
    """
    artifact = open_artifact(folder)
    text, tokenizer = artifact.manifest.text, artifact.tokenizer_path
    if text is None or tokenizer is None:
        raise ArtifactError(
            "this artifact reads no text", where=str(folder), hint="take one for texts"
        )
    with open_step(artifact, plan.plan, plan.runtime) as step:
        yield Opened(artifact, method_for(artifact.manifest), step, text, tokenizer)
