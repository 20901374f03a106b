from __future__ import annotations

import numpy as np
import pytest

from ravan_edge.training import Adam, Optimiser, Sgd

SIZE = 40


def gradients(steps: int) -> np.ndarray:
    """Of very different sizes: Adam's epsilon must matter for some and not for others."""
    random = np.random.default_rng(0)
    scales = np.logspace(-9, 2, SIZE)
    return (random.normal(size=(steps, SIZE)) * scales).astype(np.float32)


def run(optimiser: Optimiser, rate: np.ndarray | float, steps: int = 200) -> np.ndarray:
    parameters = np.linspace(-1, 1, SIZE, dtype=np.float32)
    state = optimiser.init(SIZE)
    for gradient in gradients(steps):
        state, parameters = optimiser.apply(state, parameters, gradient, rate)
    assert state.steps == steps
    assert parameters.dtype == np.float32
    return parameters


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)


def run_torch(
    kind: str, rates: tuple[float, float], steps: int = 200, **options: object
) -> np.ndarray:
    import torch

    start = torch.tensor(np.linspace(-1, 1, SIZE, dtype=np.float32))
    halves = [start[: SIZE // 2].clone(), start[SIZE // 2 :].clone()]
    groups = [{"params": [half], "lr": rate} for half, rate in zip(halves, rates, strict=True)]
    optimiser = getattr(torch.optim, kind)(groups, **options)
    for gradient in gradients(steps):
        halves[0].grad = torch.tensor(gradient[: SIZE // 2])
        halves[1].grad = torch.tensor(gradient[SIZE // 2 :])
        optimiser.step()
    return torch.cat(halves).numpy()


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.99)])
def test_adam_equals_torch_over_200_steps(betas: tuple[float, float]) -> None:
    found = run(Adam(*betas), 5e-3)
    assert_close(found, run_torch("Adam", (5e-3, 5e-3), betas=betas))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_equals_torch_over_200_steps(momentum: float) -> None:
    found = run(Sgd(momentum), 1e-3)
    expected = run_torch("SGD", (1e-3, 1e-3), momentum=momentum)
    assert_close(found, expected)


@pytest.mark.parametrize(("optimiser", "kind"), [(Adam(), "Adam"), (Sgd(0.0), "SGD")])
def test_every_number_may_have_its_own_rate(optimiser: Optimiser, kind: str) -> None:
    rates = np.repeat(np.array([1e-3, 2e-2], np.float32), SIZE // 2)
    expected = run_torch(kind, (1e-3, 2e-2))
    assert_close(run(optimiser, rates), expected)


@pytest.mark.parametrize("optimiser", [Adam(), Sgd()])
def test_apply_writes_to_none_of_its_arguments(optimiser: Optimiser) -> None:
    parameters, gradient = np.ones(3, np.float32), np.full(3, 0.5, np.float32)
    first = optimiser.init(3)
    second, changed = optimiser.apply(first, parameters, gradient, 0.1)
    moments = {name: moment.copy() for name, moment in second.moments.items()}
    optimiser.apply(second, changed, gradient, 0.1)
    assert (parameters == 1).all()
    assert (gradient == 0.5).all()
    assert all(not moment.any() for moment in first.moments.values())
    for name, moment in moments.items():
        assert second.moments[name].tobytes() == moment.tobytes()


@pytest.mark.parametrize("optimiser", [Adam(), Sgd()])
def test_without_a_gradient_parameters_keep_their_bits(optimiser: Optimiser) -> None:
    parameters = np.array([-0.0, 0.0, 1e-42, -7.25], np.float32)
    state = optimiser.init(4)
    for zero in (0.0, -0.0, 0.0):
        state, changed = optimiser.apply(state, parameters, np.full(4, zero, np.float32), 0.1)
        assert changed.tobytes() == parameters.tobytes()
