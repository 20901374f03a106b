"""Images in a folder with one sub-folder for each class, in an order that is always the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ravan_edge.data.rows import Columns, Rows
from ravan_edge.errors import DataError, UsageError
from ravan_edge.files import sha256_file

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_IMAGES",
    "MAX_IMAGE_BYTES",
    "FolderImages",
    "check_folder_options",
    "class_names",
    "read_image_file",
]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_IMAGE_BYTES = 64 << 20
MAX_IMAGES = 1_000_000
_LEFT_BY_SYSTEMS = frozenset({"thumbs.db", "desktop.ini"})
_LAYOUT = "a folder of images has one sub-folder for each class, with that class's images in it"


@dataclass(frozen=True, slots=True)
class FolderImages:
    """The images of a folder: classes by code point, in each class files by code point.

    Args:
        folder: As it was given.
        files: [rows], the images.
        classes: The names of the sub-folders.
        counts: How many images each has; maybe none.
        sha256: Of all names and contents, 64 hex digits.
    """

    folder: Path
    files: tuple[Path, ...]
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    sha256: str

    columns = Columns(None, None, None)
    users: list[str] | None = None

    def __len__(self) -> int:
        return len(self.files)

    @property
    def class_rows(self) -> Rows:
        """The classes that have images, as rows whose labels can be looked up in a label map."""
        found = [index for index, count in enumerate(self.counts) if count]
        labels: list[str | int] = [self.classes[index] for index in found]
        numbers = [index + 1 for index in found]
        return Rows(
            str(self.folder), self.sha256, self.columns, [], labels, None, numbers, "sub-folder"
        )

    def where(self, index: int) -> str:
        """The file of a row, for a message."""
        return str(self.files[index])

    def contents(self) -> Iterator[bytes]:
        """The bytes of each image, in order.

        Raises:
            DataError: A file cannot be read any more.
        """
        for path in self.files:
            yield read_image_file(path)

    @classmethod
    def open(cls, folder: Path) -> FolderImages:
        """List a folder, and read every image once for the digest.

        Raises:
            DataError: It is laid out in another way, a file is too large or no image by its name,
                there are none or too many.
        """
        names = class_names(folder)
        listed = [_images(folder / name) for name in names]
        files = tuple(path for paths in listed for path in paths)
        if not files:
            raise DataError(
                f"no images in its {len(names)} sub-folders", where=str(folder), hint=_LAYOUT
            )
        if len(files) > MAX_IMAGES:
            raise DataError(
                f"{len(files)} images, expected at most {MAX_IMAGES}",
                where=str(folder),
                hint="use a part of them",
            )
        digest = hashlib.sha256()
        for path in files:
            name = f"{path.parent.name}/{path.name}"
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
            digest.update(sha256_file(path).encode() + b"\n")
        return cls(folder, files, names, tuple(map(len, listed)), digest.hexdigest())


def class_names(folder: Path) -> tuple[str, ...]:
    """The sub-folders of a folder of images, by code point; names with a leading dot are none.

    Raises:
        DataError: It has none, an image lies beside them, or it cannot be read.
    """
    names = []
    for path in _entries(folder):
        if path.is_dir():
            names.append(path.name)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            raise DataError("lies beside the classes", where=str(path), hint=_LAYOUT)
    if not names:
        raise DataError("no sub-folders", where=str(folder), hint=_LAYOUT)
    return tuple(names)


def read_image_file(path: Path) -> bytes:
    """The bytes of one image file.

    Raises:
        DataError: There is none, it is too large, or it cannot be read.
    """
    where = str(path)
    try:
        if path.is_dir():
            raise DataError("is a directory", where=where, hint="name an image file")
        if not path.exists():
            raise DataError("no such file", where=where, hint="check the path")
        _check_file(path)
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"cannot be read: {reason}", where=where, hint="check the file") from error


def check_folder_options(
    text_column: str | None, label_column: str | None, user_column: str | None
) -> None:
    """Refuse options that name columns, which a folder does not have.

    Raises:
        UsageError: Names the option.
    """
    for option, name in (
        ("--text-column", text_column),
        ("--label-column", label_column),
        ("--partition", user_column),
    ):
        if name is not None:
            raise UsageError(
                f"names column {name!r}, but a folder of images has no columns",
                where=option,
                hint="leave it out, or put images, labels and users into a parquet file",
            )


def _images(folder: Path) -> list[Path]:
    found = []
    for path in _entries(folder):
        if path.name.lower() in _LEFT_BY_SYSTEMS:
            continue
        if path.is_dir():
            raise DataError("a folder inside a class's folder", where=str(path), hint=_LAYOUT)
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise DataError(
                f"is no image by its name: expected {', '.join(IMAGE_SUFFIXES)}",
                where=str(path),
                hint="convert it, or move it out of the class's folder",
            )
        _check_file(path)
        found.append(path)
    return found


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise DataError("is not a regular file", where=str(path), hint="copy it into a file")
    size = path.stat().st_size
    if size > MAX_IMAGE_BYTES:
        raise DataError(
            f"{size} bytes, expected at most {MAX_IMAGE_BYTES}",
            where=str(path),
            hint="save it smaller: it is made as small as the model's images anyway",
        )


def _entries(folder: Path) -> list[Path]:
    try:
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror or error}", where=str(folder), hint="check the folder"
        ) from error
    return sorted(paths, key=lambda path: path.name)
