"""The operators of our graphs in torch, each held against onnxruntime on a graph of one node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ravan_edge.errors import ModelError
from ravan_export.plans.torch_module import GraphModule
from ravan_export.plans.torch_operators import OPERATORS

Array = NDArray[Any]

_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
_rng = np.random.default_rng(0)
X = _rng.standard_normal((3, 20)).astype(np.float32)
Y = _rng.standard_normal((3, 20)).astype(np.float32)
CUBE = _rng.standard_normal((2, 3, 20)).astype(np.float32)
IMAGE = _rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
KERNEL = _rng.standard_normal((5, 3, 4, 4)).astype(np.float32)
BACK = _rng.standard_normal((3, 5, 4, 4)).astype(np.float32)
NUMBERS = _rng.integers(0, 3, (3, 20))
FLAGS = _rng.integers(0, 2, (3, 20)).astype(bool)
OTHERS = _rng.integers(0, 2, (3, 20)).astype(bool)


def whole(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def model_of(
    kind: str, inputs: list[Array], constants: list[Array | None], attributes: dict[str, Any]
) -> ModelProto:
    """One node: first what is fed, then constants (None: left out)."""
    names = [f"x{place}" for place in range(len(inputs))]
    fixed = ["" if array is None else f"c{place}" for place, array in enumerate(constants)]
    graph = helper.make_graph(
        [helper.make_node(kind, [*names, *fixed], ["y"], **attributes)],
        "one",
        [
            helper.make_tensor_value_info(name, _TYPES[array.dtype.name], array.shape)
            for name, array in zip(names, inputs, strict=True)
        ],
        [helper.make_empty_tensor_value_info("y")],
        [
            numpy_helper.from_array(array, name)
            for name, array in zip(fixed, constants, strict=True)
            if array is not None
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


CASES: list[tuple[str, list[Array], list[Array | None], dict[str, Any]]] = [
    *((kind, [X, Y], [], {}) for kind in ("Add", "Div", "Max", "Min", "Mul", "Sub")),
    *((kind, [X, Y], [], {}) for kind in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    *(
        (kind, [X], [], {})
        for kind in ("Cos", "Erf", "Exp", "Identity", "Neg", "Reciprocal", "Relu", "Sigmoid")
    ),
    *((kind, [X], [], {}) for kind in ("Sign", "Sin", "Tanh")),
    ("Sqrt", [np.abs(X)], [], {}),
    ("Add", [X], [np.float32([0.5])], {}),
    ("Div", [NUMBERS - 1], [whole(2)], {}),
    ("Equal", [NUMBERS, np.ones_like(NUMBERS)], [], {}),
    ("And", [FLAGS, OTHERS], [], {}),
    ("Not", [FLAGS], [], {}),
    ("Where", [FLAGS, X, Y], [], {}),
    ("Where", [FLAGS, NUMBERS], [np.array(7, np.int64)], {}),
    ("Cast", [FLAGS], [], {"to": TensorProto.FLOAT}),
    ("Cast", [FLAGS], [], {"to": TensorProto.INT64}),
    ("Transpose", [CUBE], [], {"perm": [1, 2, 0]}),
    ("Softmax", [CUBE], [], {"axis": -1}),
    ("LogSoftmax", [X], [], {"axis": -1}),
    ("GatherElements", [X, NUMBERS[:, :1]], [], {"axis": 1}),
    ("Concat", [X, Y], [], {"axis": 1}),
    ("Gemm", [X, Y], [], {"transB": 1}),
    ("Gemm", [X, Y], [], {"transA": 1, "alpha": 0.5}),
    ("Gemm", [X], [Y], {"transB": 1, "alpha": 2.0}),
    ("Gemm", [X], [np.ascontiguousarray(Y.T)], {}),
    ("Gemm", [X, Y, X @ Y.T], [], {"transB": 1, "beta": 0.5}),
    ("MatMul", [X, np.ascontiguousarray(Y.T)], [], {}),
    ("MatMul", [CUBE, np.swapaxes(CUBE, 1, 2).copy()], [], {}),
    ("MatMul", [CUBE, np.ascontiguousarray(Y.T)], [], {}),
    ("Reshape", [CUBE], [whole(0, -1)], {}),
    ("Reshape", [CUBE], [whole(2, 4, 15)], {}),
    ("Expand", [X[:1]], [whole(4, 1, 20)], {}),
    ("Expand", [FLAGS[:1]], [whole(3, 20)], {}),
    ("ReduceSum", [X], [whole(-1)], {"keepdims": 1}),
    ("ReduceSum", [X], [whole(1)], {"keepdims": 0}),
    ("ReduceSum", [CUBE], [whole(0, 1)], {"keepdims": 0}),
    ("ReduceSum", [NUMBERS], [whole(0)], {"keepdims": 0}),
    ("ReduceSum", [X], [], {"keepdims": 0}),
    ("ReduceMean", [CUBE], [whole(-1)], {"keepdims": 1}),
    ("ReduceMean", [CUBE], [whole(1)], {"keepdims": 0}),
    ("ReduceMax", [X], [whole(1)], {"keepdims": 1}),
    ("ReduceProd", [NUMBERS], [whole(1)], {"keepdims": 0}),
    ("ArgMax", [X], [], {"axis": 1, "keepdims": 0}),
    ("CumSum", [NUMBERS], [np.array(1, np.int64)], {}),
    ("Gather", [X, NUMBERS[0]], [], {"axis": 0}),
    ("Gather", [CUBE, NUMBERS[0, :4]], [], {"axis": 1}),
    ("Slice", [X], [whole(1), whole(2**63 - 1), whole(1)], {}),
    ("Slice", [X], [whole(0, 2), whole(2, 19), whole(0, 1), whole(1, 3)], {}),
    ("Pad", [NUMBERS], [whole(0, 1), np.array(-100, np.int64), whole(1)], {"mode": "constant"}),
    ("Pad", [X], [whole(1, 0, 0, 2)], {"mode": "constant"}),
    ("Conv", [IMAGE], [KERNEL], {"strides": [4, 4]}),
    ("Conv", [IMAGE], [KERNEL, KERNEL[:, 0, 0, 0].copy()], {"strides": [4, 4]}),
    ("Conv", [IMAGE], [KERNEL], {"pads": [1, 1, 1, 1]}),
    ("ConvTranspose", [IMAGE], [BACK], {"strides": [4, 4]}),
]


@pytest.mark.parametrize(
    ("kind", "inputs", "constants", "attributes"),
    CASES,
    ids=[f"{place}-{case[0]}" for place, case in enumerate(CASES)],
)
def test_an_operator_is_onnxruntimes(
    kind: str, inputs: list[Array], constants: list[Array | None], attributes: dict[str, Any]
) -> None:
    model = model_of(kind, inputs, constants, attributes)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (expected,) = session.run(None, {f"x{place}": array for place, array in enumerate(inputs)})
    tensors = tuple(torch.from_numpy(array.copy()) for array in inputs)
    module = GraphModule(model, {}).prepared(tensors)
    (found,) = module(*tensors)
    assert found.numpy().dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_every_operator_is_tried() -> None:
    assert {case[0] for case in CASES} == {*OPERATORS, "Gemm"}


def test_what_is_computed_from_constants_is_folded() -> None:
    nodes = [
        helper.make_node("Concat", ["a", "b"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 20])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(whole(4), "a"), numpy_helper.from_array(whole(15), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (found,) = GraphModule(model, {})(torch.from_numpy(X))
    assert found.shape == (4, 15)


def test_an_operator_without_a_form_is_named() -> None:
    model = model_of("Det", [X[:, :3].copy()], [], {})
    with pytest.raises(ModelError, match="no form of operator Det") as caught:
        GraphModule(model, {})
    assert caught.value.exit_code == 3


def test_a_size_from_data_is_refused() -> None:
    model = model_of("Reshape", [X, whole(4, 15)], [], {})
    with pytest.raises(ModelError, match="a size is computed from data"):
        GraphModule(model, {})
