"""Updates whose numbers a codec wrote: read as they were written, refused when they are wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ravan_edge.artifact import (
    UPDATE_BOUNDS,
    Artifact,
    read_header,
    tensors_from_bytes,
    tensors_to_bytes,
    update_bytes,
)
from ravan_edge.codecs import CODECS, Codec, CodecName
from ravan_edge.codecs.top_k import TopK
from ravan_edge.errors import ArtifactError, NumericsError, TensorFileError
from ravan_edge.merge import ExactSum, MergeScale, add_update, sum_updates
from ravan_edge.methods import Training, Vector, method_for
from ravan_edge.protocol import (
    CodedDifference,
    UpdateInfo,
    UpdateReader,
    code_difference,
    encode_coded_update,
    encode_update,
    rounding_stream,
)
from tests.codecs.reference_codecs import read
from tests.tiny_artifact import LAYER, make_tiny_artifact
from tests.tiny_artifact import Method as MethodName

CODERS: list[Codec] = [*CODECS.values(), TopK(0.1)]
METHODS: list[MethodName] = ["ravan", "fedit", "head-only"]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("artifacts")
    return {name: make_tiny_artifact(folder / name, method=name) for name in METHODS}


def reader_of(artifact: Artifact) -> UpdateReader:
    return UpdateReader(artifact.manifest, method_for(artifact.manifest), artifact.digest)


def info_of(artifact: Artifact, codec: CodecName) -> UpdateInfo:
    return UpdateInfo("task-1", 7, artifact.digest, examples=800, steps=50, codec=codec)


def made(
    artifact: Artifact, codec: Codec, chosen: list[int] | None, seed: int = 0
) -> tuple[bytes, CodedDifference, Training, Vector]:
    """An update, and what it was made of."""
    method = method_for(artifact.manifest)
    start = method.layout.pack(artifact.initial_heads())
    noise = np.random.default_rng(seed).normal(size=start.size).astype(np.float32)
    trained = None if chosen is None else {LAYER: np.array(chosen, np.int32)}
    training = method.training(start, trained)
    difference = method.difference(start + noise, start, training)
    stream = rounding_stream(seed, 7, 3)
    coded = code_difference(codec, method, difference, training, None, stream, 64.0)
    content = encode_coded_update(info_of(artifact, codec.name), training, coded.tensors)
    return content, coded, training, difference


@pytest.mark.parametrize("codec", CODERS, ids=lambda codec: f"{codec.name}")
@given(data=st.data(), seed=st.integers(0, 2**32))
@settings(max_examples=30)
def test_what_is_encoded_is_decoded(
    artifacts: dict[str, Artifact], codec: Codec, data: st.DataObject, seed: int
) -> None:
    name = data.draw(st.sampled_from(METHODS))
    artifact = artifacts[name]
    chosen = None
    if name == "ravan":
        found = data.draw(st.none() | st.sets(st.integers(0, 3)))
        chosen = None if found is None else sorted(found)
    content, coded, training, difference = made(artifact, codec, chosen, seed)
    reader = reader_of(artifact)
    update = reader.decode(content)
    assert update.info == info_of(artifact, codec.name)
    assert (
        update.difference.tobytes() == (coded.received + np.float32(0)).tobytes()
        or (update.difference == coded.received).all()
    )
    assert {k: v.tolist() for k, v in update.trained.items()} == {
        k: v.tolist() for k, v in training.trained.items()
    }
    counts = {layer: int(heads.size) for layer, heads in training.trained.items()}
    metadata = update.info.metadata()
    assert len(content) == update_bytes(artifact.manifest, counts, metadata, codec)
    assert len(content) <= reader.largest_bytes
    mask = np.ones(difference.size, bool) if training.mask is None else training.mask
    assert not update.difference[~mask].any()
    if codec.biased:
        assert coded.residuals is not None
        assert (coded.residuals.acknowledged == difference - update.difference).all()
        assert (coded.residuals.refused == difference).all()
    else:
        assert coded.residuals is None


@pytest.mark.parametrize("codec", CODERS, ids=lambda codec: f"{codec.name}")
def test_the_numbers_are_in_the_order_of_the_table(
    artifacts: dict[str, Artifact], codec: Codec
) -> None:
    """Read with the plain reference, and laid out by the page: heads ascending, scales left out."""
    artifact = artifacts["ravan"]
    content, coded, _, _ = made(artifact, codec, [1, 3])
    tensors = dict(tensors_from_bytes(content, UPDATE_BOUNDS))
    assert tensors.pop(f"{LAYER}.heads").tolist() == [1, 3]
    method = method_for(artifact.manifest)
    views = method.layout.views(coded.received)
    expected = np.concatenate(
        [
            views[entry.name][[1, 3]].reshape(-1)
            if entry.role == "core"
            else views[entry.name].reshape(-1)
            for entry in artifact.manifest.tensors
            if entry.role != "scale"
        ]
    )
    raw = {name: array.tobytes() for name, array in tensors.items()}
    assert read(codec.name, raw, len(expected)) == expected.astype(np.float64).tolist()


@pytest.mark.parametrize("codec", CODERS, ids=lambda codec: f"{codec.name}")
def test_the_merge_adds_what_was_decoded(artifacts: dict[str, Artifact], codec: Codec) -> None:
    artifact = artifacts["ravan"]
    reader, scale = reader_of(artifact), MergeScale.for_cohort(4)
    expected = ExactSum.empty(reader.method.layout.size, scale)
    contents = []
    for seed, chosen in enumerate([[0], [1, 2], [0, 1, 2, 3], []]):
        content, coded, training, _ = made(artifact, codec, chosen, seed)
        contents.append((f"update {seed}", content))
        expected.add(coded.received, training.mask)
    found = sum_updates(contents, reader, scale)
    assert (found.total == expected.total).all()
    assert (found.trainers == expected.trainers).all()
    one_by_one = ExactSum.empty(reader.method.layout.size, scale)
    for where, content in contents:
        add_update(one_by_one, content, reader, where=where)
    assert (one_by_one.total == expected.total).all()


def test_views_without_a_buffer_do_not_share_one(artifacts: dict[str, Artifact]) -> None:
    artifact, codec = artifacts["ravan"], CODECS[CodecName.INT8]
    reader = reader_of(artifact)
    first, second = (made(artifact, codec, None, seed)[0] for seed in (0, 1))
    one, other = reader.view(first), reader.view(second)
    assert (one.data == reader.view(first).data).all()
    assert not (one.data == other.data).all()
    buffer = reader.numbers_buffer()
    one = reader.view(first, buffer=buffer)
    kept = one.data.copy()
    reader.view(second, buffer=buffer)
    assert not (one.data == kept).all(), "with a buffer they do, as they say"


def test_a_known_header_of_another_codec_is_another_header(artifacts: dict[str, Artifact]) -> None:
    """The names and forms of fp32's tensors say nothing once the metadata name a codec."""
    artifact = artifacts["ravan"]
    reader = reader_of(artifact)
    content, *_ = made(artifact, CODECS[CodecName.INT8], None)
    reader.view(content)
    other = content.replace(b'"codec":"int8"', b'"codec":"int4"')
    with pytest.raises(TensorFileError):
        reader.view(other)
    plain = content.replace(b'"codec":"int8"', b'"codec":"fp32"')
    with pytest.raises(TensorFileError):
        reader.view(plain)


