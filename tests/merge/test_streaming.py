"""Updates added from their bytes are the same bits as decoded ones, and as safe."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravan_edge.artifact import HEADS_BOUNDS, Layer, Role, tensors_from_bytes
from ravan_edge.errors import (
    ArtifactError,
    ArtifactNotFoundError,
    NumericsError,
    RavanError,
    TensorFileError,
)
from ravan_edge.merge import ExactSum, MergeScale, Weight, add_update, exact, sum_updates
from ravan_edge.methods import Training, method_for, ravan_table
from ravan_edge.protocol import UpdateInfo, UpdateReader, encode_update
from tests.tiny_artifact import make_tiny_artifact

LAYERS = ["b", "a", "c"]  # not in the order of the file, which sorts names
HEADS = 5
DIGEST = "0" * 64


def reader_of(folder: Path, rank: int, layers: list[str] = LAYERS) -> UpdateReader:
    """Of an artifact with these layers: only manifest and method matter for updates."""
    manifest = make_tiny_artifact(folder / "artifact").manifest
    several = tuple(
        Layer(name=name, outputs=16, inputs=16, heads=HEADS, rank=rank) for name in layers
    )
    rest = [entry for entry in manifest.tensors if entry.role is Role.TASK_HEAD]
    table = (*ravan_table(several), *rest)
    manifest = manifest.model_copy(update={"layers": several, "tensors": table})
    return UpdateReader(manifest, method_for(manifest), DIGEST)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> UpdateReader:
    return reader_of(tmp_path_factory.mktemp("several"), rank=2)


@pytest.fixture(scope="module", params=["fedit", "head-only"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> UpdateReader:
    artifact = make_tiny_artifact(tmp_path_factory.mktemp("plain") / "a", method=request.param)
    return UpdateReader(artifact.manifest, method_for(artifact.manifest), DIGEST)


def encoded(
    reader: UpdateReader, trained: dict[str, np.ndarray] | None, seed: int, size: float = 1.0
) -> bytes:
    method = reader.method
    start = np.zeros(method.layout.size, np.float32)
    training: Training = method.training(start, trained)
    values = np.random.default_rng(seed).normal(size=start.size).astype(np.float32) * size
    # What trained numbers with s = 1 become: the scale's own difference is always 0.
    for segment in method.layout.segments:
        if segment.role is Role.SCALE:
            start[segment.place] = values[segment.place] = 1
    difference = method.difference(values.astype(np.float32), start, training)
    info = UpdateInfo(f"task-{seed}", 7, DIGEST, examples=8, steps=5)
    return encode_update(info, method, difference, training)


def decoded_sum(contents: list[bytes], reader: UpdateReader, scale: MergeScale) -> ExactSum:
    """The slow twin: a vector and a mask for each update."""
    total = ExactSum.empty(reader.method.layout.size, scale)
    for content in contents:
        update = reader.decode(content)
        total.add(update.difference, update.mask)
    return total


def through_one_buffer(contents: list[bytes]) -> Iterator[tuple[str, memoryview]]:
    buffer = bytearray(max(map(len, contents), default=0))
    for number, content in enumerate(contents):
        buffer[: len(content)] = content
        yield f"update {number}", memoryview(buffer)[: len(content)]
        buffer[:] = b"\xff" * len(buffer)


def assert_same(one: ExactSum, other: ExactSum) -> None:
    assert one.scale == other.scale
    assert one.total.tobytes() == other.total.tobytes()
    assert one.trainers.tobytes() == other.trainers.tobytes()


heads_of_a_layer = st.sets(st.integers(0, HEADS - 1)).map(lambda s: np.array(sorted(s), np.int32))
choices = st.none() | st.fixed_dictionaries(dict.fromkeys(LAYERS, heads_of_a_layer))
devices = st.tuples(choices, st.integers(0, 99), st.sampled_from([1e-6, 1e-2, 1.0, 9.0]))


@settings(max_examples=60)
@given(st.lists(devices, max_size=5), st.sampled_from([5, 100, 4000]), st.randoms())
def test_bytes_and_decoded_updates_have_the_same_sum(
    reader: UpdateReader,
    some: list[tuple[dict[str, np.ndarray] | None, int, float]],
    most: int,
    random: Random,
) -> None:
    scale = MergeScale.for_cohort(most)
    contents = [encoded(reader, *device) for device in some]
    expected = decoded_sum(contents, reader, scale)
    random.shuffle(contents)
    assert_same(sum_updates(through_one_buffer(contents), reader, scale), expected)


weights = st.builds(Weight, st.integers(1, 1000), st.integers(1, 1 << 32))


@settings(max_examples=60)
@given(st.lists(st.tuples(devices, weights), min_size=1, max_size=5), st.randoms())
def test_weights_are_those_of_decoded_updates(
    reader: UpdateReader,
    some: list[tuple[tuple[dict[str, np.ndarray] | None, int, float], Weight]],
    random: Random,
) -> None:
    scale = MergeScale.for_cohort(5000)
    expected = ExactSum.empty(reader.method.layout.size, scale)
    one_by_one = ExactSum.empty(reader.method.layout.size, scale)
    weighted = [(encoded(reader, *device), weight) for device, weight in some]
    for content, weight in weighted:
        update = reader.decode(content)
        expected.add(update.difference, update.mask, weight)
        add_update(one_by_one, content, reader, weight=weight)
    assert_same(one_by_one, expected)
    random.shuffle(weighted)
    contents, recorded = zip(*weighted, strict=True)
    found = sum_updates(through_one_buffer(list(contents)), reader, scale, recorded)
    assert_same(found, expected)


def test_counts_that_the_scale_cannot_hold_and_missing_weights(reader: UpdateReader) -> None:
    contents = [("one", encoded(reader, None, 0)), ("two", encoded(reader, None, 1))]
    with pytest.raises(ValueError, match="more than 4 updates"):
        sum_updates(contents, reader, MergeScale.for_cohort(4), [Weight(2), Weight(3)])
    with pytest.raises(ValueError, match="zip"):
        sum_updates(contents, reader, MergeScale.for_cohort(4), [Weight(2)])


@given(choices)
def test_the_places_of_a_view_are_the_mask(
    reader: UpdateReader, trained: dict[str, np.ndarray] | None
) -> None:
    content = encoded(reader, trained, 0)
    view, update = reader.view(content), reader.decode(content)
    counted = np.zeros(reader.method.layout.size, np.int32)
    for place in view.places:
        counted[place] += 1
    mask = np.ones_like(counted) if update.mask is None else update.mask
    assert (counted == mask).all()
    assert len(view.places) == np.count_nonzero(np.diff(mask.astype(np.int8), prepend=0) == 1)


def test_methods_without_heads(plain: UpdateReader) -> None:
    scale = MergeScale.for_cohort(3)
    contents = [encoded(plain, None, seed) for seed in range(3)]
    found = sum_updates(through_one_buffer(contents), plain, scale)
    assert_same(found, decoded_sum(contents, plain, scale))


def test_an_update_that_lies_at_an_odd_address(reader: UpdateReader) -> None:
    content = encoded(reader, {"a": np.array([0, 1, 4], np.int32)}, 3)
    scale = MergeScale.for_cohort(2)
    moved = memoryview(b"x" + content)[1:]
    total = ExactSum.empty(reader.method.layout.size, scale)
    info = add_update(total, moved, reader)
    assert info == reader.decode(moved).info == UpdateInfo("task-3", 7, DIGEST, 8, 5)
    assert_same(total, decoded_sum([content], reader, scale))


def outcome(
    content: bytes, reader: UpdateReader, *, decode: bool
) -> tuple[ExactSum, RavanError | None]:
    total = decoded_sum([encoded(reader, None, 1)], reader, MergeScale.for_cohort(2))
    try:
        if decode:
            update = reader.decode(content)
            total.add(update.difference, update.mask)
        else:
            add_update(total, content, reader)
    except (ArtifactError, NumericsError) as error:
        return total, error
    return total, None


def assert_as_safe_as_decoding(content: bytes, reader: UpdateReader) -> RavanError | None:
    slow, expected = outcome(content, reader, decode=True)
    fast, error = outcome(content, reader, decode=False)
    # Where an update is bad twice, another of the two may be found first.
    assert (error is None) == (expected is None), (error, expected)
    assert_same(fast, slow)  # also where it was refused: both are what they were before
    return error


@settings(max_examples=300)
@given(st.data())
def test_mutated_bytes_are_refused_as_decoding_refuses_them(
    reader: UpdateReader, data: st.DataObject
) -> None:
    trained = {"a": np.array([0, 2, 3], np.int32), "c": np.array([4], np.int32)}
    content = bytearray(encoded(reader, trained, 0))
    for _ in range(data.draw(st.integers(1, 3))):
        kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        place = data.draw(st.integers(0, max(len(content) - 1, 0)))
        if kind == "flip" and content:
            content[place] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del content[place:]
        else:
            content[place:place] = data.draw(st.binary(max_size=8))
    assert_as_safe_as_decoding(bytes(content), reader)


@pytest.mark.parametrize(
    ("bits", "kind"),
    [
        (0x7FC00000, TensorFileError),  # NaN
        (0x7FA00000, TensorFileError),  # a signalling one
        (0xFF800000, TensorFileError),  # minus infinity
        (0x42800000, NumericsError),  # 64
        (0xC2800000, NumericsError),  # -64
        (0x427FFFFF, None),  # the largest there can be
    ],
)
@pytest.mark.parametrize("tensor", ["a.D", "c.D", "task_head.weight"])
def test_a_number_that_cannot_be_merged(
    reader: UpdateReader, tensor: str, bits: int, kind: type[RavanError] | None
) -> None:
    content = bytearray(encoded(reader, None, 0, 1e-3))
    values = tensors_from_bytes(memoryview(content), HEADS_BOUNDS)[tensor]
    values.reshape(-1).view(np.uint32)[-1] = bits
    error = assert_as_safe_as_decoding(bytes(content), reader)
    assert type(error) is (kind or type(None))
    if error is not None:
        expected = outcome(bytes(content), reader, decode=True)[1]
        assert expected is not None
        assert (error.message, error.hint) == (expected.message, expected.hint)
        assert str(error).startswith("update: ")
    if kind is TensorFileError:
        assert tensor in str(error)


def test_a_known_header_changes_nothing_but_the_time(reader: UpdateReader) -> None:
    first, second = (encoded(reader, {"a": np.array([0, 3], np.int32)}, seed) for seed in (0, 1))
    fresh = replace(reader)
    reader.view(first)
    known, unknown = reader.view(second), fresh.view(second)
    assert known.info == unknown.info == UpdateInfo("task-1", 7, DIGEST, 8, 5)
    assert known.places == unknown.places
    assert known.pieces == unknown.pieces
    assert known.data.tobytes() == unknown.data.tobytes()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"version":"7"', b'"version":"x"'),
        (b'"codec":"fp32"', b'"codec":"int8"'),
        (b'"task":', b'"kind":'),
        (DIGEST.encode(), b"1" * 64),
        (b'"steps":"5"', b'"task1":"5"'),
        (b'"examples":"8"', b'"examples":"\xff"'),
        (b'"shape":[2]', b'"shape":[3]'),
        (b"F32", b"I32"),
        (b"F32", b"F64"),
    ],
)
def test_a_known_header_hides_no_other(reader: UpdateReader, old: bytes, new: bytes) -> None:
    content = encoded(reader, {"a": np.array([0, 3], np.int32)}, 0)
    reader.view(content)
    assert old in content
    for bad in (content.replace(old, new), content[:-4], content + bytes(4)):
        for one in (reader, replace(reader)):
            with pytest.raises(ArtifactError):
                one.view(bad)


def test_strangers_cannot_fill_the_memory_with_headers(reader: UpdateReader) -> None:
    fresh = replace(reader)
    for a in range(HEADS):
        for b in range(HEADS):
            counts = {"a": np.arange(a, dtype=np.int32), "b": np.arange(b, dtype=np.int32)}
            fresh.view(encoded(reader, counts, 0))
            assert 1 <= len(fresh._known) <= 8


def test_errors_name_the_update(reader: UpdateReader) -> None:
    contents = [encoded(reader, None, 0), encoded(reader, None, 1, 1e4)]
    scale = MergeScale.for_cohort(2)
    with pytest.raises(NumericsError, match=r"^update 1: an update holds"):
        sum_updates(through_one_buffer(contents), reader, scale)
    with pytest.raises(TensorFileError, match=r"^update 0: "):
        sum_updates(through_one_buffer([b""]), reader, scale)


def test_more_updates_than_the_scale_was_chosen_for_are_refused(reader: UpdateReader) -> None:
    contents = [encoded(reader, None, 0)] * 5
    with pytest.raises(ValueError, match="more than 4 updates"):
        sum_updates(through_one_buffer(contents), reader, MergeScale.for_cohort(3))


def test_files_are_read_one_after_another(reader: UpdateReader, tmp_path: Path) -> None:
    contents = [encoded(reader, {"b": np.arange(k, dtype=np.int32)}, k) for k in range(HEADS)]
    paths = [tmp_path / f"{number}" for number in range(HEADS)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    scale = MergeScale.for_cohort(HEADS)
    found = sum_updates(reader.contents(paths), reader, scale)
    assert_same(found, decoded_sum(contents, reader, scale))
    with pytest.raises(ArtifactNotFoundError, match="nothing"):
        sum_updates(reader.contents([*paths, tmp_path / "nothing"]), reader, scale)
    paths[1].write_bytes(bytes(reader.largest_bytes + 1))
    with pytest.raises(ArtifactError, match="an update has at most"):
        sum_updates(reader.contents(paths), reader, scale)


def test_no_more_than_the_sum_and_two_updates_are_in_memory(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, rank=250)
    paths = [tmp_path / f"{number}" for number in range(4)]
    trained = {"a": np.array([0, 2, 3], np.int32), "c": np.array([4], np.int32)}
    for number, path in enumerate(paths):
        path.write_bytes(encoded(reader, None if number % 2 else trained, number))
    size = reader.method.layout.size
    largest = max(path.stat().st_size for path in paths)
    assert largest == pytest.approx(4 * size, rel=0.02)
    for updates in (reader.contents(paths), ((path.name, path.read_bytes()) for path in paths)):
        heads = np.zeros(size, np.float32)
        tracemalloc.start()
        total = sum_updates(updates, reader, MergeScale.for_cohort(4))
        total.apply(heads)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        blocks = 4 * 8 * exact._BLOCK  # the same whatever the number of parameters
        assert peak < total.total.nbytes + total.trainers.nbytes + 2 * largest + blocks
