"""Receiving one update: checked while it streams in, so that a hostile one costs little.

In order, each before the next byte is waited for: the length that is announced, the length of the
header, the header as a whole (names, shapes, task, version, artifact), and at the end every number.
"""

from __future__ import annotations

import hashlib
import threading

import numpy as np

from ravan_edge.artifact import UPDATE_BOUNDS
from ravan_edge.artifact.tensor_header import header_length
from ravan_edge.codecs import CodecName
from ravan_edge.errors import ArtifactError, TensorFileError
from ravan_edge.merge import MergeScale
from ravan_edge.protocol import Reason, Refusal, UpdateInfo, UpdateReader
from ravan_server.operations import CheckedUpdate

__all__ = ["MemoryBudget", "UploadReceiver"]

_LENGTH_BYTES = 8
_WHERE = "update"


class MemoryBudget:
    """How many bytes of unfinished uploads may be in memory at once.

    Args:
        most_bytes: For all of them together.
    """

    def __init__(self, most_bytes: int) -> None:
        self._free = most_bytes
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Claim bytes that have arrived.

        Raises:
            Refusal: There are too many already.
        """
        with self._lock:
            if count > self._free:
                raise Refusal(
                    Reason.BUSY,
                    "too many uploads at once: try again later",
                    retry_after_seconds=2.0,
                )
            self._free -= count

    def give(self, count: int) -> None:
        """Bytes that are not needed any more."""
        with self._lock:
            self._free += count


class UploadReceiver:
    """Takes the body of one upload, piece by piece.

    Args:
        reader: Of the artifact.
        task: The id under which it is sent.
        version: The version that the task starts from; None: the task is known to be over, and the
            body is only compared with what is stored.
        codec: That the task asks for; None: as with ``version``.
        length: The announced length.
        budget: Memory for it.
        sha256: Of the body, where whoever hands it over compares it; None: it is computed here.

    Raises:
        Refusal: The announced length is out of bounds.
    """

    def __init__(
        self,
        reader: UpdateReader,
        task: str,
        version: int | None,
        codec: CodecName | None,
        length: int,
        budget: MemoryBudget,
        sha256: str | None = None,
    ) -> None:
        most = reader.largest_bytes
        if length > most:
            raise Refusal(
                Reason.TOO_LARGE, f"{length} bytes, an update of this artifact has at most {most}"
            )
        if length < _LENGTH_BYTES:
            raise Refusal(
                Reason.BAD_UPDATE,
                f"{length} bytes, an update begins with {_LENGTH_BYTES} of length",
            )
        self._reader = reader
        self._task = task
        self._version = version
        self._codec = codec
        self._length = length
        self._budget = budget
        self._content = bytearray()
        self._sha256 = sha256
        self._digest = hashlib.sha256()
        self._header_bytes: int | None = None
        self._info: UpdateInfo | None = None

    def feed(self, chunk: bytes) -> None:
        """The next bytes.

        Raises:
            Refusal: They cannot become an update of this task, or there is no memory for them.
        """
        if len(self._content) + len(chunk) > self._length:
            raise Refusal(Reason.BAD_MESSAGE, f"more than the announced {self._length} bytes")
        self._budget.take(len(chunk))
        self._content += chunk
        if self._sha256 is None:
            self._digest.update(chunk)
        if self._info is None:
            self._look_at_header()

    def finish(self) -> CheckedUpdate:
        """All bytes are there.

        Raises:
            Refusal: Fewer than announced, or a number that cannot be merged.
        """
        if len(self._content) < self._length:
            raise Refusal(
                Reason.CUT_OFF,
                f"{len(self._content)} bytes arrived, {self._length} were announced: send it again",
            )
        if self._info is None:
            raise Refusal(Reason.BAD_UPDATE, f"{self._length} bytes are no update file")
        try:
            update = self._reader.view(memoryview(self._content).toreadonly(), where=_WHERE)
        except TensorFileError as error:
            # The header was checked before: what is left are numbers that are none.
            raise Refusal(Reason.BAD_NUMBERS, str(error)) from None
        except ArtifactError as error:
            raise Refusal(Reason.BAD_UPDATE, str(error)) from None
        bound = 2.0 ** MergeScale(0).bound_exponent
        largest = float(np.abs(update.data).max(initial=0.0))
        if not largest < bound:
            raise Refusal(
                Reason.BAD_NUMBERS,
                f"a number of size {largest:g}, expected less than {bound:g}: "
                "train with a lower learning rate",
            )
        return CheckedUpdate(update.info, self._content, self._sha256 or self._digest.hexdigest())

    def close(self) -> None:
        """Give the memory back, whatever became of it."""
        self._budget.give(len(self._content))

    def _look_at_header(self) -> None:
        """Check as much of the header as has arrived."""
        if len(self._content) < _LENGTH_BYTES:
            return
        try:
            if self._header_bytes is None:
                prefix = bytes(self._content[:_LENGTH_BYTES])
                self._header_bytes = header_length(prefix, self._length, UPDATE_BOUNDS, _WHERE)
            end = _LENGTH_BYTES + self._header_bytes
            if len(self._content) < end:
                return
            header = bytes(self._content[_LENGTH_BYTES:end])
            self._info = self._reader.check_header(header, self._length, where=_WHERE)
        except ArtifactError as error:
            raise Refusal(Reason.BAD_UPDATE, str(error)) from None
        self._check_assignment(self._info)

    def _check_assignment(self, info: UpdateInfo) -> None:
        if info.task != self._task:
            raise Refusal(
                Reason.WRONG_TASK, f"the update says task {info.task}, it was sent as {self._task}"
            )
        if self._version is not None and info.version != self._version:
            raise Refusal(
                Reason.WRONG_TASK,
                f"the update starts from version {info.version}, its task from {self._version}",
            )
        if self._codec is not None and info.codec is not self._codec:
            raise Refusal(
                Reason.WRONG_CODEC,
                f"the update has codec {info.codec}, its task asks for {self._codec}",
            )
