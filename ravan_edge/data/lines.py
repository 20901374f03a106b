"""Lines of a UTF-8 file, none of them read further than the longest row that is allowed."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

from ravan_edge.data.rows import data_error
from ravan_edge.errors import DataError

__all__ = ["BoundedLines"]

_UTF8_MARK = b"\xef\xbb\xbf"
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")


class BoundedLines:
    """Iterates over the decoded lines of a file, with their ends, and hashes its bytes.

    A record may span lines (a quoted csv field with line ends): the bound holds for all lines since
    :meth:`next_record` together, so that a quote that is never closed cannot pull in a whole file.

    Args:
        file: Opened for reading bytes, at its start.
        source: The path, for messages.
        row_bytes: The most bytes of a record, line ends included.
    """

    def __init__(self, file: BinaryIO, source: str, row_bytes: int) -> None:
        self._file = file
        self._source = source
        self._row_bytes = row_bytes
        self._digest = hashlib.sha256()
        self._offset = 0
        self._record_bytes = 0
        self.line = 0
        self.record_line = 1

    def __iter__(self) -> BoundedLines:
        return self

    def __next__(self) -> str:
        data = self._file.readline(self._row_bytes - self._record_bytes + 1)
        if not data:
            raise StopIteration
        self.line += 1
        self._record_bytes += len(data)
        if self._record_bytes > self._row_bytes:
            raise data_error(
                f"a row of more than {self._row_bytes} bytes",
                self._source,
                self.record_line,
                "line",
                "shorten it, or close the quote that it opens; lines must end in LF or CR LF",
            )
        self._digest.update(data)
        text = self._decode(data)
        self._offset += len(data)
        return text

    def next_record(self) -> None:
        """The record is complete: the next line begins a new one."""
        self._record_bytes = 0
        self.record_line = self.line + 1

    def file_sha256(self) -> str:
        """Digest of the bytes read so far: of the whole file, once the iteration has ended."""
        return self._digest.hexdigest()

    def _decode(self, data: bytes) -> str:
        skipped = 0
        if self.line == 1:
            if data.startswith(_WIDE_MARKS):
                raise self._encoding_error(0, "the file begins with a UTF-16 byte order mark")
            if data.startswith(_UTF8_MARK):
                skipped = len(_UTF8_MARK)
        position = data.find(0)
        if position >= 0:
            raise self._encoding_error(position, "a NUL byte: UTF-16, or not a text file")
        try:
            return data[skipped:].decode("utf-8")
        except UnicodeDecodeError as error:
            position = skipped + error.start
            raise self._encoding_error(
                position, f"0x{data[position]:02x} is not valid there"
            ) from None

    def _encoding_error(self, position: int, found: str) -> DataError:
        return data_error(
            f"expected UTF-8, but at byte {self._offset + position} of the file {found}",
            self._source,
            self.line,
            "line",
            "save the file as UTF-8",
        )
