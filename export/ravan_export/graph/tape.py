"""Reverse differentiation while a graph is built: each rule records how gradients flow back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ravan_export.graph.builder import Builder
from ravan_export.graph.value import Value

__all__ = ["Pullback", "Tape", "Var"]

Pullback = Callable[[Value], Value]
"""From the gradient of the loss with respect to a result to that with respect to one operand."""


@dataclass(slots=True, eq=False)
class Var:
    """A value and its place in the differentiation.

    Args:
        value: What it is.
        needs_grad: Whether the loss depends on a trainable tensor through it.
        parents: The operands that need a gradient, each with its pullback.
        origin: For a model's parameter, its dotted name; else empty.
        users: How many operations of the model read it.
    """

    value: Value
    needs_grad: bool = False
    parents: tuple[tuple[Var, Pullback], ...] = ()
    origin: str = ""
    users: int = 0


@dataclass(slots=True)
class Tape:
    """Records operations in order and runs them backwards.

    Nothing is computed for an operand that needs no gradient: below the first adapted layer the
    backward graph is empty.
    """

    builder: Builder
    order: list[Var] = field(default_factory=list)
    gradients: dict[Var, Value] = field(default_factory=dict)

    def leaf(self, value: Value, *, trains: bool = False, origin: str = "") -> Var:
        """An input or parameter."""
        var = Var(value, trains, origin=origin)
        self.order.append(var)
        return var

    def record(self, value: Value, pullbacks: Mapping[Var, Pullback] | None = None) -> Var:
        """The result of an operation. Operands that need no gradient are dropped."""
        parents = tuple(
            (var, pullback) for var, pullback in (pullbacks or {}).items() if var.needs_grad
        )
        var = Var(value, bool(parents), parents)
        self.order.append(var)
        return var

    def backward(self, output: Var, seed: Value) -> dict[Var, Value]:
        """Gradients of every leaf that trains.

        Args:
            output: Where the gradient starts (the logits).
            seed: The gradient of the loss with respect to ``output``.
        """
        gradients = self.gradients
        gradients[output] = seed
        leaves: dict[Var, Value] = {}
        for var in reversed(self.order):
            gradient = gradients.get(var)
            if gradient is None:
                continue
            if not var.parents:
                leaves[var] = gradient
            for parent, pullback in var.parents:
                part = pullback(gradient)
                if parent in gradients:
                    part = self.builder.add(gradients[parent], part)
                gradients[parent] = part
        return leaves
