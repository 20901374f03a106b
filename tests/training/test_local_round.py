from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ravan_edge.artifact.manifest import Role
from ravan_edge.data import TextRows, collate, local_round_batches
from ravan_edge.errors import DataError, NumericsError, UsageError
from ravan_edge.methods import HeadScore, Method, Vector
from ravan_edge.plans.step import StepResult
from ravan_edge.training import LocalResult, LocalSettings, RoundState, local_round
from ravan_edge.training.optimisers import OptimiserName
from tests.training.linear_model import (
    LAYER,
    LinearStep,
    dataset,
    head_only_method,
    random_heads,
    ravan_method,
)

DATA = dataset()
EVERY = np.arange(60, dtype=np.int64)
INPUTS = ("input_ids", "attention_mask")
METHOD = ravan_method()


def train(
    local: LocalSettings | None = None,
    *,
    step: LinearStep | None = None,
    method: Method = METHOD,
    heads: Vector | None = None,
    examples: NDArray[np.int64] = EVERY,
    **more: Any,
) -> LocalResult:
    address = {"seed": 1, "round": 2, "device": 3, "layers": {LAYER: 4}} | more
    return local_round(
        step or LinearStep(),
        method,
        random_heads(method, 7) if heads is None else heads,
        TextRows(DATA, 0, INPUTS),
        examples,
        local or LocalSettings(local_steps=12, batch_size=8, lr=1e-2),
        **address,
    )


