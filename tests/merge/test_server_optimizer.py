"""Server-side optimisers: torch where it has them, the paper in float64, and who did not train."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ravan_edge.merge.server_optimizer import Adam, Momentum, ServerOptimizer, Yogi

SIZE = 50
RULES: list[ServerOptimizer] = [
    Momentum(0.7, 0.9),
    Adam(0.01, 0.9, 0.99, 1e-3),
    Yogi(0.01, 0.9, 0.99, 1e-3),
]


def rounds(seed: int, count: int = 12) -> list[NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    return [generator.normal(0.01, 0.05, SIZE) for _ in range(count)]


def torch_run(rule: ServerOptimizer, given: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    x = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
    if isinstance(rule, Momentum):
        optimizer: torch.optim.Optimizer = torch.optim.SGD([x], rule.rate, rule.momentum)
    else:
        assert isinstance(rule, Adam)
        optimizer = torch.optim.Adam([x], rule.rate, (rule.beta1, rule.beta2), rule.epsilon)
    for difference in given:
        x.grad = torch.from_numpy(-difference)
        optimizer.step()
    return x.detach().numpy()


@pytest.mark.parametrize("rule", RULES[:2])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_torchs(rule: ServerOptimizer, seed: int) -> None:
    state, x = rule.init(SIZE), np.zeros(SIZE)
    everything = np.ones(SIZE, np.bool_)
    for difference in rounds(seed):
        state, step = rule.apply(state, difference, everything)
        x += step
    np.testing.assert_allclose(x, torch_run(rule, rounds(seed)), rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_yogi_is_the_papers(seed: int) -> None:
    rule = Yogi(0.02, 0.8, 0.95, 1e-3)
    state, x = rule.init(SIZE), np.zeros(SIZE)
    m, v, expected = np.zeros(SIZE), np.full(SIZE, 1e-6), np.zeros(SIZE)
    for difference in rounds(seed):
        state, step = rule.apply(state, difference, np.ones(SIZE, np.bool_))
        x += step
        m = 0.8 * m + 0.2 * difference
        v = v - 0.05 * difference**2 * np.sign(v - difference**2)
        expected += 0.02 * m / (np.sqrt(v) + 1e-3)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-8)


@given(st.data(), st.sampled_from(RULES))
def test_who_did_not_train_keeps_values_and_moments(
    data: st.DataObject, rule: ServerOptimizer
) -> None:
    """Rounds in which a number is not merged might as well not have been, for that number."""
    masks = [
        np.array(data.draw(st.lists(st.booleans(), min_size=SIZE, max_size=SIZE))) for _ in range(4)
    ]
    given = rounds(7, 4)
    state, x = rule.init(SIZE), np.zeros(SIZE)
    for mask, difference in zip(masks, given, strict=True):
        before = state
        state, step = rule.apply(state, difference, mask)
        assert not step[~mask].any()
        for name, values in state.tensors.items():
            assert values[~mask].tobytes() == before.tensors[name][~mask].tobytes()
        x += step
    for number in range(SIZE):
        alone, total = rule.init(SIZE), 0.0
        for mask, difference in zip(masks, given, strict=True):
            if mask[number]:
                alone, step = rule.apply(alone, difference, np.ones(SIZE, np.bool_))
                total += step[number]
        assert x[number] == total
        for name, values in state.tensors.items():
            assert values[number] == alone.tensors[name][number]


@pytest.mark.parametrize("rule", RULES)
def test_a_state_is_never_written_to(rule: ServerOptimizer) -> None:
    first = rule.init(SIZE)
    kept = {name: values.copy() for name, values in first.tensors.items()}
    rule.apply(first, rounds(1)[0], np.ones(SIZE, np.bool_))
    for name, values in first.tensors.items():
        np.testing.assert_array_equal(values, kept[name])
