"""The arithmetic floor of a step: its products alone, each as fast as any library here does it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.step_sides import Shape

__all__ = ["FloorSide", "Product", "floor_products"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product [stack, rows, inner] x [stack, inner, columns], and how often a step has it."""

    name: str
    stack: int
    rows: int
    inner: int
    columns: int
    times: int

    @property
    def flops(self) -> int:
        """Multiplications and additions of one."""
        return 2 * self.stack * self.rows * self.inner * self.columns


def floor_products(shape: Shape) -> list[Product]:
    """The products that a step of LoRA-like adapters on query and value cannot do without.

    Forward without adapters; dX wherever something below trains (not into the first layer's query, key
    and value, nor the gradient of its keys); attention; adapters as factored, x -> A -> G -> B, with
    dG of every head. A causal mask saves nothing here. Whatever the implementation does is not asked.
    """
    t, d, f, n = shape.tokens, shape.width, shape.hidden, shape.layers
    stack, s, w = shape.rows * shape.attention_heads, shape.length, d // shape.attention_heads
    h, r = shape.heads, shape.rank
    narrow = w * (shape.key_heads or shape.attention_heads)
    products = [
        Product("queries and outputs", 1, t, d, d, 2 * n + 2 * n - 1),
        Product("keys and values", 1, t, d, narrow, 2 * n + 2 * n - 2),
        Product("feed-forward up", 1, t, d, f, (2 if shape.gated else 1) * 2 * n),
        Product("feed-forward down", 1, t, f, d, 2 * n),
        Product("scores", stack, s, w, s, 2 * n),
        Product("weighted values", stack, s, s, w, 4 * n - 1),
        Product("adapters in", 1, t, d, h * r, 4 * n),
        Product("adapters out, queries", 1, t, h * r, d, 2 * n - 1),
        Product("adapters out, values", 1, t, h * r, narrow, 2 * n - 1),
        Product("cores", h, t, r, r, 4 * n - 2),
        Product("core gradients", h, r, t, r, 2 * n),
    ]
    if shape.vocabulary:
        products.append(Product("vocabulary", 1, t, d, shape.vocabulary, 1))
        products.append(Product("vocabulary, back", 1, t, shape.vocabulary, d, 1))
    return products


class FloorSide:
    """The floor's products, each at the best rate of torch, numpy and onnxruntime."""

    def __init__(self, shape: Shape, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.best: dict[str, tuple[str, float]] = {}
        self._products = floor_products(shape)
        self._runs = {item.name: _ways(item, threads) for item in self._products}
        for ways in self._runs.values():
            for run in ways.values():
                run()

    def step(self) -> float:
        """Measure every product in every way once more; seconds of the whole step at the best rates."""
        total = 0.0
        for item in self._products:
            seconds = {name: _seconds(run) for name, run in self._runs[item.name].items()}
            way = min(seconds, key=lambda name: seconds[name])
            self.best[item.name] = way, item.flops / seconds[way] / 1e9
            total += item.times * seconds[way]
        return total


def _seconds(run: Callable[[], object]) -> float:
    """Median seconds of at least 5 runs in at least 20 ms.

    Libraries keep threads spinning for a while after a call; a short sleep and a warm-up leave the
    cores to the library that is measured.
    """
    time.sleep(0.005)
    run()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < 0.02:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _ways(item: Product, threads: int) -> dict[str, Callable[[], object]]:
    """One product in torch, numpy and onnxruntime (row-major, and with the right side transposed)."""
    import onnxruntime
    import torch
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(2)
    stack = (item.stack,) if item.stack > 1 else ()
    x = rng.standard_normal((*stack, item.rows, item.inner), np.float32)
    w = rng.standard_normal((*stack, item.inner, item.columns), np.float32)
    tx, tw, out = (
        torch.from_numpy(x),
        torch.from_numpy(w),
        np.empty((*stack, item.rows, item.columns), np.float32),
    )
    tout = torch.from_numpy(out)

    def session(
        kind: str, right: Array, *, frozen: bool = False, **attributes: int
    ) -> Callable[[], object]:
        node = helper.make_node(kind, ["x", "w"], ["y"])
        node.attribute.extend(
            helper.make_attribute(name, item) for name, item in attributes.items()
        )
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * x.ndim)
            for name in ("x" if frozen else "xw")
        ]
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * x.ndim)
        constants = [numpy_helper.from_array(right, "w")] if frozen else []  # prepacked when loaded
        graph = helper.make_graph([node], "product", inputs, [output], constants)
        opsets = [helper.make_opsetid("", 18)]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")
        made = onnxruntime.InferenceSession(
            helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )
        binding = made.io_binding()
        binding.bind_cpu_input("x", x)
        if not frozen:
            binding.bind_cpu_input("w", right)
        binding.bind_output("y", "cpu", 0, np.float32, out.shape, out.ctypes.data)
        return lambda: made.run_with_iobinding(binding)

    ways: dict[str, Callable[[], object]] = {
        "torch": lambda: torch.matmul(tx, tw, out=tout),
        "numpy": lambda: np.matmul(x, w, out=out),
        "onnxruntime": session("MatMul", w),
    }
    if not stack:
        ways["onnxruntime, transposed"] = session("Gemm", np.ascontiguousarray(w.T), transB=1)
        ways["onnxruntime, prepacked"] = session("MatMul", w, frozen=True)
    return ways
