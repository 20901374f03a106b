"""Error feedback: nothing is lost, and nothing is sent twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravan_edge.codecs import CODECS, Codec, CodecName, transmit
from ravan_edge.codecs.top_k import TopK
from ravan_edge.errors import NumericsError
from ravan_edge.generator import Purpose, Stream

BIASED: list[Codec] = [CODECS[CodecName.FP16], TopK(0.2)]
NOBODYS = Stream(0, Purpose.ROUNDING)


@pytest.mark.parametrize("codec", BIASED, ids=lambda codec: str(codec.name))
@given(seed=st.integers(0, 2**32), count=st.integers(0, 200))
@settings(max_examples=60)
def test_what_is_missing_is_exact(codec: Codec, seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    numbers = (generator.normal(size=count) * 2.0 ** generator.uniform(-40, 3, count)).astype("f4")
    residual = generator.normal(0, 0.01, count).astype(np.float32)
    sent = transmit(codec, numbers, residual, NOBODYS, 64.0)
    assert (sent.wanted == numbers + residual).all()
    exact = sent.wanted.astype(np.float64) - sent.received.astype(np.float64)
    assert (sent.missing.astype(np.float64) == exact).all()
    assert (sent.received + sent.missing == sent.wanted).all()


@pytest.mark.parametrize("codec", BIASED, ids=lambda codec: str(codec.name))
def test_over_many_rounds_everything_arrives_but_the_last_residual(codec: Codec) -> None:
    """The sum of what arrived and of what is still missing is the sum of the differences."""
    generator = np.random.default_rng(0)
    residual = np.zeros(300, np.float32)
    wanted = arrived = np.zeros(300)
    most = 0.0
    for _ in range(200):
        numbers = generator.normal(0.002, 0.01, 300).astype(np.float32)
        sent = transmit(codec, numbers, residual, NOBODYS, 64.0)
        residual = sent.missing
        wanted, arrived = wanted + numbers, arrived + sent.received
        most = max(most, float(np.linalg.norm(residual)))
    np.testing.assert_allclose(arrived + residual, wanted, rtol=0, atol=2e-6)  # 200 float32 sums
    assert most < 2.0, "the residual stays bounded"
    without = sum(
        float(
            np.abs(transmit(TopK(0.2), np.full(300, 0.01, "f4"), None, NOBODYS, 64.0).missing).sum()
        )
        for _ in range(2)
    )
    assert without > 4.7, "without feedback the same numbers would be left out again and again"


@pytest.mark.parametrize("bad", [70.0, np.inf, np.nan])
def test_a_residual_that_cannot_be_sent_is_let_go(bad: float) -> None:
    numbers = np.ones(10, np.float32)
    residual = np.zeros(10, np.float32)
    residual[3] = bad
    sent = transmit(TopK(0.5), numbers, residual, NOBODYS, 64.0)
    assert (sent.wanted == numbers).all()
    assert np.isfinite(sent.missing).all()


def test_a_difference_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(NumericsError):
        transmit(TopK(0.5), np.full(4, np.nan, np.float32), None, NOBODYS, 64.0)
