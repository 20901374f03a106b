"""What every target is given, and what it finds out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from ravan_edge.artifact.opening import Artifact
from ravan_edge.errors import NumericsError
from ravan_export.merge.check import Expected, Gap, refuse
from ravan_export.merge.folder import MergedFolder
from ravan_export.settings import Trust

__all__ = ["Heads", "Progress", "Work"]

Heads = Mapping[str, NDArray[Any]]
"""Every tensor of the tensor table."""

Progress = Callable[[str], None]


@dataclass(slots=True)
class Work:
    """One merge.

    Args:
        artifact: Opened.
        heads: Its heads.
        version: Theirs.
        expected: What the artifact computes with them.
        folder: Where the result is built.
        model: The original model, from the caller; None: what the manifest calls it.
        progress: Told what is going on.
        trust: What the original model's folder may do.
        announce: Told which code is going to be run.
        gap: How far the result is from the artifact.
        notices: What a person should know.
        details: What only this target has.
    """

    artifact: Artifact
    heads: Heads
    version: int
    expected: list[Expected]
    folder: MergedFolder
    model: str | None
    progress: Progress
    trust: Trust
    announce: Progress
    gap: Gap | None = None
    notices: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def compared(self, gap: Gap, *, exact: bool = True) -> None:
        """Note how far the result is from the artifact.

        Raises:
            ModelError: It should be exact, and is not.
            NumericsError: It is an approximation, and gives NaN.
        """
        if not math.isfinite(gap.logits) and not exact:
            raise NumericsError(
                "the merged model's results are NaN or infinite",
                where=str(self.folder.destination),
                hint="leave out --quantise or --rank, or store the model in float32",
            )
        self.gap = gap
        if exact:
            refuse(gap, str(self.folder.destination))
