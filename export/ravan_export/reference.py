"""The slow twin: torch autograd on the original model, adapters hooked onto its linear layers.

Nothing here is shared with what is captured: the model makes its own mask from the raw
``attention_mask``, the loss is torch's (``Task.reference``), and an adapter is the paper's formula,
head by head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ravan_export.adaptation import Adaptation
from ravan_export.source import Source
from ravan_export.tasks import Task

__all__ = ["Reference", "autograd", "to_float64"]

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Reference:
    """What autograd found for one batch.

    Args:
        loss_sum: Sum over what has a label.
        gradients: With respect to every tensor of the tensor table.
    """

    loss_sum: float
    gradients: dict[str, NDArray[Any]]


def _adapter(
    adaptation: Adaptation, layer: str, values: Mapping[str, Tensor]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A forward hook that adds one layer's adapter to its output."""

    def ravan(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        del module
        x = inputs[0]
        a, bt = (
            torch.from_numpy(adaptation.base_tensors[f"{layer}.{side}"]).to(x.dtype)
            for side in ("A", "Bt")
        )
        for head in range(a.shape[0]):
            core, scale = values[f"{layer}.H"][head], values[f"{layer}.s"][head]
            output = output + scale * (x @ a[head].T @ core.T @ bt[head])
        return output

    def lora(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        del module
        a, b = values[f"{layer}.lora_A"], values[f"{layer}.lora_B"]
        factor = (adaptation.settings.alpha or a.shape[0]) / a.shape[0]
        return output + factor * (inputs[0] @ a.T @ b.T)

    return ravan if adaptation.settings.name == "ravan" else lora


@contextmanager
def _hooked(source: Source, adaptation: Adaptation, values: Mapping[str, Tensor]) -> Iterator[None]:
    handles = [
        source.model.get_submodule(layer.name).register_forward_hook(
            _adapter(adaptation, layer.name, values)
        )
        for layer in adaptation.layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Float64(TorchFunctionMode):
    """Where a model asks for float32 by name (norms, softmax, rotary positions), it gets float64.

    Else a float64 model would round there as float32 does, and its distance from float32 would be
    found too small.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        del types
        if func is Tensor.float:
            func = Tensor.double
        wide = {torch.float32: torch.float64}

        def widened(item: Any) -> Any:  # noqa: ANN401
            return wide.get(item, item) if isinstance(item, torch.dtype) else item

        named = {key: widened(item) for key, item in (kwargs or {}).items()}
        return func(*map(widened, args), **named)


def autograd(
    task: Task, source: Source, adaptation: Adaptation, batch: Arrays, parameters: Arrays
) -> Reference:
    """Loss and all gradients of one batch.

    Args:
        task: Forms the loss.
        source: The model, in the precision to compute in.
        adaptation: What trains.
        batch: The task's inputs and ``labels``.
        parameters: A value for every tensor of the tensor table.
    """
    dtype = next(source.model.parameters()).dtype
    values = {
        name: torch.from_numpy(np.array(array)).to(dtype).requires_grad_()
        for name, array in parameters.items()
    }
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in batch.items()}
    tensors = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    precision = _Float64() if dtype == torch.float64 else nullcontext()
    with _hooked(source, adaptation, values), precision:
        loss = task.reference(source, tensors, values)
        gradients = torch.autograd.grad(loss, list(values.values()))
    return Reference(
        float(loss.detach()),
        {name: gradient.numpy() for name, gradient in zip(values, gradients, strict=True)},
    )


@contextmanager
def to_float64(source: Source) -> Iterator[Source]:
    """The model in float64 for a while (its float32 numbers, exactly, both ways)."""
    source.model.double()
    try:
        yield source
    finally:
        source.model.float()
