"""Where images come from: folders, parquet files, paths; their cache; and what is refused."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ravan_edge.artifact.manifest import ImageSettings
from ravan_edge.data import image_decode, image_folder, image_parquet, images, label_map
from ravan_edge.data.image_decode import decode_image
from ravan_edge.errors import (
    ArtifactError,
    DataError,
    MissingExtraError,
    RavanError,
    StorageError,
    UsageError,
)
from ravan_edge.tasks import DataSource
from ravan_edge.tasks.image_classification import ImageClassification
from tests.data.image_files import noise, saved, settings


def artifact(*labels: str, wanted: ImageSettings | None = None) -> Any:
    manifest = SimpleNamespace(image=wanted or settings(16, 16), labels=labels or ("cat", "dog"))
    return SimpleNamespace(manifest=manifest, folder=Path("tiny.ravan"))


def load(path: Path, *labels: str, **options: Any) -> Any:
    return ImageClassification().load(artifact(*labels), DataSource(path, **options))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAVAN_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """dog: b.jpg; cat: a.png, B.PNG; and what systems leave behind."""
    root = tmp_path / "pets"
    for name in ("dog", "cat", ".git"):
        (root / name).mkdir(parents=True)
    (root / "dog" / "b.jpg").write_bytes(saved(noise(20, 30), "JPEG"))
    (root / "cat" / "a.png").write_bytes(saved(noise(9, 9, seed=1)))
    (root / "cat" / "B.PNG").write_bytes(saved(noise(9, 9, seed=2)))
    (root / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "cat" / "Thumbs.db").write_bytes(b"x")
    (root / "README.txt").write_text("pets")
    return root


def test_a_folder_is_read_in_one_order_and_labelled_by_its_names(folder: Path) -> None:
    loaded = load(folder, "dog", "cat")
    assert loaded.dataset.labels.tolist() == [1, 1, 0]  # cat/B.PNG, cat/a.png, dog/b.jpg
    first = decode_image((folder / "cat" / "B.PNG").read_bytes(), settings(16, 16), "x")
    assert np.array_equal(loaded.dataset.images.pixels[0], first)
    assert label_map(str(folder)) == ("cat", "dog")
    assert len(loaded.sha256) == 64


def test_decoded_pixels_are_kept_and_shared(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = load(folder)
    made = list((tmp_path / "cache" / "images").iterdir())
    assert len(made) == 1
    copy = pickle.loads(pickle.dumps(first.dataset))
    assert len(pickle.dumps(first.dataset)) < 2000
    assert np.array_equal(copy.images.pixels, first.dataset.images.pixels)
    pixels = np.array(first.dataset.images.pixels)

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(image_decode, "decode_image", never)
        calls: list[tuple[int, int]] = []
        again = ImageClassification().load(
            artifact(), DataSource(folder), on_rows=lambda *done: calls.append(done)
        )
        assert np.array_equal(again.dataset.images.pixels, pixels)
        assert calls == [(3, 3)]
    # A damaged file is made again.
    content = bytearray(made[0].read_bytes())
    content[-100] ^= 1
    made[0].write_bytes(content)
    repaired = load(folder)
    assert np.array_equal(repaired.dataset.images.pixels, pixels)
    # Another label map, another image and another way to resize are other files.
    load(folder, "dog", "cat")
    (folder / "cat" / "a.png").write_bytes(saved(noise(9, 9, seed=7)))
    assert load(folder).sha256 != first.sha256
    ImageClassification().load(artifact(wanted=settings(18)), DataSource(folder))
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 4


def no_classes(root: Path) -> None:
    for path in (root / "cat", root / "dog", root / ".git"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()


def empty_classes(root: Path) -> None:
    for path in (*(root / "cat").iterdir(), *(root / "dog").iterdir()):
        path.unlink()


DAMAGES: dict[str, tuple[Any, str, str]] = {
    "beside the classes": (
        lambda r: (r / "x.png").write_bytes(b"x"),
        "beside the classes",
        "x.png",
    ),
    "a folder in a class": (lambda r: (r / "cat" / "more").mkdir(), "inside a class", "more"),
    "another file": (lambda r: (r / "cat" / "x.heic").write_bytes(b"x"), "no image by", "x.heic"),
    "not an image": (lambda r: (r / "cat" / "a.png").write_bytes(b"x" * 99), "no image", "a.png"),
    "an empty file": (lambda r: (r / "cat" / "a.png").write_bytes(b""), "is empty", "a.png"),
    "truncated": (
        lambda r: (r / "dog" / "b.jpg").write_bytes((r / "dog" / "b.jpg").read_bytes()[:500]),
        "damaged",
        "b.jpg",
    ),
    "another class": (lambda r: (r / "cat").rename(r / "cow"), "'cow'.*sub-folder 1", "sub-folder"),
    "no classes": (no_classes, "no sub-folders", "pets"),
    "no images": (empty_classes, "no images in its 2", "pets"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_folder_that_is_not_as_it_should_be(damage: str, folder: Path, tmp_path: Path) -> None:
    change, words, place = DAMAGES[damage]
    change(folder)
    with pytest.raises(DataError, match=words) as caught:
        load(folder)
    assert place in str(caught.value.where)
    assert caught.value.hint
    assert caught.value.exit_code == 4
    kept = tmp_path / "cache" / "images"
    assert not kept.exists() or list(kept.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_opened(folder: Path) -> None:
    os.mkfifo(folder / "cat" / "pipe.png")
    with pytest.raises(DataError, match="not a regular file"):
        load(folder)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"text_column": "image"}, UsageError, "--text-column.*no columns"),
        ({"label_column": "label"}, UsageError, "--label-column.*no columns"),
        ({"user_column": "user"}, UsageError, "--partition.*no columns"),
        ({"skip_empty": True}, UsageError, "--skip-empty"),
    ],
)
def test_options_a_folder_has_no_use_for(
    options: dict[str, Any], error: type[RavanError], words: str, folder: Path
) -> None:
    with pytest.raises(error, match=words):
        load(folder, **options)


def test_a_class_without_images_is_no_mistake(folder: Path) -> None:
    (folder / "ant").mkdir()
    assert load(folder, "ant", "cat", "dog").dataset.labels.tolist() == [1, 1, 2]


def test_bounds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value, error, words in (
        (image_folder, "MAX_IMAGES", 2, DataError, "3 images, expected at most 2"),
        (image_folder, "MAX_IMAGE_BYTES", 50, DataError, "bytes, expected at most 50"),
        (images, "MAX_CACHE_BYTES", 1000, DataError, "3 images need 2304 bytes"),
        (
            images.shutil,
            "disk_usage",
            lambda _: SimpleNamespace(free=5),
            StorageError,
            "5 are free",
        ),  # type: ignore[attr-defined]
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            with pytest.raises(error, match=words):
                load(folder)


# -- parquet ----------------------------------------------------------------------------------------


def table(path: Path, kind: str = "binary", **columns: Any) -> Path:
    contents = [saved(noise(9 + n, 12, seed=n)) for n in range(3)]
    found: dict[str, Any] = {
        "image": pa.array(contents, pa.large_binary())
        if kind == "binary"
        else pa.array([{"bytes": item, "path": "x.png"} for item in contents]),
        "label": ["dog", "cat", "dog"],
        "user": ["ann", "bob", "ann"],
    }
    pq.write_table(pa.table(found | columns), path)
    return path


@pytest.mark.parametrize("kind", ["binary", "struct"])
def test_parquet_with_the_bytes_of_images(kind: str, tmp_path: Path) -> None:
    path = table(tmp_path / "pets.parquet", kind)
    loaded = load(path, user_column="user")
    assert loaded.dataset.labels.tolist() == [1, 0, 1]
    assert loaded.dataset.users.tolist() == [0, 1, 0]
    assert loaded.columns.text == "image"
    expected = decode_image(saved(noise(10, 12, seed=1)), settings(16, 16), "x")
    assert np.array_equal(loaded.dataset.images.pixels[1], expected)
    assert pickle.loads(pickle.dumps(loaded.dataset)).users.tolist() == [0, 1, 0]


def test_integer_labels_with_names_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "pets.parquet"
    found = pq.read_table(table(path))
    found = found.set_column(1, "label", pa.array([0, 1, 0]))
    pq.write_table(found.replace_schema_metadata({"label_names": '["dog", "cat"]'}), path)
    assert load(path).dataset.labels.tolist() == [1, 0, 1]
    assert label_map(str(path)) == ("dog", "cat")


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"image": ["a", "b", "c"]}, {}, "has type string, expected binary"),
        ({"image": pa.array([{"path": "x"}] * 3)}, {}, "expected binary or struct"),
        ({"image": pa.array([{"bytes": None, "path": "x"}] * 3, pa.struct(
            [("bytes", pa.binary()), ("path", pa.string())]))}, {}, "no bytes of an image"),
        ({"image": pa.array([saved(noise(9, 9)), None, b"x"])}, {}, "row 2: no bytes"),
        ({"image": pa.array([saved(noise(9, 9)), b"x", b"x"])}, {}, "row 2: is no image"),
        ({"img": pa.array([b"x"] * 3)}, {}, "several columns may be the images"),
        ({}, {"text_column": "photo"}, "no column 'photo'"),
        ({"label": ["dog", "cow", "dog"]}, {}, "'cow'.*row 2"),
        ({"label": ["dog", None, "dog"]}, {}, "without a label"),
        ({}, {"user_column": "owner"}, "no column 'owner'"),
    ],
)  # fmt: skip
def test_a_parquet_file_that_is_not_as_it_should_be(
    columns: dict[str, Any], options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = table(tmp_path / "pets.parquet", **columns)
    with pytest.raises(DataError, match=words) as caught:
        load(path, **options)
    assert caught.value.hint


def test_a_truncated_parquet_file(tmp_path: Path) -> None:
    path = table(tmp_path / "pets.parquet")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="not a readable parquet file"):
        load(path)


def test_a_large_image_in_a_parquet_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_parquet, "MAX_IMAGE_BYTES", 50)
    with pytest.raises(DataError, match="row 1: an image of"):
        load(table(tmp_path / "pets.parquet"))


@pytest.mark.parametrize(
    ("name", "words"), [("nowhere", "no such file or folder"), ("rows.csv", "unsupported suffix")]
)
def test_what_is_no_source_of_images(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n")
    with pytest.raises(DataError, match=words):
        load(tmp_path / name)


# -- what a person types --------------------------------------------------------------------------


def test_a_manifest_that_claims_huge_images_needs_no_memory(folder: Path) -> None:
    wanted = settings(16, 16).model_copy(update={"height": 1 << 40, "width": 1 << 40})
    with pytest.raises(DataError, match="expected at most"):
        ImageClassification().load(artifact(wanted=wanted), DataSource(folder))


def test_files_to_predict(folder: Path) -> None:
    paths = [str(folder / "cat" / "a.png"), str(folder / "dog" / "b.jpg")]
    rows = ImageClassification().read(artifact(), paths, 128)
    assert len(rows) == 2
    assert rows.labels.tolist() == [-100, -100]
    for name, words in (
        ("cat", "is a directory"),
        ("cat/x.png", "no such file"),
        ("a\0", "no such file"),
    ):
        with pytest.raises(DataError, match=words):
            ImageClassification().read(artifact(), [str(folder / name)], 128)


def test_without_pillow_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ravan_edge.data.image_decode")
    monkeypatch.delattr("ravan_edge.data.image_decode")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match="Pillow") as caught:
        load(folder)
    assert caught.value.hint == "pip install 'ravan-edge[images]'"
    assert caught.value.exit_code == 8


def test_an_artifact_for_texts_reads_no_images(folder: Path) -> None:
    other = artifact()
    other.manifest.image = None
    with pytest.raises(ArtifactError, match="reads no images"):
        ImageClassification().load(other, DataSource(folder))
