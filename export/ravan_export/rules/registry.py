"""The table of rules, and what a rule is told about the call it translates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ravan_edge.errors import ModelError
from ravan_export.graph import Builder, Tape, Value, Var
from ravan_export.graph.value import Shape

__all__ = ["RULES", "Adapter", "Call", "Rule", "rule"]


class Adapter(Protocol):
    """What a method adds to one linear layer."""

    def linear(self, tape: Tape, x: Var, weight: Value, stored: float) -> Var:
        """The layer's output with the adapter, without its bias; stored with a factor."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operator in the captured model.

    Args:
        tape: Where the result is recorded.
        shape: The result's shape.
        dtype: The result's element type.
        layer: The module that made the call, for messages.
        adapters: Adapters by the dotted name of the weight they belong to.
        only_user: The operator that alone reads the result; empty where there are several.
        users: How many operators read it.
    """

    tape: Tape
    shape: Shape
    dtype: int
    layer: str
    adapters: Mapping[str, Adapter]
    only_user: str
    users: int

    @property
    def builder(self) -> Builder:
        """The graph."""
        return self.tape.builder

    def refuse(self, found: str, hint: str) -> ModelError:
        """The error for something in this call that cannot be exported exactly."""
        return ModelError(found, where=self.layer, hint=hint)

    def axis(self, axis: int, rank: int) -> int:
        """A non-negative axis."""
        return axis % rank

    def operand(self, item: Var | float) -> Var:
        """An operand as a variable; a number becomes a constant of the result's kind."""
        if isinstance(item, Var):
            return item
        return self.tape.leaf(self.builder.constant(float(item)))

    def dim(self, item: Var | int) -> Value:
        """A size given as a number or computed by the model, as int64 [1]."""
        return item.value if isinstance(item, Var) else self.builder.constant([item])


Rule = Callable[..., Var]
RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of operators, named as torch prints them."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            if operator in RULES:
                raise ValueError(f"operator {operator} has two rules")
            RULES[operator] = function
        return function

    return register