def changed(artifact: Artifact, codec: CodecName, tensors: dict[str, NDArray[Any] | None]) -> bytes:
    content, *_ = made(artifact, CODECS[codec], [1, 3])
    parts = dict(tensors_from_bytes(content, UPDATE_BOUNDS)) | tensors
    kept = {name: array for name, array in parts.items() if array is not None}
    return tensors_to_bytes(kept, read_header(content, UPDATE_BOUNDS).metadata)


N = 2 * 9 + 3 * 16 + 3  # of the tiny artifact's two heads and its task head; a test checks it


@pytest.mark.parametrize(
    ("codec", "tensors"),
    [
        (CodecName.FP16, {"numbers": np.zeros(N - 1, np.float16)}),
        (CodecName.FP16, {"numbers": np.zeros((1, N), np.float16)}),
        (CodecName.FP16, {"numbers": np.zeros(N, np.float32)}),
        (CodecName.FP16, {"numbers": np.full(N, np.nan, np.float16)}),
        (CodecName.FP16, {"numbers": np.full(N, np.inf, np.float16)}),
        (CodecName.FP16, {"numbers": None}),
        (CodecName.FP16, {"scales": np.full(2, 0x3F80, np.uint16)}),
        (CodecName.INT8, {"numbers": np.zeros(N + 1, np.int8)}),
        (CodecName.INT8, {"numbers": np.zeros(N, np.uint8)}),
        (CodecName.INT8, {"numbers": np.full(N, -128, np.int8)}),
        (CodecName.INT8, {"scales": np.full(3, 0x3F80, np.uint16)}),
        (CodecName.INT8, {"scales": np.full(2, 1.0, np.float32)}),
        (CodecName.INT8, {"scales": np.full(2, 0x0000, np.uint16)}),
        (CodecName.INT8, {"scales": np.full(2, 0x7F80, np.uint16)}),
        (CodecName.INT8, {"scales": np.full(2, 0x7F7F, np.uint16)}),
        (CodecName.INT8, {"scales": None}),
        (CodecName.INT8, {f"{LAYER}.D": np.zeros((2, 3, 3), np.float32)}),
        (CodecName.INT4, {"numbers": np.zeros(N // 2, np.uint8)}),
        (CodecName.INT4, {"numbers": np.full(N // 2 + 1, 0x11, np.uint8)}),
        (CodecName.INT4, {"numbers": np.full(N // 2 + 1, 0x08, np.uint8)}),
        (CodecName.TOP_K, {"indices": np.zeros(0, np.int32), "numbers": np.zeros(0, np.float32)}),
        (CodecName.TOP_K, {"indices": np.zeros(34, np.int32)}),
        (CodecName.TOP_K, {"indices": np.arange(34, dtype=np.int32)[::-1]}),
        (CodecName.TOP_K, {"indices": np.arange(N - 33, N + 1, dtype=np.int32)}),
        (CodecName.TOP_K, {"indices": np.arange(-1, 33, dtype=np.int32)}),
        (CodecName.TOP_K, {"indices": np.arange(33, dtype=np.int32)}),
        (CodecName.TOP_K, {"numbers": np.full(34, np.nan, np.float32)}),
        (CodecName.TOP_K, {f"{LAYER}.heads": np.array([3, 1], np.int32)}),
        (CodecName.TOP_K, {f"{LAYER}.heads": None}),
        (CodecName.INT8, {f"{LAYER}.heads": np.array([1, 4], np.int32)}),
        (CodecName.INT8, {f"{LAYER}.heads": np.array([1, 2, 3], np.int32)}),
    ],
)
def test_tensors_that_no_encoder_writes_are_refused(
    artifacts: dict[str, Artifact], codec: CodecName, tensors: dict[str, NDArray[Any] | None]
) -> None:
    content = changed(artifacts["ravan"], codec, tensors)
    reader = reader_of(artifacts["ravan"])
    with pytest.raises(ArtifactError):
        reader.view(content)
    total = ExactSum.empty(reader.method.layout.size, MergeScale.for_cohort(1))
    with pytest.raises((ArtifactError, NumericsError)):
        add_update(total, content, reader)
    assert not total.total.any()
    assert not total.trainers.any()


def test_what_is_not_changed_is_read(artifacts: dict[str, Artifact]) -> None:
    for codec in CODECS:
        content = changed(artifacts["ravan"], codec, {})
        view = reader_of(artifacts["ravan"]).view(content)
        assert len(view.data) == N


@pytest.mark.parametrize("codec", list(CODECS))
def test_a_codec_needs_no_larger_file_than_is_let_in(
    artifacts: dict[str, Artifact], codec: CodecName
) -> None:
    for artifact in artifacts.values():
        most = update_bytes(artifact.manifest, codec=CODECS[codec])
        assert most <= reader_of(artifact).largest_bytes
    # With more than a handful of numbers, fp32 is the largest.
    manifest = artifacts["ravan"].manifest
    wide = [
        entry.model_copy(update={"shape": (3, 4096)}) if len(entry.shape) == 2 else entry
        for entry in manifest.tensors
    ]
    larger = manifest.model_copy(update={"tensors": tuple(wide)})
    assert update_bytes(larger, codec=CODECS[codec]) <= update_bytes(larger)


def test_an_unaligned_file_of_a_stranger_is_read(artifacts: dict[str, Artifact]) -> None:
    """Section 5 lets tensors lie in any order, codes of one byte before scales of two."""
    content, coded, *_ = made(artifacts["ravan"], CODECS[CodecName.INT8], [0, 2])
    header = read_header(content, UPDATE_BOUNDS)
    tensors = tensors_from_bytes(content, UPDATE_BOUNDS)
    order = ["numbers", "scales", f"{LAYER}.heads"]
    entries, data = [], b""
    for name in order:
        raw, spec = tensors[name].tobytes(), header.specs[name]
        places = f"[{len(data)},{len(data) + len(raw)}]"
        entries.append(
            f'"{name}":{{"dtype":"{spec.dtype}","shape":{list(spec.shape)},"data_offsets":{places}}}'
        )
        data += raw
    metadata = ",".join(f'"{key}":"{value}"' for key, value in header.metadata.items())
    text = f'{{"__metadata__":{{{metadata}}},{",".join(entries)}}}'.encode()
    stranger = len(text).to_bytes(8, "little") + text + data
    assert N % 2, "so that what follows the codes is not aligned"
    assert (reader_of(artifacts["ravan"]).decode(stranger).difference == coded.received).all()


def test_a_codec_and_its_metadata_go_together(artifacts: dict[str, Artifact]) -> None:
    artifact = artifacts["head-only"]
    method = method_for(artifact.manifest)
    heads = method.layout.pack(artifact.initial_heads())
    info = info_of(artifact, CodecName.INT8)
    with pytest.raises(ValueError, match="writes its numbers itself"):
        encode_update(info, method, heads, method.training(heads, None))
    with pytest.raises(ValueError, match="'task' is 'a b'"):
        encode_coded_update(replace(info, task="a b"), method.training(heads, None), {})


@pytest.mark.parametrize("codec", [CODECS[CodecName.FP16], TopK(0.2)], ids=["fp16", "top-k"])
def test_a_head_that_does_not_train_keeps_its_residual(
    artifacts: dict[str, Artifact], codec: Codec
) -> None:
    artifact = artifacts["ravan"]
    method = method_for(artifact.manifest)
    start = method.layout.pack(artifact.initial_heads())
    generator = np.random.default_rng(0)
    residual = generator.normal(0, 0.01, start.size).astype(np.float32)
    noise = generator.normal(size=start.size).astype(np.float32)
    training = method.training(start, {LAYER: np.array([0, 2], np.int32)})
    difference = method.difference(start + noise, start, training)
    stream = rounding_stream(0, 0, 0)
    coded = code_difference(codec, method, difference, training, residual, stream, 64.0)
    assert coded.residuals is not None
    after = method.layout.views(coded.residuals.acknowledged)[f"{LAYER}.H"]
    before = method.layout.views(residual)[f"{LAYER}.H"]
    assert (after[[1, 3]] == before[[1, 3]]).all()
    assert not (after[[0, 2]] == before[[0, 2]]).any()
    wanted = method.layout.views(difference + residual)[f"{LAYER}.H"]
    refused = method.layout.views(coded.residuals.refused)[f"{LAYER}.H"]
    assert (refused[[0, 2]] == wanted[[0, 2]]).all()
    assert (refused[[1, 3]] == before[[1, 3]]).all()
