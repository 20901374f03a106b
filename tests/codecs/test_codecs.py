"""Bytes equal to a reference that was written from the page; errors within the bounds of the page."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ravan_edge.codecs import CODECS, LARGEST_SHARE, Codec, CodecName, codec_for
from ravan_edge.codecs.blocks import BLOCK
from ravan_edge.codecs.top_k import TopK
from ravan_edge.errors import ArtifactError, NumericsError
from ravan_edge.generator import Purpose, Stream
from tests.codecs.reference_codecs import encoded, read, step_of

Numbers = NDArray[np.float32]
CODERS = [*CODECS.values(), TopK(0.1)]
ROUNDING = [CODECS[CodecName.INT8], CODECS[CodecName.INT4]]
LEVELS = {CodecName.INT8: 127, CodecName.INT4: 7}
ODD = [
    0.0,
    -0.0,
    1e-45,
    -1e-45,
    1.1754944e-38,
    2.0**-126,
    -(2.0**-24),
    2.0**-25,
    63.99,
    -63.99,
    1.0,
]


def name_of(codec: Codec) -> str:
    return f"{codec.name}-{codec.share}" if isinstance(codec, TopK) else str(codec.name)


def stream(seed: int = 0, version: int = 0, device: int = 0) -> Stream:
    return Stream(seed, Purpose.ROUNDING, round=version, device=device)


def received(codec: Codec, numbers: Numbers, random: Stream | None = None) -> Numbers:
    out = np.full(len(numbers), np.nan, np.float32)
    codec.decode(codec.encode(numbers, random or stream()), out, "update")
    return out


def steps(codec: Codec, numbers: Numbers) -> NDArray[np.float64]:
    """The step of every number, float64."""
    scales = codec.encode(numbers, stream())["scales"].astype(np.uint32) << np.uint32(16)
    found = scales.view(np.float32).astype(np.float64)
    return np.repeat(found, BLOCK)[: len(numbers)]


@st.composite
def vectors(draw: st.DrawFn) -> Numbers:
    """Of every size up to three blocks, of every magnitude a merge takes, with odd numbers among them."""
    count = draw(st.integers(0, 3 * BLOCK))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    exponents = generator.uniform(draw(st.integers(-150, 5)), 5.9, count)
    numbers = (generator.choice([-1.0, 1.0], count) * 2.0**exponents).astype(np.float32)
    for value in draw(st.lists(st.sampled_from(ODD), max_size=5)):
        if count:
            numbers[generator.integers(count)] = value
    if draw(st.booleans()):
        numbers[: count // 2] = 0
    return numbers


@pytest.mark.parametrize("codec", CODERS, ids=name_of)
@given(
    numbers=vectors(),
    seed=st.integers(0, 2**64 - 1),
    version=st.integers(0, 2**32 - 1),
    device=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_bytes_and_numbers_are_those_of_the_page(
    codec: Codec, numbers: Numbers, seed: int, version: int, device: int
) -> None:
    tensors = codec.encode(numbers, stream(seed, version, device))
    dtypes = {"I8": "<i1", "U8": "<u1", "BF16": "<u2", "F16": "<f2", "F32": "<f4", "I32": "<i4"}
    assert {
        name: (dtypes[form[0]], form[1]) for name, form in codec.forms(len(numbers)).items()
    } == {
        name: (array.dtype.newbyteorder("<").str.replace("|", "<"), array.shape)
        for name, array in tensors.items()
    }
    if not len(numbers):
        return
    share = codec.share if isinstance(codec, TopK) else 0.0
    wanted = encoded(codec.name, [float(x) for x in numbers], share, seed, version, device)
    assert {name: array.tobytes() for name, array in tensors.items()} == wanted
    out = np.empty_like(numbers)
    codec.decode(tensors, out, "update")
    # Exactly: each float64 of the reference is a float32.
    assert out.astype(np.float64).tolist() == read(codec.name, wanted, len(numbers))


@pytest.mark.parametrize("codec", ROUNDING, ids=name_of)
@given(numbers=vectors(), seed=st.integers(0, 2**32))
@settings(max_examples=100)
def test_what_is_rounded_at_random_is_less_than_a_step_away(
    codec: Codec, numbers: Numbers, seed: int
) -> None:
    found, step = received(codec, numbers, stream(seed)), steps(codec, numbers)
    exact, wide = found.astype(np.float64), numbers.astype(np.float64)
    assert (np.abs(exact - wide) < step).all()
    assert (found[numbers == 0] == 0).all()
    assert (exact * wide >= 0).all(), "no sign changes"
    # The step is as small as it can be, so nothing is clipped and little is given away.
    for begin in range(0, len(numbers), BLOCK):
        largest = float(np.abs(wide[begin : begin + BLOCK]).max())
        levels = LEVELS[codec.name]
        assert levels * step[begin] >= largest
        assert step[begin] <= max(2.0**-126, largest / levels * (1 + 2.0**-7))
        bits = step_of(largest, levels) << 16
        assert np.array(bits, np.uint32).view(np.float32) == step[begin]


@pytest.mark.parametrize("codec", ROUNDING, ids=name_of)
def test_over_all_words_the_mean_is_the_number(codec: Codec) -> None:
    """Exactly, but for the 2^-32 steps that the threshold cuts off: the threshold itself is measured."""

    class Made(Stream):
        """Words that a test chooses."""

        chosen: ClassVar[NDArray[np.int64]]

        def words(self, count: int, first: int = 0) -> NDArray[np.uint32]:
            return np.resize(self.chosen[first : first + count].astype(np.uint32), count)

    numbers = np.random.default_rng(0).normal(0, 0.01, 4 * BLOCK + 5).astype(np.float32)
    step = steps(codec, numbers)
    size = np.abs(numbers.astype(np.float64)) / step
    low = np.zeros(len(numbers), np.int64)  # the first word with which it is rounded down
    high = np.full(len(numbers), 2**32, np.int64)
    for _ in range(32):
        Made.chosen = (low + high) // 2
        up = np.abs(received(codec, numbers, Made(0, Purpose.ROUNDING))) > np.abs(numbers)
        low, high = np.where(up, Made.chosen + 1, low), np.where(up, high, Made.chosen)
    chance = low / 2.0**32
    mean = np.floor(size) + chance
    assert (np.abs(mean - size) <= 2.0**-31).all()
    assert chance.min() < 0.05
    assert chance.max() > 0.95


@pytest.mark.parametrize("codec", ROUNDING, ids=name_of)
def test_the_mean_of_many_devices_is_the_number(codec: Codec) -> None:
    """Of 2,000 devices: within 5 standard errors of it, for each of 320 numbers."""
    devices = 2_000
    numbers = np.random.default_rng(1).normal(0, 0.01, 5 * BLOCK).astype(np.float32)
    total = np.zeros(len(numbers))
    for device in range(devices):
        total += received(codec, numbers, stream(3, 1, device))
    step = steps(codec, numbers)
    rest = np.modf(np.abs(numbers) / step)[0]
    error = (total / devices - numbers) / step
    deviation = np.sqrt(rest * (1 - rest) / devices)
    assert (np.abs(error) <= 5 * deviation + 1e-9).all()
    z = error / np.maximum(deviation, 1e-9)
    assert 0.85 < z.std() < 1.15, "as random as it should be, and no less"
    assert abs(z.mean()) < 5 / np.sqrt(len(z))


@given(numbers=vectors())
@settings(max_examples=100)
def test_fp16_is_within_its_bounds(numbers: Numbers) -> None:
    error = np.abs(received(CODECS[CodecName.FP16], numbers).astype(np.float64) - numbers)
    assert (error <= np.maximum(2.0**-11 * np.abs(numbers.astype(np.float64)), 2.0**-25)).all()


@given(numbers=vectors(), share=st.floats(1e-6, LARGEST_SHARE))
@settings(max_examples=100)
def test_top_k_leaves_out_no_more_than_its_share(numbers: Numbers, share: float) -> None:
    codec = TopK(share)
    found = received(codec, numbers)
    kept = codec.kept(len(numbers))
    left = found.astype(np.float64) - numbers
    assert np.count_nonzero(left) <= len(numbers) - kept
    assert (found[left == 0] == numbers[left == 0]).all()
    smallest_kept = np.sort(np.abs(numbers))[len(numbers) - kept :].min(initial=np.inf)
    assert (np.abs(left) <= smallest_kept).all()
    if len(numbers):
        bound = (1 - kept / len(numbers)) * float((numbers.astype(np.float64) ** 2).sum())
        assert float((left**2).sum()) <= bound * (1 + 1e-12)


def test_of_equal_sizes_top_k_keeps_the_first() -> None:
    numbers = np.array([1, -2, 2, -1, 2, 0, -2, 1, 1, 1], np.float32)
    tensors = TopK(0.3).encode(numbers, stream())
    assert tensors["indices"].tolist() == [1, 2, 4]
    assert tensors["numbers"].tolist() == [-2, 2, 2]
    assert TopK(0.5).encode(numbers, stream())["indices"].tolist() == [0, 1, 2, 4, 6]
    assert TopK(0.1).encode(np.zeros(20, np.float32), stream())["indices"].tolist() == [0, 1]


@pytest.mark.parametrize("codec", CODERS, ids=name_of)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_written(codec: Codec, value: float) -> None:
    numbers = np.ones(100, np.float32)
    numbers[70] = value
    with pytest.raises(NumericsError, match="NaN or an infinity"):
        codec.encode(numbers, stream())


@pytest.mark.parametrize("value", [65_520.0, -1e30])
def test_fp16_refuses_what_is_beyond_its_range(value: float) -> None:
    with pytest.raises(NumericsError, match="fp16 ends at 65520"):
        CODECS[CodecName.FP16].encode(np.array([1, value], np.float32), stream())
    assert received(CODECS[CodecName.FP16], np.array([65_519.0], np.float32)) == [65_504.0]


@pytest.mark.parametrize("codec", ROUNDING, ids=name_of)
def test_the_largest_numbers_of_all_have_a_step(codec: Codec) -> None:
    numbers = np.array([np.finfo(np.float32).max, 1, -1e38], np.float32)
    tensors = codec.encode(numbers, stream())
    assert int(np.abs(tensors["numbers"].view(np.int8)).max()) <= 127
    assert (steps(codec, numbers) * LEVELS[codec.name] >= numbers.max()).all()


@pytest.mark.parametrize("share", [0.0, -0.1, 0.51, float("nan")])
def test_a_share_that_makes_no_sense_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="a share of"):
        TopK(share)


def test_the_registry_has_every_name() -> None:
    assert set(CODECS) == set(CodecName) - {CodecName.FP32}
    assert codec_for(CodecName.FP32, 0.1) is None
    found = codec_for(CodecName.TOP_K, 0.25)
    assert isinstance(found, TopK)
    assert found.share == 0.25
    for name, codec in CODECS.items():
        assert codec_for(name, 0.5) == codec
        assert codec.name is name
        assert codec.biased == (name in {CodecName.FP16, CodecName.TOP_K})


def changed(codec: Codec, name: str, place: int, value: Any) -> dict[str, NDArray[Any]]:
    tensors = {key: array.copy() for key, array in codec.encode(NINE, stream()).items()}
    tensors[name][place] = value
    return tensors


NINE = np.array([1, -1, 0.5, 0.25, 3, -3, 2, 1, 0.1], np.float32)


@pytest.mark.parametrize(
    ("codec", "name", "place", "value", "says"),
    [
        (CodecName.INT8, "numbers", 3, -128, r"-128 at index \[3\]"),
        (CodecName.INT8, "scales", 0, 0x0000, "0 at index"),
        (CodecName.INT8, "scales", 0, 0x007F, "normal"),
        (CodecName.INT8, "scales", 0, 0x7F80, "inf at index"),
        (CodecName.INT8, "scales", 0, 0x7FC0, "nan at index"),
        (CodecName.INT8, "scales", 0, 0xFFFF, "nan at index"),
        (CodecName.INT8, "scales", 0, 0xBF80, "-1 at index"),
        (CodecName.INT4, "numbers", 1, 0x81, r"-8 in a half of the byte at index \[1\]"),
        (CodecName.INT4, "numbers", 2, 0x18, r"-8 in a half of the byte at index \[2\]"),
        (CodecName.INT4, "numbers", 4, 0x10, r"upper half of the byte at index \[4\]"),
        (CodecName.INT4, "scales", 0, 0x8080, "expected a step"),
        (CodecName.TOP_K, "indices", 0, -1, "-1 to"),
        (CodecName.TOP_K, "indices", 3, 9, "to 9, expected 0 to 8"),
        (CodecName.TOP_K, "indices", 1, 0, "ascending"),
        (CodecName.TOP_K, "indices", 1, 2**31 - 1, "ascending"),
        (CodecName.TOP_K, "indices", 1, -(2**31), "ascending"),
    ],
)
def test_what_no_encoder_writes_is_refused(
    codec: CodecName, name: str, place: int, value: Any, says: str
) -> None:
    found = changed(CODECS[codec], name, place, value)
    with pytest.raises(ArtifactError, match=says) as caught:
        CODECS[codec].decode(found, np.empty(9, np.float32), "update of task 7")
    assert f"update of task 7: tensor {name!r}" in str(caught.value)


@given(data=st.data())
@settings(max_examples=200)
def test_any_tensors_of_the_right_form_are_refused_or_read(data: st.DataObject) -> None:
    codec = data.draw(st.sampled_from(list(CODECS.values())))
    count = data.draw(st.integers(0, 2 * BLOCK + 1))
    kept = data.draw(st.integers(min(1, count), TopK().kept(count)))
    forms = codec.expected(count, {"indices": (kept,)}, "update")
    dtypes = {"I8": "i1", "U8": "u1", "BF16": "<u2", "F16": "<f2", "F32": "<f4", "I32": "<i4"}
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    tensors = {}
    for key, (dtype, shape) in forms.items():
        kind = np.dtype(dtypes[dtype])
        tensors[key] = np.frombuffer(generator.bytes(shape[0] * kind.itemsize), kind)
    out = np.empty(count, np.float32)
    try:
        codec.decode(tensors, out, "update")
    except ArtifactError:
        return
    if all(np.isfinite(array).all() for key, array in tensors.items() if key == "numbers"):
        assert np.isfinite(out).all() or "scales" in tensors  # a large step may still overflow
