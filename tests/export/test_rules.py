"""Every rule against torch autograd: value and gradient, with a dynamic batch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import NewGELUActivation

from ravan_edge.errors import ModelError
from ravan_edge.plans.conformance import relative_error
from ravan_export.capture import Program, capture
from ravan_export.graph import Builder, Tape
from ravan_export.graph.finish import finish
from ravan_export.rules import RULES
from ravan_export.translate import translate

Function = Callable[[Tensor, Tensor], Tensor]


def _attention_read_twice(x: Tensor, y: Tensor) -> Tensor:
    weights = torch.softmax((x + y) @ (x + y).transpose(1, 2), -1)
    return weights @ (x * y) + weights.sum(-1, keepdim=True)


def _weights(*shape: int) -> Tensor:
    """Frozen weights of a convolution."""
    size = math.prod(shape)
    return ((torch.arange(size).float() - size / 2) * 0.1).view(shape)


CASES: dict[str, Function] = {
    "conv1d with a row that no window reaches": lambda x, y: functional.conv1d(
        x + y, _weights(3, 4, 2), _weights(3), stride=2
    ),
    "conv2d with stride and padding": lambda x, y: functional.conv2d(
        (x + y).unsqueeze(1), _weights(2, 1, 3, 2), _weights(2), stride=(2, 3), padding=(1, 1)
    ),
    "conv2d with groups and dilation": lambda x, y: functional.conv2d(
        (x * y).view(-1, 2, 2, 5) * 3.0, _weights(4, 1, 2, 2), padding=(0, 1), dilation=(1, 2),
        groups=2,
    ),
    "conv2d of patches": lambda x, y: torch.tanh(
        functional.conv2d((x + y).unsqueeze(1), _weights(6, 1, 2, 2), _weights(6), stride=2)
    ).flatten(2).transpose(1, 2),
    "convolution by its general name": lambda x, y: torch.convolution(
        x + y, _weights(2, 4, 3), None, [1], [2], [1], False, [0], 1
    ),
    "adding nothing": lambda x, y: (x + y) + torch.zeros(1, 1, 1) + x * (torch.zeros(1) + 2.0),
    "add, sub, rsub": lambda x, y: (
        (x + y) - 0.5 * y + (2.0 - x) - (x - 3.0) + torch.add(x, y, alpha=3)
    ),
    "mul, div": lambda x, y: x * y / (2.0 + y * y) * 0.5 + x * x + y * 2.0 + (x + y) / 4.0,
    "broadcast": lambda x, y: y * x.sum(0) + x.mean((0, 1, 2), keepdim=True),
    "gelu": lambda x, y: functional.gelu(x + y),
    "gelu tanh": lambda x, y: functional.gelu(x + y, approximate="tanh"),
    "relu, tanh, sigmoid": lambda x, y: (
        torch.relu(x + y) + torch.tanh(x * y)
        + torch.sigmoid(x - y)
    ),
    "silu": lambda x, y: functional.silu(x + y),
    "exp, sqrt, rsqrt, neg": lambda x, y: (
        -torch.exp(-x * y)
        + torch.sqrt(x * x + 1) * torch.rsqrt(y * y + x * x + 1)
    ),
    "pow": lambda x, y: (x + y) ** 2 + 0.5 * torch.pow(x * y, 3.0),
    "gelu written out": lambda x, y: NewGELUActivation()(x + y),
    "root mean square norm": lambda x, y: (
        y[:, :1] * ((x + y) * torch.rsqrt((x + y).pow(2).mean(-1, keepdim=True) + 1e-6))
    ),
    "offsets from a table": lambda x, y: x + y * functional.embedding(
        (torch.arange(5)[None, :] - torch.arange(4)[:, None]).clamp(min=-2, max=3) + 2,
        torch.arange(12.0).view(6, 2),
    ).permute(2, 0, 1)[1].unsqueeze(0),
    "clamp": lambda x, y: (x + y).clamp(min=-0.3, max=0.6),
    "softmax": lambda x, y: torch.softmax(x + y, -1),
    "softmax of another axis": lambda x, y: torch.softmax(x + y, 1),
    "attention": lambda x, y: torch.softmax((x + y) @ (x + y).transpose(1, 2) * 0.5, -1) @ (x * y),
    "attention read twice": _attention_read_twice,
    "sum, mean": lambda x, y: (
        (x + y).sum(1, keepdim=True)
        + (x * y).mean(-1, keepdim=True) + (x * y).mean(0)
    ),
    "mean over the batch": lambda x, y: (x * y).mean((0, 2), keepdim=True) + (x + y),
    "amax": lambda x, y: torch.amax(x * y, 1),
    "view, permute, transpose": lambda x, y: (
        (x + y).permute(0, 2, 1).reshape(-1, 20).view(-1, 2, 10).transpose(1, 2)
    ),
    "unsqueeze, squeeze, expand": lambda x, y: (
        (x + y).unsqueeze(1).expand(-1, 2, -1, -1) * y.unsqueeze(1)
        + (x + y).unsqueeze(0).squeeze(0).unsqueeze(1)
    ),
    "select": lambda x, y: (x + y)[:, 1] * y[:, -1] + (x * y).select(1, -1),
    "cos, sin": lambda x, y: torch.cos(x * y) + torch.sin(x + y) * torch.cos(y),
    "slice": lambda x, y: (x + y)[:, 1:3] * (x * y)[:, -2:, 3:].sum(-1, keepdim=True) + x[:, :2],
    "halves rotated": lambda x, y: (
        torch.cat((-(x * y)[..., 2:4], (x * y)[..., :2]), -1) * y[..., :4]
    ),
    "keys repeated": lambda x, y: (
        (x * y)[:, :, None, :].expand(-1, 4, 3, 5).reshape(-1, 12, 5) * y.sum(1, keepdim=True)
    ),
    "rms norm": lambda x, y: (
        (1.0 + y) * ((x + y) * torch.rsqrt((x + y).pow(2).mean(-1, keepdim=True) + 1e-6))
    ),
    "a slice of an input": lambda x, y: (x + y) * y[:, 1:3].sum(1, keepdim=True) + y[:, :, 0:1],
    "cat": lambda x, y: torch.cat([x + y, x * y, y], 1),
    "where, masked fill": lambda x, y: (
        torch.where(y > 0, x * y, x)
        + (x + y).masked_fill(y < 0.2, 3.0)
    ),
    "comparisons": lambda x, y: (
        x * (y >= 0).float() + x * ((y < 1) & ~(y == 0)).float()
        + x * (y != 2).float() + x * (y <= 0).float()
    ),
    "zeros, ones, full": lambda x, y: (
        x * torch.zeros_like(y) + x * torch.ones(5)
        + x + y + torch.full((5,), 2.0) * x
    ),
    "cumsum, arange, embedding": lambda x, y: (
        x * torch.cumsum((y > 0).to(torch.int64), 1).float()
        + y * torch.arange(5).float() * x
    ),
    "dropout off": lambda x, y: functional.dropout(x + y, 0.5, training=False),
}  # fmt: skip

# Here the trained tensor is a matrix w [5, 5].
MATRIX_CASES: dict[str, Function] = {
    "linear": lambda w, y: functional.linear(y, w, w[0]),
    "linear twice": lambda w, y: functional.linear(torch.tanh(functional.linear(y, w)), w),
    "linear into gelu": lambda w, y: functional.gelu(functional.linear(y, w, w[1])),
    "matrix product": lambda w, y: torch.sigmoid(y @ w) @ w.t(),
    "layer norm": lambda w, y: functional.layer_norm(y @ w, (5,), w[0], w[1], 1e-5),
    "layer norm alone": lambda w, y: functional.layer_norm(y @ w, (5,)),
}


class Module(nn.Module):
    """A function of a trained tensor and an input y [batch, 4, 5]."""

    def __init__(self, function: Function, shape: tuple[int, ...] = (1, 4, 5)) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.x = nn.Parameter(torch.randn(shape, generator=generator), requires_grad=False)
        self.function = function

    def forward(self, y: Tensor) -> Tensor:
        return self.function(self.x, y)


def captured(module: nn.Module) -> Program:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return capture(module.eval(), {"y": torch.ones(3, 4, 5)}, {"y": {0: "batch"}})


def run(program: Program, feed: dict[str, Any], *, optimise: bool) -> list[Any]:
    """[output, gradient of sum(output * direction)] on onnxruntime, its own fusions on or off."""
    builder = Builder()
    tape = Tape(builder)
    y = builder.input("y", ("batch", 4, 5))
    ((_, tensor),) = (item for item in program.tensors.values() if item[0].endswith("x"))
    shape = tuple(tensor.shape)
    trained = tape.leaf(builder.input("x", shape), trains=True)
    names = {name: trained for name, _ in program.tensors.values()}
    output = translate(program, tape, {"y": y}, names, {})
    direction = builder.input("direction", output.value.shape)
    gradient = tape.backward(output, direction)[trained]
    outputs = {
        "output": builder.exact(output.value),
        "gradient": builder.exact(builder.reshape(gradient, shape)),
    }
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        finish(builder, outputs, {}).SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
    )
    return list(session.run(None, feed))


@pytest.mark.parametrize("case", [*CASES, *MATRIX_CASES])
def test_value_and_gradient_are_torchs(case: str) -> None:
    matrix = case in MATRIX_CASES
    module = Module(MATRIX_CASES[case], (5, 5)) if matrix else Module(CASES[case])
    y = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(1))
    trained = module.x.detach().clone().requires_grad_()
    expected = module.function(trained, y)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((expected * direction).sum(), trained)
    feed = {"y": y.numpy(), "x": module.x.numpy(), "direction": direction.numpy()}
    for optimise in (False, True):
        found, found_gradient = run(captured(module), feed, optimise=optimise)
        assert found.shape == tuple(expected.shape)
        assert relative_error(found, expected.detach().numpy()) < 2e-6
        assert relative_error(found_gradient, gradient.numpy()) < 5e-6


def test_rules_are_named_as_torch_names_operators() -> None:
    for name in RULES:
        namespace, operator, overload = name.split(".")
        assert namespace == "aten"
        assert hasattr(getattr(torch.ops.aten, operator), overload), name


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x, y: functional.dropout(x + y, 0.5, training=True), "dropout"),
        (lambda x, y: x + torch.rand_like(y), "random"),
        (lambda x, y: functional.conv1d(y, x), "trained convolution"),
        (lambda x, y: functional.conv_transpose1d(x + y, _weights(4, 2, 2)), "transposed"),
        (lambda x, y: torch.linalg.inv(x[:, :4, :4]).sum() + y, "no rule"),
        (lambda x, y: (x + y)[:, ::2], "slice"),
        (lambda x, y: (x + y) ** 5, "power"),
    ],
)
def test_what_has_no_exact_rule_is_refused(function: Function, words: str) -> None:
    module = nn.Sequential()
    module.add_module("inner", Module(function))
    wrapped = module_of(module)
    with pytest.raises(ModelError, match=words) as caught:
        run(captured(wrapped), {}, optimise=False)
    assert caught.value.where == "inner"
    assert caught.value.hint


def module_of(inner: nn.Module) -> nn.Module:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = inner

        def forward(self, y: Tensor) -> Tensor:
            out: Tensor = self.model(y)
            return out

    return Wrapper()


def test_a_fixed_dimension_is_refused() -> None:
    with pytest.raises(ModelError, match="fixes a dimension"):
        captured(Module(lambda x, y: x + y.reshape(3, 4, 5)))


def test_equal_operations_are_emitted_once() -> None:
    builder = Builder()
    x = builder.input("x", ("batch", 4))
    first, second = builder.unary("Exp", x), builder.unary("Exp", x)
    assert first == second
    assert [node.op_type for node in builder.nodes].count("Exp") == 1


def test_transposing_back_costs_nothing() -> None:
    builder = Builder()
    x = builder.input("x", ("batch", 4, 5))
    there = builder.permute(x, (0, 2, 1))
    assert there.shape == ("batch", 5, 4)
    assert builder.permute(there, (0, 2, 1)) == x
    assert all(node.op_type == "Shape" for node in builder.nodes)


def test_factors_go_into_the_product() -> None:
    builder = Builder()
    x, w = builder.input("x", ("batch", 4)), builder.input("w", (3, 4))
    y = builder.gemm(x.times(3.0), w.times(0.5), transpose_right=True)
    (node,) = [node for node in builder.nodes if node.op_type == "Gemm"]
    assert {item.name: item.f or item.i for item in node.attribute} == {"alpha": 1.5, "transB": 1}
    assert y.scale == 1.0
