"""Images in a parquet file: a column of their bytes, beside labels and users.

Needs pyarrow (the extra ``parquet``): import it where a parquet file is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ravan_edge.data.image_folder import MAX_IMAGE_BYTES, MAX_IMAGES
from ravan_edge.data.parquet import damaged_parquet
from ravan_edge.data.readers import read_table
from ravan_edge.data.rows import ColumnRequest, Columns, ReaderLimits, Rows
from ravan_edge.errors import DataError

__all__ = ["IMAGE_COLUMNS", "ParquetImages"]

IMAGE_COLUMNS = ("image", "img", "picture", "photo")
_BATCH_ROWS = 16
_SHOWN_COLUMNS = 20


@dataclass(frozen=True, slots=True)
class ParquetImages:
    """The images of a parquet file.

    Args:
        path: The file.
        rows: Labels and users of all rows.
        column: The column of images.
        nested: Whether it is a struct with the bytes in its field ``bytes``.
    """

    path: Path
    rows: Rows
    column: str
    nested: bool

    @property
    def sha256(self) -> str:
        """Of the file."""
        return self.rows.file_sha256

    @property
    def columns(self) -> Columns:
        """The columns that are read."""
        found = self.rows.columns
        return Columns(self.column, found.label, found.user)

    @property
    def users(self) -> list[str] | None:
        """The natural user of each row."""
        return self.rows.users

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int) -> str:
        """File and row, for a message."""
        return self.rows.where(index)

    def contents(self) -> Iterator[bytes]:
        """The bytes of each image, in order.

        Raises:
            DataError: A row has no bytes, or too many.
        """
        index = 0
        read = f"{self.column}.bytes" if self.nested else self.column
        with _opened(self.path) as file:
            for batch in _batches(file, read, str(self.path)):
                array = batch.column(self.column)
                if self.nested:
                    (array,) = array.flatten()
                for value in array:
                    content = value.as_py()
                    if not content:
                        raise DataError(
                            "no bytes of an image (a path alone is not followed)",
                            where=self.where(index),
                            hint="write the image's own bytes into the file, or remove the row",
                        )
                    if len(content) > MAX_IMAGE_BYTES:
                        raise DataError(
                            f"an image of {len(content)} bytes, expected at most {MAX_IMAGE_BYTES}",
                            where=self.where(index),
                            hint="save it smaller, or remove the row",
                        )
                    yield content
                    index += 1

    @classmethod
    def open(
        cls, path: Path, image_column: str | None, label_column: str | None, user_column: str | None
    ) -> ParquetImages:
        """Read labels and users, and find the images.

        Args:
            path: The file.
            image_column: Name of the images' column; None: the only one of ``IMAGE_COLUMNS``.
            label_column: Name of the labels' column; None: the only one with a usual name.
            user_column: Name of the column of users; None: they are not read.

        Raises:
            DataError: The file is refused.
        """
        request = ColumnRequest(label=label_column, user=user_column, require_text=False)
        rows = read_table(path, request, limits=ReaderLimits(rows=MAX_IMAGES))
        source = str(path)
        with _opened(path) as file:
            schema = file.schema_arrow
        name = _column(schema.names, image_column, source)
        kind = schema.field(name).type
        if _holds_bytes(kind):
            return cls(path, rows, name, nested=False)
        nested = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        if nested and _holds_bytes(kind.field("bytes").type):
            return cls(path, rows, name, nested=True)
        raise DataError(
            f"column {name!r} has type {str(kind)[:100]}, expected binary or struct of bytes and path",
            where=source,
            hint="name the column of images with --text-column, or write their bytes into this one",
        )


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(
            path, thrift_string_size_limit=64 << 20, thrift_container_size_limit=1 << 20
        )
    except (pa.ArrowException, OSError) as error:
        raise damaged_parquet(error, str(path)) from None


def _batches(file: pq.ParquetFile, column: str, source: str) -> Iterator[pa.RecordBatch]:
    batches = file.iter_batches(batch_size=_BATCH_ROWS, columns=[column])
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as error:
            raise damaged_parquet(error, source) from None
        if batch is None:
            return
        yield batch


def _holds_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _column(found: Sequence[str], name: str | None, source: str) -> str:
    listed = ", ".join(repr(column[:80]) for column in found[:_SHOWN_COLUMNS])
    hint = "name the column of images with --text-column"
    if name is not None:
        fitting = [column for column in found if column == name]
    else:
        fitting = [column for column in found if column.strip().casefold() in IMAGE_COLUMNS]
    if len(fitting) == 1:
        return fitting[0]
    wanted = f"no column {name!r}" if name else f"none is called {', '.join(IMAGE_COLUMNS)}"
    if fitting:
        wanted = f"several columns may be the images: {', '.join(map(repr, fitting))}"
    raise DataError(f"no column of images: {wanted}; found {listed}", where=source, hint=hint)
