"""Every error a user can meet, and the exit code each one ends a command with.

::

    RavanError                      70  a bug of ours, when nothing below fits
    ├── UsageError                   2  an option or a combination of options makes no sense
    ├── ArtifactError                3  an artifact or a model is refused
    │   ├── ArtifactNotFoundError    3  ... or is not there
    │   ├── TensorFileError          3  a tensor file breaks the format or its bounds
    │   └── ModelError               3  a pretrained model is refused (raised while exporting)
    ├── DataError                    4  a data file is refused, or is not there
    ├── MemoryLimitError             5  the work does not fit the memory limit
    ├── ServerRefusedError           6  the server refused
    ├── NumericsError                7  numbers went bad: NaN, infinity, divergence, saturation
    ├── MissingExtraError            8  an extra or a runtime is not installed
    ├── StorageError                 9  disk or network failed
    │   ├── NetworkError             9  a server cannot be reached, or answered nonsense
    │   └── WorkerError              9  a runtime's process died, hung or answered nonsense
    └── InterruptedRunError        130  interrupted by the user; the run can be resumed

A message says what was found, what was expected and what to do. ``where`` names the file, tensor
or row; ``hint`` is the last sentence, what the user can do. Nothing here imports anything.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ArtifactError",
    "ArtifactNotFoundError",
    "DataError",
    "InterruptedRunError",
    "MemoryLimitError",
    "MissingExtraError",
    "ModelError",
    "NetworkError",
    "NumericsError",
    "RavanError",
    "ServerRefusedError",
    "StorageError",
    "TensorFileError",
    "UsageError",
    "WorkerError",
]


class RavanError(Exception):
    """Base of all errors of the kit.

    Args:
        message: What was found and what was expected, one sentence without a full stop at the end.
        where: The file, tensor, row or option it is about.
        hint: What to do about it.

    >>> str(DataError("no column 'text'; found 'body', 'label'", where="mails.csv",
    ...               hint="name it with --text-column"))
    "mails.csv: no column 'text'; found 'body', 'label'. To mend it: name it with --text-column"
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.message = message
        self.where = where
        self.hint = hint
        super().__init__(message, where, hint)

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}. To mend it: {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (workers): keep the keyword arguments.
        return (_rebuild, (type(self), self.message, self.where, self.hint))


def _rebuild(
    kind: type[RavanError], message: str, where: str | None, hint: str | None
) -> RavanError:
    return kind(message, where=where, hint=hint)


class UsageError(RavanError):
    """An option is out of range, or options contradict each other."""

    exit_code = 2


class ArtifactError(RavanError):
    """An artifact, heads file or update is refused."""

    exit_code = 3


class ArtifactNotFoundError(ArtifactError):
    """There is no artifact (or no file of it) where one was named."""


class TensorFileError(ArtifactError):
    """A tensor file breaks the format, its bounds, or what was expected to be in it."""


class ModelError(ArtifactError):
    """A pretrained model cannot be exported exactly; ``where`` names the layer."""


class DataError(RavanError):
    """A data file is refused or not there; ``where`` names file and row."""

    exit_code = 4


class MemoryLimitError(RavanError):
    """The work does not fit the memory limit."""

    exit_code = 5


class ServerRefusedError(RavanError):
    """The server refused a request for good."""

    exit_code = 6


class NumericsError(RavanError):
    """NaN, infinity, a diverging loss, or a difference too large to merge exactly."""

    exit_code = 7


class MissingExtraError(RavanError):
    """Something optional is not installed; ``hint`` is the command that installs it."""

    exit_code = 8


class StorageError(RavanError):
    """Disk or network failed: no space, no permission, an I/O error."""

    exit_code = 9


class NetworkError(StorageError):
    """A server cannot be reached, or its answer is not as the protocol says; another try may help."""


class WorkerError(StorageError):
    """A process that runs a step for this one died, or answered nonsense: that step is lost."""


class InterruptedRunError(RavanError):
    """The user interrupted; what was committed stays and the same command resumes."""

    exit_code = 130