def slow_round(
    local: LocalSettings, heads: Vector, rate: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """The round as the issue says it, with plain SGD, in the parameters' own terms."""
    step, parameters = LinearStep(), METHOD.start_round(heads).astype(np.float64)
    views = METHOD.layout.views(parameters)  # type: ignore[arg-type]
    batches = local_round_batches(
        EVERY, seed=1, round=2, device=3, batch_size=local.batch_size, steps=local.local_steps
    )
    for rows in batches:
        batch = collate(DATA, rows, 0, INPUTS)
        H, s = views[f"{LAYER}.H"], views[f"{LAYER}.s"]
        trainables = {name: views[name] for name in ("task_head.weight", "task_head.bias")}
        result = step.train(
            {**batch.inputs, "labels": batch.labels},
            trainables | {f"{LAYER}.G": s[:, None, None] * H},
        )
        gradient = np.zeros_like(parameters)
        slots = METHOD.layout.views(gradient)  # type: ignore[arg-type]
        dG = result.gradients[f"{LAYER}.G"]
        slots[f"{LAYER}.H"][:] = s[:, None, None] * dG
        slots[f"{LAYER}.s"][:] = (H * dG).sum(axis=(1, 2))
        for name in trainables:
            slots[name][:] = result.gradients[name]
        parameters -= rate * gradient / len(rows)
    views[f"{LAYER}.H"][:] *= views[f"{LAYER}.s"][:, None, None]
    views[f"{LAYER}.s"][:] = 1.0
    return parameters - heads


@settings(max_examples=20)
@given(batch_size=st.integers(1, 70), steps=st.integers(1, 20), seed=st.integers(0, 99))
def test_a_round_with_sgd_equals_the_slow_one(batch_size: int, steps: int, seed: int) -> None:
    local = LocalSettings(
        local_steps=steps, batch_size=batch_size, optimizer=OptimiserName.SGD, momentum=0.0, lr=0.05
    )
    heads = random_heads(METHOD, seed)
    result = train(local, heads=heads)
    np.testing.assert_allclose(
        result.difference, slow_round(local, heads, 0.05), rtol=1e-3, atol=2e-5
    )
    assert result.steps == steps == len(result.losses)


def test_it_learns_and_counts() -> None:
    result = train(
        LocalSettings(local_steps=80, batch_size=16, lr=1e-2), heads=random_heads(METHOD, scale=0.0)
    )
    assert result.losses[-10:].mean() < 0.8 * result.losses[0]
    # 60 examples in batches of 16: three whole ones and a short one of 12, twenty times
    assert result.examples == result.counted == 20 * 60
    assert result.tokens == 20 * DATA.lengths.sum()
    assert 0.5 < result.correct / result.counted <= 1.0
    assert result.seconds > 0
    assert result.mean_loss == pytest.approx(float(result.losses.mean()))


def test_the_same_arguments_give_the_same_bits_and_another_address_others() -> None:
    first, again = train(), train()
    assert first.difference.tobytes() == again.difference.tobytes()
    assert first.losses.tobytes() == again.losses.tobytes()
    for name in ("seed", "round", "device"):
        assert train(**{name: 8}).difference.tobytes() != first.difference.tobytes()


@pytest.mark.parametrize("micro_batch", [1, 3, 8, 100])
def test_micro_batches_change_only_the_last_bits(micro_batch: int) -> None:
    local = {"local_steps": 10, "batch_size": 8, "lr": 1e-2, "optimizer": OptimiserName.SGD}
    step = LinearStep()
    split = train(LocalSettings(**local, micro_batch=micro_batch), step=step)
    whole = train(LocalSettings(**local))
    np.testing.assert_allclose(split.difference, whole.difference, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(split.losses, whole.losses, rtol=1e-5)
    assert max(step.calls) <= micro_batch
    assert (split.examples, split.tokens, split.correct) == (
        whole.examples, whole.tokens, whole.correct,
    )  # fmt: skip


@pytest.mark.parametrize("score", list(HeadScore))
@pytest.mark.parametrize("count", [1, 2, 3])
def test_heads_that_do_not_train_stay_byte_identical(score: HeadScore, count: int) -> None:
    heads = random_heads(METHOD, 7)
    local = LocalSettings(local_steps=12, batch_size=8, lr=1e-2, score=score)
    result = train(local, heads=heads, heads_to_train=count)
    trained = result.training.trained[LAYER].tolist()
    assert len(trained) == count
    frozen = [i for i in range(4) if i not in trained]
    difference = METHOD.layout.views(result.difference)
    assert not difference[f"{LAYER}.H"][frozen].any()
    assert difference[f"{LAYER}.H"][trained].all()
    folded, start = METHOD.layout.views(METHOD.fold(result.parameters)), METHOD.layout.views(heads)
    assert folded[f"{LAYER}.H"][frozen].tobytes() == start[f"{LAYER}.H"][frozen].tobytes()
    assert result.training.running[LAYER].tolist() == [0, 1, 2, 3], "frozen heads still run"


def test_the_gradient_score_is_that_of_the_first_batch() -> None:
    heads = random_heads(METHOD, 7)
    local = LocalSettings(local_steps=3, batch_size=8, score=HeadScore.GRADIENT)
    result = train(local, heads=heads, heads_to_train=2)
    rows = next(local_round_batches(EVERY, seed=1, round=2, device=3, batch_size=8, steps=1))
    batch = collate(DATA, rows, 0, INPUTS)
    everything = METHOD.training(heads, None)
    gradients = (
        LinearStep()
        .train({**batch.inputs, "labels": batch.labels}, METHOD.to_graph(heads, everything))
        .gradients
    )
    norms = [np.linalg.norm(head) for head in gradients[f"{LAYER}.G"]]
    assert result.training.trained[LAYER].tolist() == sorted(np.argsort(norms)[-2:])


def test_the_weight_score_takes_the_largest_heads() -> None:
    heads = random_heads(METHOD, 7)
    cores = METHOD.layout.views(heads)[f"{LAYER}.H"]
    cores[1] *= 100
    cores[2] *= 50
    local = LocalSettings(local_steps=1, batch_size=8, score=HeadScore.WEIGHT)
    result = train(local, heads=heads, heads_to_train=2)
    assert result.training.trained[LAYER].tolist() == [1, 2]


def test_in_the_first_round_only_the_chosen_heads_run() -> None:
    step = LinearStep()
    result = train(step=step, heads=random_heads(METHOD, scale=0.0), heads_to_train=1)
    assert step.running.tolist() == result.training.trained[LAYER].tolist()


@pytest.mark.parametrize("count", [0, 5])
def test_a_number_of_heads_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match="have 4"):
        train(heads_to_train=count)


def test_methods_without_heads_cannot_choose() -> None:
    method = head_only_method()
    with pytest.raises(UsageError, match="no heads"):
        train(method=method, heads_to_train=1, layers={})
    assert train(method=method, layers={}).difference.any()


def test_a_device_with_fewer_examples_than_a_batch_trains() -> None:
    result = train(LocalSettings(local_steps=5, batch_size=16), examples=EVERY[:3])
    assert (result.steps, result.examples) == (5, 15)


def test_a_device_without_examples_is_refused() -> None:
    with pytest.raises(DataError, match="no examples"):
        train(examples=EVERY[:0])


def test_the_task_head_has_its_own_rate() -> None:
    local = LocalSettings(local_steps=5, batch_size=8, lr=1e-2, task_head_lr=0.0)
    difference = train(local).difference
    mask = METHOD.layout.mask(Role.TASK_HEAD)
    assert not difference[mask].any()
    assert METHOD.layout.views(difference)[f"{LAYER}.H"].all()


def test_a_clipped_step_of_sgd_is_as_long_as_it_may_be() -> None:
    local = LocalSettings(
        local_steps=1, batch_size=8, lr=1.0, optimizer=OptimiserName.SGD, momentum=0.0
    )
    heads = random_heads(METHOD, 7)
    whole = train(local, heads=heads).parameters - METHOD.start_round(heads)
    short = LocalSettings(
        local_steps=1, batch_size=8, lr=1.0, optimizer=OptimiserName.SGD, momentum=0.0,
        clip_norm=1e-2,
    )  # fmt: skip
    clipped = train(short, heads=heads).parameters - METHOD.start_round(heads)
    assert np.linalg.norm(whole) > 0.1
    assert np.linalg.norm(clipped) == pytest.approx(1e-2, rel=1e-4)
    np.testing.assert_allclose(clipped / 1e-2, whole / np.linalg.norm(whole), atol=1e-4)


def test_a_gradient_below_the_bound_is_not_clipped() -> None:
    plain = LocalSettings(local_steps=5, batch_size=8)
    clipped = LocalSettings(local_steps=5, batch_size=8, clip_norm=1e6)
    assert train(plain).difference.tobytes() == train(clipped).difference.tobytes()


def test_nan_in_a_gradient_names_step_and_loss_and_a_way_out() -> None:
    with pytest.raises(NumericsError) as caught:
        train(step=LinearStep(poison_after=4))
    text = str(caught.value)
    assert "gradient holds NaN or infinity at step 5 of 12 (last loss " in text
    assert "round 2, device 3" in text
    assert "lower --lr (it is 0.01)" in text
    assert caught.value.exit_code == 7


class WrongLoss(LinearStep):
    """Its losses come from a list."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.losses = losses

    def train(
        self, batch: Mapping[str, NDArray[np.int64]], trainables: Mapping[str, Vector]
    ) -> StepResult:
        result = super().train(batch, trainables)
        loss = self.losses[min(len(self.calls), len(self.losses)) - 1]
        return StepResult(loss * result.count, result.count, result.metrics, result.gradients)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(
        NumericsError, match=rf"the loss became {bad} at step 2 of 12 \(last loss 1\)"
    ):
        train(step=WrongLoss([1.0, bad]))


def test_a_diverging_loss_is_said_as_such() -> None:
    with pytest.raises(
        NumericsError, match=r"the loss diverges: 1 at step 1, .* in the last 5 steps"
    ):
        train(step=WrongLoss([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]))
    # a single bad batch is none
    train(step=WrongLoss([1.0, 1.0, 30.0, 1.0, 1.0, 1.0, 1.0]))


def test_a_learning_rate_out_of_this_world_diverges() -> None:
    with pytest.raises(NumericsError, match="--lr"):
        train(LocalSettings(local_steps=50, batch_size=8, lr=300.0))


def test_a_batch_without_any_label_is_refused() -> None:
    class NoLabels(LinearStep):
        def train(
            self, batch: Mapping[str, NDArray[np.int64]], trainables: Mapping[str, Vector]
        ) -> StepResult:
            labels = np.full_like(batch["labels"], -100)
            return super().train({**batch, "labels": labels}, trainables)

    with pytest.raises(DataError, match="step 1 has a label"):
        train(step=NoLabels())


def test_the_arguments_are_not_written_to() -> None:
    heads = random_heads(METHOD, 7)
    before = heads.tobytes()
    train(heads=heads)
    assert heads.tobytes() == before


def test_states_handed_out_are_never_written_to_again() -> None:
    states: list[RoundState] = []
    kept: list[bytes] = []

    def on_step(state: RoundState) -> None:
        states.append(state)
        kept.append(state.parameters.tobytes() + state.losses.tobytes())

    train(on_step=on_step)
    assert [state.steps for state in states] == list(range(1, 13))
    assert [s.parameters.tobytes() + s.losses.tobytes() for s in states] == kept


def test_an_interrupt_passes_through() -> None:
    def on_step(state: RoundState) -> None:
        if state.steps == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(on_step=on_step)
