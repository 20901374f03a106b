"""A program of which one token is read: what becomes shorter, and that its numbers stay torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ravan_edge.plans.conformance import relative_error
from ravan_export.capture import Program, operator_name
from tests.export.test_rules import Function, Module, captured, run


def _heads(x: Tensor) -> Tensor:
    return x.view(-1, 4, 1, 5).transpose(1, 2)


def _attention(query: Tensor, x: Tensor, w: Tensor) -> Tensor:
    keys, values = _heads(functional.linear(x, w * 0.5)), _heads(functional.linear(x, w))
    scores = torch.matmul(_heads(functional.linear(query, w)), keys.transpose(2, 3)) * 0.4
    mask = torch.arange(16.0).view(1, 1, 4, 4) * 0.1
    mixed = torch.matmul(torch.softmax(scores + mask + mask[:, :, :1], -1), values)
    return mixed.transpose(1, 2).contiguous().view(-1, 4, 5)


def _block(w: Tensor, x: Tensor) -> Tensor:
    x, w = x @ w, w * 0.5
    x = functional.layer_norm(_attention(x, x, w) + x, (5,), w[0], w[1])
    return functional.gelu(functional.linear(x, w, w[2])) + x


CASES: dict[str, Function] = {
    "the first token of a block": lambda w, y: _block(w, _block(w, y))[:, 0],
    "the last token, by slices": lambda w, y: _block(w, y)[:, 1:][:, -1, :],
    "two different tokens": lambda w, y: _block(w, y)[:, 0] + _block(w, y)[:, 2],
    "the same token twice": lambda w, y: _twice(_block(w, y)),
    "read whole beside it": lambda w, y: _whole_too(_block(w, y)),
    "a product with itself": lambda w, y: _squared(y @ w),
    "a norm of root mean squares, halves joined": lambda w, y: _joined(y @ w),
    "mean over the tokens": lambda w, y: (y @ w - (y @ w).mean(1, keepdim=True))[:, 1],
    "softmax over the tokens": lambda w, y: torch.softmax(y @ w, 1)[:, 1],
    "one element": lambda w, y: torch.tanh(y @ w)[:, 2, 3],
    "of the width": lambda w, y: functional.linear(torch.tanh(y @ w), w)[:, :, 3],
}


def _twice(x: Tensor) -> Tensor:
    return x[:, 0] * x[:, 0].tanh()


def _whole_too(x: Tensor) -> Tensor:
    return x[:, 0] + x.sum(1)


def _squared(x: Tensor) -> Tensor:
    return (x @ x.transpose(1, 2) @ x)[:, 1] + (x[:, :, :4] @ x[:, :, :4])[:, 2, :1]


def _joined(x: Tensor) -> Tensor:
    normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    return torch.cat((-normed[..., 2:], normed[..., :2]), -1)[:, 3]


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_are_torchs(case: str) -> None:
    module = Module(CASES[case], (5, 5))
    y = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(1))
    trained = module.x.detach().clone().requires_grad_()
    expected = module.function(trained, y)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((expected * direction).sum(), trained)
    feed: dict[str, Any] = {
        "y": y.numpy(),
        "x": module.x.numpy(),
        "direction": direction.numpy(),
    }
    for optimise in (False, True):
        found, found_gradient = run(captured(module), feed, optimise=optimise)
        assert relative_error(found, expected.detach().numpy()) < 2e-6
        assert relative_error(found_gradient, gradient.numpy()) < 1e-5


def lengths(program: Program, operator: str) -> list[int]:
    """Tokens in the results of an operator, in order."""
    return [
        node.meta["val"].shape[1]
        for node in program.nodes
        if node.op == "call_function"
        and operator_name(node) == operator
        and len(node.meta["val"].shape) == 3
    ]


def test_only_keys_and_values_of_the_last_block_see_every_token() -> None:
    program = captured(Module(CASES["the first token of a block"], (5, 5)))
    # Keys, values, queries, feed-forward: of the block before it, then of the last.
    assert lengths(program, "aten.linear.default") == [4, 4, 4, 4, 4, 4, 1, 1]
    assert lengths(program, "aten.layer_norm.default") == [4, 1]
    assert lengths(program, "aten.gelu.default") == [4, 1]


@pytest.mark.parametrize("case", ["two different tokens", "read whole beside it"])
def test_what_is_needed_whole_stays_whole(case: str) -> None:
    function = CASES["read whole beside it"]
    if case == "two different tokens":

        def function(w: Tensor, y: Tensor) -> Tensor:
            x = _block(w, y)
            return x[:, 0] + x[:, 2]

    program = captured(Module(function, (5, 5)))
    assert lengths(program, "aten.linear.default") == [4, 4, 4, 4]
