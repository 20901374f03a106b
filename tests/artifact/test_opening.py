"""Opening, heads files and the writer. What must be refused is in tests/attacks."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ravan_edge.artifact.heads import heads_metadata, heads_version, read_heads, write_heads
from ravan_edge.artifact.manifest import Manifest
from ravan_edge.artifact.opening import Artifact, open_artifact
from ravan_edge.artifact.tensor_file import write_tensors
from ravan_edge.artifact.writer import ArtifactWriter
from ravan_edge.errors import (
    ArtifactError,
    ArtifactNotFoundError,
    StorageError,
    TensorFileError,
    UsageError,
)
from ravan_edge.files import sha256_file
from tests.tiny_artifact import LAYER, make_tiny_artifact


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return make_tiny_artifact(tmp_path / "tiny")


def test_an_opened_artifact_hands_out_its_parts(artifact: Artifact) -> None:
    assert artifact.digest == sha256_file(artifact.folder / "manifest.json")
    assert artifact.digest == artifact.manifest.digest
    assert artifact.base_digest == sha256_file(artifact.base_folder / "base.safetensors")
    assert artifact.heads_digest == sha256_file(artifact.folder / "heads.safetensors")
    assert artifact.graph_path("whole", "step").is_file()
    assert artifact.tokenizer_path is not None
    assert artifact.tokenizer_path.is_file()
    assert artifact.conformance_path is not None
    assert artifact.conformance_path.is_file()
    assert not artifact.base["embedding.weight"].flags.writeable
    assert list(artifact.initial_heads()) == [entry.name for entry in artifact.manifest.tensors]


def test_a_worker_opens_without_digests(artifact: Artifact) -> None:
    again = open_artifact(artifact.folder, check_digests=False)
    assert (again.digest, again.manifest) == (artifact.digest, artifact.manifest)
    assert pickle.loads(pickle.dumps(again.manifest)) == again.manifest


@pytest.mark.parametrize(("plan", "role"), [("block", "step"), ("whole", "train")])
def test_a_graph_that_is_not_there(artifact: Artifact, plan: str, role: str) -> None:
    with pytest.raises(ArtifactError, match=r"found whole \(eval, step\)"):
        artifact.graph_path(plan, role)


def test_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFoundError, match="no such folder"):
        open_artifact(tmp_path / "nowhere")
    with pytest.raises(ArtifactNotFoundError, match=r"no manifest\.json"):
        open_artifact(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactNotFoundError):
        open_artifact(tmp_path / "file")


def test_heads_come_back_as_they_were_saved(artifact: Artifact, tmp_path: Path) -> None:
    heads = artifact.initial_heads()
    heads[f"{LAYER}.H"] += np.float32(0.5)
    write_heads(tmp_path / "heads", artifact, heads, version=12)
    again = read_heads(tmp_path / "heads", artifact)
    assert all(np.array_equal(again[name], heads[name]) for name in heads)
    assert heads_version(tmp_path / "heads", artifact) == 12


def test_heads_of_another_artifact(artifact: Artifact, tmp_path: Path) -> None:
    other = make_tiny_artifact(tmp_path / "other", seed=1)
    write_heads(tmp_path / "heads", other, other.initial_heads(), version=1)
    for read in (read_heads, heads_version):
        with pytest.raises(ArtifactError, match="belongs to another artifact") as refused:
            read(tmp_path / "heads", artifact)
        assert refused.value.exit_code == 3


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (f"{LAYER}.s", np.full(4, 2, np.float32), "folded"),
        (f"{LAYER}.H", np.full((4, 3, 3), np.nan, np.float32), f"{LAYER}.H"),
        (f"{LAYER}.H", np.zeros((4, 3, 4), np.float32), r"\[4, 3, 3\]"),
        (f"{LAYER}.H", np.zeros((4, 3, 3), np.float64), "F32|float32"),
        ("elsewhere.H", np.zeros((4, 3, 3), np.float32), "elsewhere.H"),
    ],
)
def test_heads_that_do_not_fit(
    artifact: Artifact, tmp_path: Path, name: str, value: np.ndarray, says: str
) -> None:
    heads = artifact.initial_heads() | {name: value}
    with pytest.raises(TensorFileError, match=says):
        write_heads(tmp_path / "heads", artifact, heads, version=1)
    assert not (tmp_path / "heads").exists()
    write_tensors(tmp_path / "heads", heads, heads_metadata(1, artifact.digest))
    with pytest.raises(TensorFileError, match=says):
        read_heads(tmp_path / "heads", artifact)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({}, "not a heads file"),
        ({"format": "ravan-update", "schema": "1", "version": "1"}, "not a heads file"),
        ({"format": "ravan-heads", "schema": "2", "version": "1"}, "not a heads file"),
        ({"format": "ravan-heads", "schema": "1"}, "version None"),
        ({"format": "ravan-heads", "schema": "1", "version": "-1"}, "version '-1'"),
    ],
)
def test_files_that_are_no_heads(
    artifact: Artifact, tmp_path: Path, metadata: dict[str, str], says: str
) -> None:
    write_tensors(tmp_path / "heads", artifact.initial_heads(), metadata)
    with pytest.raises(ArtifactError, match=says):
        read_heads(tmp_path / "heads", artifact)


def copy_with(writer: ArtifactWriter, artifact: Artifact) -> Manifest:
    for path in artifact.manifest.files:
        writer.add_file(path, artifact.folder / path)
    return write_manifest(writer, artifact)


def write_manifest(writer: ArtifactWriter, artifact: Artifact) -> Manifest:
    return writer.write_manifest(
        lambda files: artifact.manifest.model_copy(update={"files": dict(files)})
    )


def test_the_writer_copies_an_artifact_exactly(artifact: Artifact, tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "copy") as writer:
        copy_with(writer, artifact)
        assert open_artifact(writer.folder).digest == artifact.digest  # complete before its name
        assert not (tmp_path / "copy").exists()
        assert writer.publish() == tmp_path / "copy"
    assert open_artifact(tmp_path / "copy").digest == artifact.digest
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "copy"}


@pytest.mark.parametrize("failure", [KeyboardInterrupt, StorageError("full"), ValueError])
def test_nothing_is_left_behind(
    artifact: Artifact, tmp_path: Path, failure: type[BaseException] | BaseException
) -> None:
    def fail() -> None:
        with ArtifactWriter(tmp_path / "copy") as writer:
            copy_with(writer, artifact)
            raise failure

    with pytest.raises(failure if isinstance(failure, type) else type(failure)):
        fail()
    with ArtifactWriter(tmp_path / "copy") as writer:
        writer.add_bytes("a", b"never published")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_what_is_there_is_replaced_only_on_request(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="already there") as refused:
        ArtifactWriter(artifact.folder)
    assert refused.value.exit_code == 2
    other = make_tiny_artifact(tmp_path / "other", seed=1)
    with ArtifactWriter(artifact.folder, overwrite=True) as writer:
        copy_with(writer, other)
        writer.publish()
    assert open_artifact(artifact.folder).digest == other.digest
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "other"}


def test_what_is_no_artifact_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="was not made by ravan"):
        ArtifactWriter(tmp_path / "mine", overwrite=True)
    with pytest.raises(UsageError, match="does not exist"):
        ArtifactWriter(tmp_path / "nowhere" / "new")


def test_an_empty_folder_is_a_destination(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with ArtifactWriter(tmp_path / "empty") as writer:
        copy_with(writer, artifact)
        writer.publish()
    assert open_artifact(tmp_path / "empty").digest == artifact.digest


def test_publishing_needs_a_manifest(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "new") as writer, pytest.raises(ArtifactError, match="manifest"):
        writer.publish()


def test_the_writer_refuses_what_a_reader_would(artifact: Artifact, tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "new") as writer:
        with pytest.raises(ArtifactError, match="plain relative path"):
            writer.add_bytes("../outside", b"")
        writer.add_bytes("more", b"")
        with pytest.raises(ArtifactError, match="not those written"):
            writer.write_manifest(lambda _: artifact.manifest)


def test_a_changed_file_is_digested_again(artifact: Artifact, tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "new") as writer:
        first = copy_with(writer, artifact)
        writer.add_bytes("tokenizer/tokenizer.json", b"{}")
        second = write_manifest(writer, artifact)
    assert first.files["base.safetensors"] == second.files["base.safetensors"]
    assert second.files["tokenizer/tokenizer.json"].size == 2


def test_the_manifest_holds_nothing_of_the_machine(artifact: Artifact, tmp_path: Path) -> None:
    text = (artifact.folder / "manifest.json").read_text("utf-8")
    assert str(tmp_path) not in text
    assert text.endswith("}\n")
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def test_a_moved_artifact_is_the_same(artifact: Artifact, tmp_path: Path) -> None:
    moved = Path(shutil.move(artifact.folder, tmp_path / "moved"))
    assert replace(open_artifact(moved), folder=artifact.folder).digest == artifact.digest
