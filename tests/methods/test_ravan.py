from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravan_edge.artifact.manifest import Layer
from ravan_edge.errors import ArtifactError
from ravan_edge.merge import ExactSum, MergeScale
from ravan_edge.methods import ParameterLayout, Ravan, rank_for_lora_budget, ravan_table
from ravan_edge.training import Sgd
from tests import reference_ravan
from tests.training.linear_model import LAYER, random_heads, ravan_method

M, N = 5, 7


@given(
    seed=st.integers(0, 10_000),
    heads=st.integers(1, 4),
    rank=st.integers(1, 3),
    devices=st.integers(1, 4),
    data=st.data(),
)
def test_a_round_equals_the_slow_twin(
    seed: int, heads: int, rank: int, devices: int, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    W = random.normal(size=(M, N))
    A, B = random.normal(size=(heads, rank, N)) / 3, random.normal(size=(heads, M, rank)) / 3
    method = Ravan(
        ParameterLayout.from_table(
            ravan_table([Layer(name=LAYER, outputs=M, inputs=N, heads=heads, rank=rank)])
        )
    )
    start = random_heads(method, seed)
    start_cores = method.layout.views(start)[f"{LAYER}.H"].astype(np.float64)
    total = ExactSum.empty(method.layout.size, MergeScale.for_cohort(devices))
    uploads = []
    for _ in range(devices):
        chosen = sorted(data.draw(st.sets(st.integers(0, heads - 1))))
        batches = [
            (random.normal(size=(rows, N)), random.normal(size=(rows, M)))
            for rows in random.integers(1, 5, size=6)
        ]
        uploads.append(reference_ravan.device_round(W, A, B, start_cores, batches, 0.05, chosen))
        training = method.training(start, {LAYER: np.array(chosen, np.int32)})
        running = training.running[LAYER]
        parameters, optimiser = method.start_round(start), Sgd(momentum=0.0)
        state = optimiser.init(method.layout.size)
        for x, target in batches:
            G = method.to_graph(parameters, training)[f"{LAYER}.G"]
            y = x @ (W + np.einsum("kmr,krq,kqn->mn", B[running], G, A[running])).T
            dW = (y - target).T @ x
            dG = np.einsum("kmr,mn,kqn->krq", B[running], dW, A[running]).astype(np.float32)
            gradient = method.to_params(parameters, {f"{LAYER}.G": dG}, training) / len(x)
            state, parameters = optimiser.apply(
                state, parameters, gradient.astype(np.float32), 0.05
            )
        total.add(method.difference(parameters, start, training), training.mask)
    merged = method.layout.views(total.apply(start))
    expected = reference_ravan.merge(start_cores, uploads)
    np.testing.assert_allclose(merged[f"{LAYER}.H"], expected, rtol=2e-5, atol=2e-6)
    assert (merged[f"{LAYER}.s"] == 1).all()
    untouched = [i for i in range(heads) if not any(i in upload for upload in uploads)]
    assert (merged[f"{LAYER}.H"][untouched] == start_cores[untouched]).all()


def test_to_params_is_the_chain_rule_of_autograd() -> None:
    import torch

    method = ravan_method()
    random = np.random.default_rng(3)
    parameters = random.normal(size=method.layout.size).astype(np.float32)
    dG = random.normal(size=(4, 2, 2)).astype(np.float32)
    views = method.layout.views(parameters)
    H = torch.tensor(views[f"{LAYER}.H"], requires_grad=True)
    s = torch.tensor(views[f"{LAYER}.s"], requires_grad=True)
    (torch.tensor(dG) * s[:, None, None] * H).sum().backward()
    gradients = {
        f"{LAYER}.G": dG,
        "task_head.weight": np.ones((3, 6), np.float32),
        "task_head.bias": np.zeros(3, np.float32),
    }
    training = method.training(parameters, None)
    found = method.layout.views(method.to_params(parameters, gradients, training))
    assert H.grad is not None
    assert s.grad is not None
    np.testing.assert_allclose(found[f"{LAYER}.H"], H.grad.numpy(), rtol=1e-6)
    np.testing.assert_allclose(found[f"{LAYER}.s"], s.grad.numpy(), rtol=1e-5)
    assert (found["task_head.weight"] == 1).all()


def test_to_graph_is_the_product_and_a_choice_of_heads_is_its_rows() -> None:
    method = ravan_method()
    parameters = random_heads(method, 5)
    views = method.layout.views(parameters)
    views[f"{LAYER}.s"][:] = [1, 2, 3, 4]
    everything = method.to_graph(parameters, method.training(parameters, None))[f"{LAYER}.G"]
    np.testing.assert_array_equal(
        everything, views[f"{LAYER}.H"] * views[f"{LAYER}.s"][:, None, None]
    )
    views[f"{LAYER}.H"][2] = 0.0
    training = method.training(parameters, {LAYER: np.array([1], np.int32)})
    # heads that are not zero stay in the forward pass, frozen; head 2 need not run
    assert training.running[LAYER].tolist() == [0, 1, 3]
    some = method.to_graph(parameters, training)[f"{LAYER}.G"]
    np.testing.assert_array_equal(some, everything[[0, 1, 3]])


def test_heads_that_are_zero_and_do_not_train_do_not_run_but_one_always_does() -> None:
    method = ravan_method()
    zero = random_heads(method, scale=0.0)
    chosen = method.training(zero, {LAYER: np.array([2], np.int32)})
    assert chosen.running[LAYER].tolist() == [2]
    nothing = method.training(zero, {})
    assert nothing.running[LAYER].tolist() == [0]
    assert nothing.mask is not None
    assert not nothing.mask[: 4 * 2 * 2 + 4].any()
    assert nothing.mask[4 * 2 * 2 + 4 :].all(), "the task head trains whatever the choice"


def test_gradients_and_differences_of_heads_that_do_not_train_are_zero() -> None:
    method = ravan_method()
    start = random_heads(method, 1)
    parameters = random_heads(method, 2)
    method.layout.views(parameters)[f"{LAYER}.s"][:] = 2.0
    training = method.training(start, {LAYER: np.array([0, 3], np.int32)})
    gradients = {
        f"{LAYER}.G": np.ones((4, 2, 2), np.float32),
        "task_head.weight": np.ones((3, 6), np.float32),
        "task_head.bias": np.ones(3, np.float32),
    }
    for vector in (
        method.to_params(parameters, gradients, training),
        method.difference(parameters, start, training),
    ):
        views = method.layout.views(vector)
        assert not views[f"{LAYER}.H"][[1, 2]].any()
        assert views[f"{LAYER}.H"][[0, 3]].all()
        assert not views[f"{LAYER}.s"][[1, 2]].any()
        assert views["task_head.bias"].all()
    difference = method.layout.views(method.difference(parameters, start, training))
    assert not difference[f"{LAYER}.s"].any(), "scales are folded, never uploaded"


def test_fold_changes_no_product_and_start_round_undoes_nothing() -> None:
    method = ravan_method()
    parameters = random_heads(method, 1)
    method.layout.views(parameters)[f"{LAYER}.s"][:] = [0.5, 2.0, -1.0, 0.0]
    before = parameters.copy()
    folded = method.fold(parameters)
    assert parameters.tobytes() == before.tobytes()
    training = method.training(parameters, None)
    for name, value in method.to_graph(parameters, training).items():
        np.testing.assert_array_equal(method.to_graph(folded, training)[name], value)
    assert (method.layout.views(method.start_round(folded))[f"{LAYER}.s"] == 1).all()


@pytest.mark.parametrize("heads", [[4], [-1], [1, 1], [2, 1], [5, -(2**31)], [3, -(2**31), 3]])
def test_head_indices_are_ascending_and_in_range(heads: list[int]) -> None:
    method = ravan_method()
    with pytest.raises(ValueError, match="are not heads"):
        method.training(random_heads(method), {LAYER: np.array(heads, np.int32)})


def test_norms_are_those_of_each_head() -> None:
    method = ravan_method()
    G = np.random.default_rng(0).normal(size=(4, 2, 2)).astype(np.float32)
    norms = method.head_norms({f"{LAYER}.G": G})[LAYER]
    np.testing.assert_allclose(norms, [np.linalg.norm(g) for g in G], rtol=1e-6)


@given(
    rank=st.integers(1, 64), m=st.integers(1, 5000), n=st.integers(1, 5000), h=st.integers(1, 16)
)
def test_the_rank_of_a_budget_is_the_largest_that_fits(rank: int, m: int, n: int, h: int) -> None:
    r = rank_for_lora_budget(rank, m, n, h)
    assert h * r * r <= rank * (m + n) < h * (r + 1) ** 2


def test_pack_names_the_tensor_that_does_not_fit() -> None:
    layout = ravan_method().layout
    tensors = layout.views(np.zeros(layout.size, np.float32))
    tensors["task_head.bias"] = np.zeros(4, np.float32)
    with pytest.raises(ArtifactError, match=r"task_head.bias: expected .* \[3\], found \[4\]"):
        layout.pack(tensors)
    del tensors["task_head.bias"]
    with pytest.raises(ArtifactError, match="found nothing"):
        layout.pack(tensors)
