"""A model as its configuration says, without its numbers: shapes for everything, memory for nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

__all__ = ["outlined"]


def _on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
    """A parameter as it is registered, on torch's meta device: initialising it does nothing."""
    del module, name
    if parameter is None or parameter.is_meta:
        return parameter
    return nn.Parameter(parameter.detach().to("meta"), requires_grad=False)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    hook = register_module_parameter_registration_hook(_on_meta)  # type: ignore[arg-type]  # it may return one
    try:
        yield
    finally:
        hook.remove()


def outlined(make: Callable[[], Any]) -> Any:  # noqa: ANN401  (a model of transformers)
    """The model that ``make`` builds; each parameter is one number seen at every place.

    Parameters are made on torch's meta device and then become views of a single zero, so that the model
    is captured like any other: tied ones are still one tensor, different ones have addresses of
    their own. Buffers (position numbers, rotary frequencies) have their real numbers.

    >>> model = outlined(lambda: nn.Linear(1 << 12, 1 << 12))
    >>> model.weight.numel(), model.weight.untyped_storage().nbytes()
    (16777216, 4)
    """
    with _parameters_on_meta():
        model = make()
    made: dict[int, tuple[Tensor, nn.Parameter]] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            if id(parameter) not in made:
                zero = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
                # The key is the old one's address: it must stay alive.
                made[id(parameter)] = parameter, nn.Parameter(zero, requires_grad=False)
            module._parameters[name] = made[id(parameter)][1]
    return model
