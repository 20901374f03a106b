from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravan_edge.generator import MAX_SEED, Purpose, Stream, philox4x32

words = st.integers(0, 2**32 - 1)


def slow_philox(counter: list[int], key: list[int]) -> list[int]:
    """One block in plain integers, as docs/generator.md writes it."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def known_answers(root: Path) -> list[tuple[list[int], list[int], list[int]]]:
    """The table of docs/generator.md; the numbers are Random123's kat_vectors for philox4x32 10."""
    text = (root / "docs" / "generator.md").read_text("utf-8")
    rows = re.findall(r"^\| ((?:[0-9a-f]{8} ?)+) \| ((?:[0-9a-f]{8} ?)+) \| ((?:[0-9a-f]{8} ?)+) \|$",
                      text, re.MULTILINE)  # fmt: skip
    return [tuple([int(word, 16) for word in cell.split()] for cell in row) for row in rows]  # type: ignore[misc]


def test_the_known_answers_of_random123(root: Path) -> None:
    answers = known_answers(root)
    assert len(answers) == 3
    for counter, key, expected in answers:
        found = philox4x32(np.array([counter], np.uint32), (key[0], key[1]))
        assert found.tolist() == [expected]
        assert slow_philox(counter, key) == expected


@given(st.lists(words, min_size=4, max_size=4), words, words)
def test_every_block_is_the_slow_one(counter: list[int], k0: int, k1: int) -> None:
    found = philox4x32(np.array([counter], np.uint32), (k0, k1))
    assert found.tolist() == [slow_philox(counter, [k0, k1])]


@given(
    seed=st.integers(0, MAX_SEED),
    purpose=st.sampled_from(Purpose),
    round_number=words,
    device=words,
    index=st.integers(0, 2**24 - 1),
    count=st.integers(0, 11),
)
def test_words_are_addressed_as_specified(
    seed: int, purpose: Purpose, round_number: int, device: int, index: int, count: int
) -> None:
    stream = Stream(seed, purpose, round=round_number, device=device, index=index)
    key = [seed % 2**32, seed // 2**32]
    blocks = [
        slow_philox([block, round_number, device, purpose * 2**24 + index], key)
        for block in range(3)
    ]
    assert stream.words(count).tolist() == [word for block in blocks for word in block][:count]


@given(seed=st.integers(0, MAX_SEED), size=st.integers(0, 50))
def test_a_permutation_sorts_64_bit_keys(seed: int, size: int) -> None:
    stream = Stream(seed, Purpose.SHUFFLE)
    drawn = stream.words(2 * size).tolist()
    keys = [drawn[2 * i] * 2**32 + drawn[2 * i + 1] for i in range(size)]
    expected = sorted(range(size), key=lambda i: (keys[i], i))
    assert stream.permutation(size).tolist() == expected
    assert stream.choose(size // 2, size).tolist() == sorted(expected[: size // 2])


@given(seed=st.integers(0, MAX_SEED), count=st.integers(1, 50))
def test_uniform_is_exact(seed: int, count: int) -> None:
    stream = Stream(seed, Purpose.DEVICE_SPEED)
    drawn = stream.words(2 * count).tolist()
    expected = [
        ((drawn[2 * i] >> 5) * 2**26 + (drawn[2 * i + 1] >> 6)) / 2**53 for i in range(count)
    ]
    found = stream.uniform(count)
    assert found.tolist() == expected
    assert (found >= 0).all()
    assert (found < 1).all()


def test_normal_is_standard_normal() -> None:
    drawn = Stream(3, Purpose.BASES).normal(100_001)
    assert drawn.shape == (100_001,)
    assert abs(drawn.mean()) < 0.02
    assert abs(drawn.std() - 1) < 0.02
    assert abs((np.abs(drawn) < 1).mean() - 0.6827) < 0.01
    assert np.isfinite(drawn).all()


def test_a_stream_has_no_position() -> None:
    stream = Stream(1, Purpose.COHORT)
    assert stream.words(8).tolist() == stream.words(8).tolist()
    assert stream.words(3).tolist() == stream.words(8).tolist()[:3]


@pytest.mark.parametrize(
    "bad",
    [{"seed": -1}, {"seed": 2**64}, {"round": 2**32}, {"device": -1}, {"index": 2**24}],
)
def test_an_address_out_of_range_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is"):
        Stream(**({"seed": 0} | bad), purpose=Purpose.SHUFFLE)


def test_more_than_there_are_cannot_be_chosen() -> None:
    with pytest.raises(ValueError, match="cannot choose"):
        Stream(0, Purpose.COHORT).choose(3, 2)


def test_the_numbers_of_purposes_are_those_of_the_page(root: Path) -> None:
    text = (root / "docs" / "generator.md").read_text("utf-8")
    listed = re.findall(r"^\| [^|]+ \| (\d+) \| [^|]+ \| [^|]+ \| [^|]+ \|$", text, re.MULTILINE)
    assert sorted(map(int, listed)) == sorted(Purpose)
