"""Image classification: one label for each image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact import Artifact
from ravan_edge.artifact.manifest import ImageSettings
from ravan_edge.data import NO_LABEL, encode_labels
from ravan_edge.data.image_folder import FolderImages, check_folder_options, read_image_file
from ravan_edge.data.images import ImageDataset, ImageRows, pixels_of
from ravan_edge.data.tokenise import numbered
from ravan_edge.errors import ArtifactError, DataError, MissingExtraError, UsageError
from ravan_edge.tasks.task import DataSource, LoadedData, OnRows

__all__ = ["ImageClassification"]


class ImageClassification:
    """See :class:`ravan_edge.tasks.task.Task`.

    Data are a folder with one sub-folder for each class, or a parquet file with images' bytes.
    """

    name = "image-classification"
    row_labels = True
    counted = "images"
    perplexity = False

    def load(
        self, artifact: Artifact, source: DataSource, on_rows: OnRows | None = None
    ) -> LoadedData:
        """Images and labels of a folder or a parquet file. A length in tokens has no meaning here."""
        settings = _settings_of(artifact)
        if source.skip_empty:
            raise UsageError(
                "leaves out empty texts, and images are none", where="--skip-empty",
                hint="leave the option out",
            )  # fmt: skip
        decoder = _decoder(source.path)
        names = artifact.manifest.labels
        if source.path.is_dir():
            check_folder_options(source.text_column, source.label_column, source.user_column)
            table: Any = FolderImages.open(source.path)
            indices = encode_labels(table.class_rows, names)
            labels = np.repeat(indices, [count for count in table.counts if count])
        else:
            table = _parquet(source)
            labels = encode_labels(table.rows, names)
        columns = table.columns
        images = pixels_of(
            table,
            settings,
            decoder.decode_image,
            labels=labels.astype(np.int32),
            users=None if table.users is None else numbered(table.users),
            content={
                "decoders": decoder.decoder_versions(),
                "labels": list(names),
                "columns": [columns.text, columns.label, columns.user],
            },
            progress=on_rows,
        )
        return LoadedData(ImageRows(images, settings), table.sha256, columns)

    def read(self, artifact: Artifact, items: Sequence[str], max_length: int) -> ImageRows:
        """Image files as rows without labels."""
        settings = _settings_of(artifact)
        paths = [Path(item) for item in items]
        decoder = _decoder(paths[0])
        found: list[NDArray[np.uint8]] = [
            decoder.decode_image(read_image_file(path), settings, str(path)) for path in paths
        ]
        labels = np.full(len(found), NO_LABEL, np.int32)
        return ImageRows(ImageDataset(np.stack(found), labels), settings)


def _settings_of(artifact: Artifact) -> ImageSettings:
    if artifact.manifest.image is None:
        raise ArtifactError(
            "this artifact reads no images", where=str(artifact.folder), hint="take one for images"
        )
    return artifact.manifest.image


def _decoder(path: Path) -> Any:  # noqa: ANN401  (a module)
    try:
        from ravan_edge.data import image_decode
    except ImportError as error:
        raise MissingExtraError(
            "reading images needs Pillow, which is not installed",
            where=str(path),
            hint="pip install 'ravan-edge[images]'",
        ) from error
    return image_decode


def _parquet(source: DataSource) -> Any:  # noqa: ANN401  (its module may not be there)
    path = source.path
    if not path.exists():
        raise DataError("no such file or folder", where=str(path), hint="check the path")
    if path.suffix.lower() != ".parquet":
        raise DataError(
            f"unsupported suffix {path.suffix!r}, expected a folder or .parquet",
            where=str(path),
            hint="name a folder with one sub-folder for each class, or a parquet file with the "
            "images' bytes",
        )
    try:
        from ravan_edge.data.image_parquet import ParquetImages
    except ImportError as error:
        raise MissingExtraError(
            "reading parquet needs pyarrow, which is not installed",
            where=str(path),
            hint="pip install 'ravan-edge[parquet]'",
        ) from error
    return ParquetImages.open(path, source.text_column, source.label_column, source.user_column)
