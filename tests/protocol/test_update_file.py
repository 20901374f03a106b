from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ravan_edge.artifact import (
    HEADS_BOUNDS,
    Artifact,
    read_header,
    tensors_from_bytes,
    tensors_to_bytes,
    update_bytes,
)
from ravan_edge.errors import ArtifactError, ArtifactNotFoundError, TensorFileError
from ravan_edge.methods import Method, method_for
from ravan_edge.protocol import UpdateInfo, decode_update, encode_update, read_update
from tests.tiny_artifact import LAYER, make_tiny_artifact
from tests.tiny_artifact import Method as MethodName

Tensors = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("artifacts")
    names: list[MethodName] = ["ravan", "fedit", "head-only"]
    return {name: make_tiny_artifact(folder / name, method=name) for name in names}


def info_of(artifact: Artifact) -> UpdateInfo:
    return UpdateInfo("task-1", 7, artifact.digest, examples=800, steps=50)


def encoded(artifact: Artifact, chosen: list[int] | None = None, seed: int = 0) -> bytes:
    method = method_for(artifact.manifest)
    start = method.layout.pack(artifact.initial_heads())
    parameters = start + np.random.default_rng(seed).normal(size=start.size).astype(np.float32)
    trained = None if chosen is None else {LAYER: np.array(chosen, np.int32)}
    training = method.training(start, trained)
    difference = method.difference(parameters, start, training)
    return encode_update(info_of(artifact), method, difference, training)


def decode(content: bytes, artifact: Artifact) -> Any:
    return decode_update(content, artifact.manifest, method_for(artifact.manifest), artifact.digest)


def changed(
    artifact: Artifact, tensors: Tensors | None = None, metadata: dict[str, str] | None = None
) -> bytes:
    """An update of heads 1 and 3 with some of it replaced; a tensor of size 0 is left out."""
    content = encoded(artifact, [1, 3])
    parts = tensors_from_bytes(content, HEADS_BOUNDS) | (tensors or {})
    parts = {name: array for name, array in parts.items() if array.size}
    header = dict(read_header(content, HEADS_BOUNDS).metadata) | (metadata or {})
    return tensors_to_bytes(parts, header)


@given(data=st.data(), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_what_is_encoded_is_decoded(
    artifacts: dict[str, Artifact], data: st.DataObject, seed: int
) -> None:
    name = data.draw(st.sampled_from(sorted(artifacts)))
    artifact = artifacts[name]
    method: Method = method_for(artifact.manifest)
    start = method.layout.pack(artifact.initial_heads())
    trained = None
    if name == "ravan":
        chosen = data.draw(st.none() | st.sets(st.integers(0, 3)))
        trained = None if chosen is None else {LAYER: np.array(sorted(chosen), np.int32)}
    training = method.training(start, trained)
    parameters = start + np.random.default_rng(seed).normal(size=start.size).astype(np.float32)
    difference = method.difference(parameters, start, training)
    content = encode_update(info_of(artifact), method, difference, training)
    update = decode(content, artifact)
    assert update.info == info_of(artifact)
    assert (update.difference == difference).all()
    assert {k: v.tolist() for k, v in update.trained.items()} == {
        k: v.tolist() for k, v in training.trained.items()
    }
    if training.mask is None:
        assert update.mask is None
    else:
        assert (update.mask == training.mask).all()
    counts = {layer: int(heads.size) for layer, heads in training.trained.items()}
    assert len(content) == update_bytes(artifact.manifest, counts, info_of(artifact).metadata())
    assert len(content) <= update_bytes(artifact.manifest)


def test_a_layer_without_trained_heads_is_left_out(artifacts: dict[str, Artifact]) -> None:
    content = encoded(artifacts["ravan"], [])
    assert set(read_header(content, HEADS_BOUNDS).specs) == {"task_head.weight", "task_head.bias"}
    update = decode(content, artifacts["ravan"])
    assert update.trained[LAYER].size == 0
    assert not update.difference[update.mask == 0].any()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "ravan-heads"),
        ("schema", "2"),
        ("encoding", "masked"),
        ("codec", "int3"),
        ("task", ""),
        ("task", "a" * 65),
        ("task", "../../etc"),
        ("version", "-1"),
        ("version", "01"),
        ("version", "1" * 40),
        ("version", "\u0663"),
        ("examples", "many"),
        ("steps", "5.0"),
        ("artifact", "0" * 64),
        ("artifact", "x"),
        ("more", "than is known"),
    ],
)
def test_metadata_that_break_the_format_are_refused(
    artifacts: dict[str, Artifact], key: str, value: str
) -> None:
    with pytest.raises(ArtifactError) as caught:
        decode(changed(artifacts["ravan"], metadata={key: value}), artifacts["ravan"])
    assert key in str(caught.value)
    assert caught.value.exit_code == 3


