"""What a codec is: a pair of pure functions between n float32 numbers and a few small tensors.

``fp32`` is none: its updates hold the numbers themselves, tensor by tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ravan_edge.errors import ArtifactError, NumericsError
from ravan_edge.generator import Stream

__all__ = [
    "NUMBERS",
    "Codec",
    "CodecName",
    "CodedTensors",
    "FixedForms",
    "Numbers",
    "TensorForms",
    "check_finite",
    "refused",
]

NUMBERS = "numbers"
"""The tensor that every codec has."""

Numbers = NDArray[np.float32]
CodedTensors = Mapping[str, NDArray[Any]]
TensorForms = dict[str, tuple[str, tuple[int, ...]]]
"""Name -> dtype as in the file, and shape."""


class CodecName(StrEnum):
    """How the numbers of an update are written."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT4 = "int4"
    TOP_K = "top-k"


class Codec(Protocol):
    """The interface of all codecs but ``fp32``."""

    @property
    def name(self) -> CodecName:
        """As in the metadata of an update."""
        ...

    @property
    def biased(self) -> bool:
        """Whether the mean of what is read differs from what was written: it needs error feedback."""
        ...

    def forms(self, count: int) -> TensorForms:
        """The tensors that ``count`` numbers become."""
        ...

    def expected(
        self, count: int, shapes: Mapping[str, tuple[int, ...]], where: str
    ) -> TensorForms:
        """The tensors that a file must have, of which only names and shapes are known.

        Raises:
            ArtifactError: There are none with these shapes.
        """
        ...

    def encode(self, numbers: Numbers, stream: Stream) -> CodedTensors:
        """Write numbers.

        Args:
            numbers: Float32 [n].
            stream: Of purpose 12; codecs that round at random read it.

        Raises:
            NumericsError: A number is NaN, infinite or beyond the codec's range.
        """
        ...

    def decode(self, tensors: CodedTensors, out: Numbers, where: str) -> None:
        """Read numbers that :meth:`encode`, or a stranger, wrote.

        Args:
            tensors: In the forms of :meth:`expected`.
            out: Float32 [n], is overwritten. Finite if the tensors are.
            where: How errors call the update.

        Raises:
            ArtifactError: Something that no encoder writes.
        """
        ...


class FixedForms(ABC):
    """A codec whose tensors follow from how many numbers there are."""

    @abstractmethod
    def forms(self, count: int) -> TensorForms:
        """See :meth:`Codec.forms`."""

    def expected(
        self,
        count: int,
        shapes: Mapping[str, tuple[int, ...]],
        where: str,
    ) -> TensorForms:
        """The same: nothing is left to the file."""
        return self.forms(count)


def check_finite(numbers: Numbers) -> None:
    """Refuse to write what nobody may read.

    Raises:
        NumericsError: There is a NaN or an infinity.
    """
    if not np.isfinite(numbers).all():
        raise NumericsError("an update holds a NaN or an infinity", hint="lower the learning rate")


def refused(message: str, tensor: str, where: str) -> ArtifactError:
    """The error about a tensor that no encoder writes."""
    return ArtifactError(
        message,
        where=f"{where}: tensor {tensor!r}",
        hint="docs/artifact.md, section 8, says how each codec writes numbers",
    )
