"""Pickled messages over a pipe, each behind its length. Only between a process and its own child."""

from __future__ import annotations

import pickle
import struct
from typing import Any, BinaryIO

__all__ = ["receive", "send"]

_LENGTH = struct.Struct("<Q")


def send(pipe: BinaryIO, message: object) -> None:
    """Write one message.

    Raises:
        OSError: Nobody reads any more.
    """
    content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(_LENGTH.pack(len(content)) + content)
    pipe.flush()


def receive(pipe: BinaryIO) -> Any:  # noqa: ANN401  (whoever asks knows what comes)
    """Read one message.

    Raises:
        EOFError: The other side is gone.
    """
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    return pickle.loads(_exactly(pipe, length))  # noqa: S301  (our own child or parent)


def _exactly(pipe: BinaryIO, count: int) -> bytes:
    content = pipe.read(count)
    if len(content) != count:
        raise EOFError
    return content