def test_metadata_that_are_missing_are_refused(artifacts: dict[str, Artifact]) -> None:
    artifact = artifacts["ravan"]
    content = encoded(artifact)
    tensors = tensors_from_bytes(content, HEADS_BOUNDS)
    metadata = read_header(content, HEADS_BOUNDS).metadata
    for key in metadata:
        some = {other: value for other, value in metadata.items() if other != key}
        with pytest.raises(ArtifactError, match=key):
            decode(tensors_to_bytes(tensors, some), artifact)


@pytest.mark.parametrize(
    "heads",
    [[3, 1], [1, 1], [-1, 3], [1, 4], [1, 2**31 - 1], [5, -(2**31)], [0, 1, 2, 3, 3]],
)
def test_heads_that_make_no_sense_are_refused(
    artifacts: dict[str, Artifact], heads: list[int]
) -> None:
    content = changed(artifacts["ravan"], {f"{LAYER}.heads": np.array(heads, np.int32)})
    with pytest.raises(ArtifactError, match="heads"):
        decode(content, artifacts["ravan"])


@pytest.mark.parametrize(
    ("name", "array"),
    [
        (f"{LAYER}.D", np.zeros((2, 3, 4), np.float32)),
        (f"{LAYER}.heads", np.array([0, 1, 2], np.int32)),
        (f"{LAYER}.D", np.zeros((3, 3, 3), np.float32)),
        (f"{LAYER}.D", np.zeros((2, 3, 3), np.int32)),
        (f"{LAYER}.D", np.empty(0, np.float32)),
        (f"{LAYER}.heads", np.empty(0, np.int32)),
        (f"{LAYER}.heads", np.array([[1, 3]], np.int32)),
        (f"{LAYER}.heads", np.array([1.0, 3.0], np.float32)),
        (f"{LAYER}.s", np.ones(4, np.float32)),
        ("other.D", np.zeros((2, 3, 3), np.float32)),
        ("task_head.bias", np.zeros(4, np.float32)),
        ("task_head.bias", np.empty(0, np.float32)),
        ("task_head.bias", np.array([0, np.nan, 0], np.float32)),
        (f"{LAYER}.D", np.full((2, 3, 3), np.inf, np.float32)),
    ],
)
def test_tensors_that_are_not_those_of_the_table_are_refused(
    artifacts: dict[str, Artifact], name: str, array: NDArray[Any]
) -> None:
    with pytest.raises(ArtifactError):
        decode(changed(artifacts["ravan"], {name: array}), artifacts["ravan"])


def test_an_update_of_another_method_is_refused(artifacts: dict[str, Artifact]) -> None:
    foreign = artifacts["fedit"]
    for name in ("ravan", "head-only"):
        with pytest.raises(ArtifactError, match="made for artifact"):
            decode(encoded(artifacts[name]), foreign)


def test_the_size_is_checked_before_anything_is_read(
    artifacts: dict[str, Artifact], tmp_path: Path
) -> None:
    artifact = artifacts["ravan"]
    path = tmp_path / "update"
    with path.open("wb") as file:
        file.truncate(10 * 2**30)  # a hole: it takes no space, and reading it would take minutes
    with pytest.raises(ArtifactError, match="an update has at most"):
        read_update(path, artifact.manifest, method_for(artifact.manifest), artifact.digest)
    with pytest.raises(ArtifactError, match="an update has at most"):
        decode(bytes(update_bytes(artifact.manifest) + 1), artifact)


def test_a_file_is_read_as_its_bytes(artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    artifact = artifacts["ravan"]
    method = method_for(artifact.manifest)
    path = tmp_path / "update"
    path.write_bytes(encoded(artifact, [0, 2]))
    found = read_update(path, artifact.manifest, method, artifact.digest)
    assert found.trained[LAYER].tolist() == [0, 2]
    with pytest.raises(ArtifactNotFoundError):
        read_update(tmp_path / "nothing", artifact.manifest, method, artifact.digest)
    with pytest.raises(ArtifactNotFoundError):
        read_update(tmp_path, artifact.manifest, method, artifact.digest)


def test_a_task_that_breaks_the_format_is_not_written(artifacts: dict[str, Artifact]) -> None:
    artifact = artifacts["head-only"]
    method = method_for(artifact.manifest)
    heads = method.layout.pack(artifact.initial_heads())
    training = method.training(heads, None)
    with pytest.raises(ValueError, match="'task' is 'a b'"):
        encode_update(replace(info_of(artifact), task="a b"), method, heads, training)


@settings(max_examples=300)
@given(data=st.data())
def test_mutated_bytes_are_refused_or_decoded_and_nothing_else(
    artifacts: dict[str, Artifact], data: st.DataObject
) -> None:
    artifact = artifacts["ravan"]
    content = bytearray(encoded(artifact, [0, 2, 3]))
    for _ in range(data.draw(st.integers(1, 3))):
        kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        place = data.draw(st.integers(0, max(len(content) - 1, 0)))
        if kind == "flip" and content:
            content[place] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del content[place:]
        else:
            content[place:place] = data.draw(st.binary(max_size=8))
    with contextlib.suppress(ArtifactError, TensorFileError):
        update = decode(bytes(content), artifact)
        assert np.isfinite(update.difference).all()
