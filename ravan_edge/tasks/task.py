"""What the kit must know about a task: how a data file becomes rows, and what its scores count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact import Artifact
from ravan_edge.data import Columns, Dataset
from ravan_edge.tasks.length import USUAL_LENGTH

__all__ = ["DataSource", "LoadedData", "OnRows", "Task", "row_classes"]

OnRows = Callable[[int, int], None]
"""Told how many rows are read, and how many there are."""


@dataclass(frozen=True, slots=True)
class DataSource:
    """A data file and how to read it.

    Args:
        path: The file (for images, maybe a folder).
        text_column: What the model reads; None: the only column with a usual name.
        label_column: What it should say; None: the only column with a usual name.
        user_column: Natural users; None: not read.
        skip_empty: Leave out rows with an empty text instead of refusing the file.
        max_length: The most tokens of a row; no more than the model can take.
    """

    path: Path
    text_column: str | None = None
    label_column: str | None = None
    user_column: str | None = None
    skip_empty: bool = False
    max_length: int = USUAL_LENGTH


@dataclass(frozen=True, slots=True)
class LoadedData:
    """A data file, read.

    Args:
        dataset: Its rows.
        sha256: Of all bytes it was read from, 64 hex digits.
        columns: Which columns were used.
        skipped: Rows with an empty text that were left out.
    """

    dataset: Dataset
    sha256: str
    columns: Columns
    skipped: int = 0


def row_classes(dataset: Dataset, task: Task) -> NDArray[np.int64]:
    """The class of each row, int64 [rows]: its label, or 0 for all where rows have none."""
    if task.row_labels:
        return dataset.labels.astype(np.int64)
    return np.zeros(len(dataset), np.int64)


class Task(Protocol):
    """One task; an instance in a file beside this one for each."""

    @property
    def name(self) -> str:
        """As the manifest names it."""
        ...

    @property
    def row_labels(self) -> bool:
        """Whether each row has one label of the map: data can then be dealt out by class."""
        ...

    @property
    def counted(self) -> str:
        """What losses and accuracies count, in the plural: ``rows``, ``tokens``."""
        ...

    @property
    def perplexity(self) -> bool:
        """Whether exp(loss) is a figure that people expect."""
        ...

    def load(
        self, artifact: Artifact, source: DataSource, on_rows: OnRows | None = None
    ) -> LoadedData:
        """Read a data file with labels; from the cache where it is there.

        Raises:
            DataError: The file is refused: what was found, in which row, and how to mend it.
            UsageError: An option does not fit.
            MissingExtraError: A format needs a package that is not installed.
        """
        ...

    def read(self, artifact: Artifact, items: Sequence[str], max_length: int) -> Dataset:
        """Rows to predict, as a person types them: texts, or paths of images.

        Raises:
            DataError: An item is refused.
            UsageError: The task has no label for a row.
        """
        ...
