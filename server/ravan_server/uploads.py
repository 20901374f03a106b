"""Receiving one update: checked while it streams in, so that a hostile one costs little.

In order, each before the next byte is waited for: the length that is announced, the length of the
header, the header as a whole (names, shapes, task, version, artifact), and at the end every number.
What takes long of that is done by threads of its own: the event loop answers others meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ravan_edge.artifact import UPDATE_BOUNDS
from ravan_edge.artifact.tensor_header import header_length
from ravan_edge.codecs import CodecName
from ravan_edge.errors import ArtifactError, TensorFileError
from ravan_edge.merge import MergeScale
from ravan_edge.protocol import Reason, Refusal, UpdateInfo, UpdateReader
from ravan_server.operations import CheckedUpdate

__all__ = ["Checks", "MemoryBudget", "UploadReceiver", "receive"]

Result = TypeVar("Result")

_LENGTH_BYTES = 8
_WHERE = "update"
# What the event loop does itself: below it, waking a thread takes about as long as the check.
_SMALL_HEADER_BYTES = 64 * 1024
_SMALL_UPDATE_BYTES = 1_000_000


class MemoryBudget:
    """How many bytes of unfinished uploads may be in memory at once.

    Args:
        most_bytes: For all of them together.
    """

    def __init__(self, most_bytes: int) -> None:
        self._free = most_bytes
        self._lock = threading.Lock()

    @property
    def free(self) -> int:
        """Bytes that are not taken."""
        return self._free

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


class Checks:
    """Threads that check large updates; there are none before the first comes.

    Args:
        threads: How many; None: as many as there are processors, at most 4.
    """

    def __init__(self, threads: int | None = None) -> None:
        count = threads or min(4, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="checks")

    async def run(self, check: Callable[[], Result], *, large: bool) -> Result:
        """What a check says, made here if it is of something small."""
        if not large:
            return check()
        return await asyncio.get_running_loop().run_in_executor(self._pool, check)


async def receive(
    receiver: UploadReceiver, chunks: AsyncIterator[bytes], checks: Checks
) -> CheckedUpdate:
    """All of an upload, as it comes in.

    Raises:
        Refusal: As :class:`UploadReceiver`.
    """
    async for chunk in chunks:
        receiver.feed(chunk)
        if receiver.has_header:
            await checks.run(receiver.check_header, large=receiver.large_header)
    return await checks.run(receiver.finish, large=receiver.large)


class UploadReceiver:
    """Takes the body of one upload, piece by piece; :func:`receive` calls its methods in their order.

    Args:
        reader: Of the artifact.
        task: The id under which it is sent.
        version: The version that the task starts from.
        codec: That the task asks for; None: its attempt is over, and the body is only compared with what is
            stored.
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
        version: int,
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

    @property
    def has_header(self) -> bool:
        """Whether all of the header has arrived and it is to be checked."""
        return (
            self._info is None
            and self._header_bytes is not None
            and len(self._content) >= _LENGTH_BYTES + self._header_bytes
        )

    @property
    def large_header(self) -> bool:
        """Whether checking the header takes long."""
        return (self._header_bytes or 0) > _SMALL_HEADER_BYTES

    @property
    def large(self) -> bool:
        """Whether checking the numbers takes long."""
        return self._length > _SMALL_UPDATE_BYTES

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
        if self._header_bytes is None and len(self._content) >= _LENGTH_BYTES:
            prefix = bytes(self._content[:_LENGTH_BYTES])
            try:
                self._header_bytes = header_length(prefix, self._length, UPDATE_BOUNDS, _WHERE)
            except ArtifactError as error:
                raise Refusal(Reason.BAD_UPDATE, str(error)) from None

    def check_header(self) -> None:
        """Check the header, once all of it has arrived.

        Raises:
            Refusal: It is of no update of this task.
        """
        end = _LENGTH_BYTES + (self._header_bytes or 0)
        header = bytes(self._content[_LENGTH_BYTES:end])
        try:
            info = self._reader.check_header(header, self._length, where=_WHERE)
        except ArtifactError as error:
            raise Refusal(Reason.BAD_UPDATE, str(error)) from None
        self._check_assignment(info)
        self._info = info

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
        # Not of the absolute values: that would be a copy of the update.
        largest = max(float(update.data.max(initial=0.0)), -float(update.data.min(initial=0.0)))
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

    def _check_assignment(self, info: UpdateInfo) -> None:
        if info.task != self._task:
            raise Refusal(
                Reason.WRONG_TASK, f"the update says task {info.task}, it was sent as {self._task}"
            )
        if info.version != self._version:
            raise Refusal(
                Reason.WRONG_TASK,
                f"the update starts from version {info.version}, its task from {self._version}",
            )
        if self._codec is not None and info.codec is not self._codec:
            raise Refusal(
                Reason.WRONG_CODEC,
                f"the update has codec {info.codec}, its task asks for {self._codec}",
            )
