"""Elementwise operators: arithmetic, activations, comparisons, element types."""

from __future__ import annotations

import math

import torch

from ravan_export.graph import Value, Var
from ravan_export.graph.value import BOOL, FLOAT, INT32, INT64
from ravan_export.rules.registry import Call, rule

__all__: list[str] = []

_TORCH_TYPES = {torch.float32: FLOAT, torch.int64: INT64, torch.int32: INT32, torch.bool: BOOL}


def _number(call: Call, item: Var | float, like: Value) -> Value:
    if isinstance(item, Var):
        return item.value
    if like.dtype == FLOAT:
        return call.builder.constant(float(item))
    integer = call.builder.constant([int(item)])
    return call.builder.cast(call.builder.reshape(integer, ()), like.dtype)


def _is_nothing(call: Call, item: Var | float) -> bool:
    """Whether it is the number 0, or a constant that holds only that."""
    if not isinstance(item, Var):
        return item == 0
    constant = call.builder.constants.get(item.value.name)
    return constant is not None and constant.size == 1 and not constant.any()


@rule("aten.add.Tensor", "aten.add.Scalar")
def add(call: Call, left: Var, right: Var | float, *, alpha: float = 1) -> Var:
    """left + alpha right."""
    builder = call.builder
    if _is_nothing(call, right) and call.shape == left.value.shape:
        return left
    term = _number(call, right, left.value)
    term = term.times(float(alpha)) if alpha != 1 else term
    gradients = {left: lambda dy: builder.sum_to(dy, left.value.shape)}
    if isinstance(right, Var):
        gradients[right] = lambda dy: builder.sum_to(dy.times(float(alpha)), right.value.shape)
    if right is left:
        gradients = {left: lambda dy: dy.times(1.0 + alpha)}
    return call.tape.record(builder.add(left.value, term), gradients)


@rule("aten.sub.Tensor", "aten.sub.Scalar")
def sub(call: Call, left: Var, right: Var | float, *, alpha: float = 1) -> Var:
    """left - alpha right."""
    builder = call.builder
    term = _number(call, right, left.value)
    term = term.times(float(alpha)) if alpha != 1 else term
    gradients = {left: lambda dy: builder.sum_to(dy, left.value.shape)}
    if isinstance(right, Var):
        gradients[right] = lambda dy: builder.sum_to(dy.times(-float(alpha)), right.value.shape)
    return call.tape.record(builder.sub(left.value, term), gradients)


@rule("aten.rsub.Scalar")
def rsub(call: Call, right: Var, left: float, alpha: float = 1) -> Var:
    """left - alpha right, for a number left."""
    number = _number(call, left, right.value)
    term = right.value.times(float(alpha)) if alpha != 1 else right.value
    return call.tape.record(
        call.builder.sub(number, term), {right: lambda dy: dy.times(-float(alpha))}
    )


@rule("aten.mul.Tensor", "aten.mul.Scalar")
def mul(call: Call, left: Var, right: Var | float) -> Var:
    """left * right. A product with a number stays open."""
    builder = call.builder
    if not isinstance(right, Var):
        if left.value.dtype == FLOAT:
            factor = float(right)
            return call.tape.record(left.value.times(factor), {left: lambda dy: dy.times(factor)})
        return call.tape.record(builder.mul(left.value, _number(call, right, left.value)))
    return call.tape.record(
        builder.mul(left.value, right.value),
        {
            left: lambda dy: builder.sum_to(builder.mul(dy, right.value), left.value.shape),
            right: lambda dy: builder.sum_to(builder.mul(dy, left.value), right.value.shape),
        }
        if right is not left
        else {left: lambda dy: builder.mul(dy, left.value).times(2.0)},
    )


@rule("aten.div.Tensor", "aten.div.Scalar")
def div(call: Call, left: Var, right: Var | float) -> Var:
    """left / right; d right = -dy y / right."""
    builder = call.builder
    if not isinstance(right, Var):
        return mul(call, left, 1.0 / float(right))
    y = builder.div(left.value, right.value)

    def d_right(dy: Value) -> Value:
        whole = builder.mul(builder.mul(dy, y), builder.div(builder.constant(-1.0), right.value))
        return builder.sum_to(whole, right.value.shape)

    return call.tape.record(
        y,
        {
            left: lambda dy: builder.sum_to(builder.div(dy, right.value), left.value.shape),
            right: d_right,
        },
    )


@rule("aten.gelu.default")
def gelu(call: Call, x: Var, *, approximate: str = "none") -> Var:
    """y = x Phi(x) = u (1 + erf u) / sqrt(2) with u = x / sqrt(2), in three passes.

    dy/dx = (1 + erf(u) + u 2/sqrt(pi) exp(-u^2)) / 2. The factors stay open and end in the
    products before and behind it.
    """
    builder = call.builder
    if approximate != "none":
        return _gelu_tanh(call, x)
    u = builder.settled(x.value.times(math.sqrt(0.5)))
    phi = builder.add(builder.unary("Erf", u), builder.constant(1.0))
    y = builder.mul(u, phi).times(math.sqrt(0.5))
    slope = phi
    if x.needs_grad:
        # 2/sqrt(pi) exp(-u^2) = exp(log(2/sqrt(pi)) - u^2): the constant costs no pass of its own.
        exponent = builder.sub(
            builder.constant(math.log(2 / math.sqrt(math.pi))), builder.mul(u, u)
        )
        slope = builder.add(phi, builder.mul(builder.unary("Exp", exponent), u))
    return call.tape.record(y, {x: lambda dy: builder.mul(dy, slope).times(0.5)})


def _gelu_tanh(call: Call, x: Var) -> Var:
    """y = x (1 + t) / 2, t = tanh(c (x + k x^3)), c = sqrt(2/pi), k = 0.044715."""
    builder = call.builder
    c, k = math.sqrt(2 / math.pi), 0.044715
    value = builder.settled(x.value)
    one = builder.constant(1.0)
    square = builder.mul(value, value)
    inner = builder.mul(
        value, builder.add(builder.settled(square.times(c * k)), builder.constant(c))
    )
    t = builder.unary("Tanh", inner)
    phi = builder.add(t, one)

    def gradient(dy: Value) -> Value:
        # dy/dx = (1 + t + x (1 - t^2) (c + 3 c k x^2)) / 2
        inner_slope = builder.add(builder.settled(square.times(3 * c * k)), builder.constant(c))
        tail = builder.mul(builder.mul(value, builder.sub(one, builder.mul(t, t))), inner_slope)
        return builder.mul(dy, builder.add(phi, tail)).times(0.5)

    return call.tape.record(builder.mul(value, phi).times(0.5), {x: gradient})


@rule("aten.tanh.default")
def tanh(call: Call, x: Var) -> Var:
    """y = tanh x, dy/dx = 1 - y^2."""
    builder = call.builder
    y = builder.unary("Tanh", x.value)
    slope = builder.sub(builder.constant(1.0), builder.mul(y, y)) if x.needs_grad else y
    return call.tape.record(y, {x: lambda dy: builder.mul(dy, slope)})


@rule("aten.sigmoid.default")
def sigmoid(call: Call, x: Var) -> Var:
    """y = 1 / (1 + exp(-x)), dy/dx = y (1 - y)."""
    builder = call.builder
    y = builder.unary("Sigmoid", x.value)

    def gradient(dy: Value) -> Value:
        return builder.mul(dy, builder.mul(y, builder.sub(builder.constant(1.0), y)))

    return call.tape.record(y, {x: gradient})


@rule("aten.silu.default")
def silu(call: Call, x: Var) -> Var:
    """y = x s with s = sigmoid x; dy/dx = s + y (1 - s)."""
    builder = call.builder
    value = builder.settled(x.value)
    s = builder.unary("Sigmoid", value)
    y = builder.mul(value, s)

    def gradient(dy: Value) -> Value:
        rest = builder.mul(y, builder.sub(builder.constant(1.0), s))
        return builder.mul(dy, builder.add(s, rest))

    return call.tape.record(y, {x: gradient})


@rule("aten.relu.default")
def relu(call: Call, x: Var) -> Var:
    """y = max(x, 0); the slope at 0 is 0, as in torch."""
    builder = call.builder
    y = builder.unary("Relu", x.value)
    return call.tape.record(y, {x: lambda dy: builder.mul(dy, builder.unary("Sign", y))})


@rule("aten.exp.default")
def exp(call: Call, x: Var) -> Var:
    """y = exp x = dy/dx."""
    y = call.builder.unary("Exp", x.value)
    return call.tape.record(y, {x: lambda dy: call.builder.mul(dy, y)})


@rule("aten.cos.default")
def cos(call: Call, x: Var) -> Var:
    """y = cos x, dy/dx = -sin x."""
    builder = call.builder
    y = builder.unary("Cos", x.value)
    return call.tape.record(
        y, {x: lambda dy: builder.mul(dy, builder.unary("Sin", x.value)).times(-1.0)}
    )


@rule("aten.sin.default")
def sin(call: Call, x: Var) -> Var:
    """y = sin x, dy/dx = cos x."""
    builder = call.builder
    y = builder.unary("Sin", x.value)
    return call.tape.record(y, {x: lambda dy: builder.mul(dy, builder.unary("Cos", x.value))})


@rule("aten.neg.default")
def neg(call: Call, x: Var) -> Var:
    """-x, kept open for floats."""
    if x.value.dtype == FLOAT:
        return call.tape.record(x.value.times(-1.0), {x: lambda dy: dy.times(-1.0)})
    return call.tape.record(call.builder.unary("Neg", x.value))


@rule("aten.sqrt.default")
def sqrt(call: Call, x: Var) -> Var:
    """y = sqrt x, dy/dx = 1 / (2 y)."""
    y = call.builder.unary("Sqrt", x.value)
    return call.tape.record(y, {x: lambda dy: call.builder.div(dy, y).times(0.5)})


@rule("aten.rsqrt.default")
def rsqrt(call: Call, x: Var) -> Var:
    """y = x^(-1/2), dy/dx = -y^3 / 2."""
    builder = call.builder
    y = builder.unary("Reciprocal", builder.unary("Sqrt", x.value))

    def gradient(dy: Value) -> Value:
        return builder.mul(dy, builder.mul(y, builder.mul(y, y))).times(-0.5)

    return call.tape.record(y, {x: gradient})


@rule("aten.pow.Tensor_Scalar")
def power(call: Call, x: Var, exponent: float) -> Var:
    """x^2, and x^3 as x x^2; dy/dx = 2 x, 3 x^2."""
    if exponent == 2:
        return mul(call, x, x)
    if exponent != 3:
        raise call.refuse(f"power {exponent} has no exact rule", "squares and cubes are known")
    builder = call.builder
    square = builder.mul(x.value, x.value)
    return call.tape.record(
        builder.mul(x.value, square), {x: lambda dy: builder.mul(dy, square).times(3.0)}
    )


@rule("aten.clamp.default", "aten.clamp_min.default")
def clamp(call: Call, x: Var, low: float | None = None, high: float | None = None) -> Var:
    """min(max(x, low), high); the gradient passes where nothing was cut, edges included."""
    builder = call.builder
    y = value = builder.settled(x.value)
    if low is not None:
        y = builder.binary("Max", y, _number(call, low, value))
    if high is not None:
        y = builder.binary("Min", y, _number(call, high, value))

    def gradient(dy: Value) -> Value:
        kept = builder.binary("Equal", y, value, BOOL)
        return builder.mul(dy, builder.cast(kept, FLOAT))

    return call.tape.record(y, {x: gradient})


def _compare(kind: str, *, negate: bool = False) -> object:
    def compare(call: Call, left: Var, right: Var | float) -> Var:
        result = call.builder.binary(kind, left.value, _number(call, right, left.value), BOOL)
        return call.tape.record(call.builder.unary("Not", result) if negate else result)

    return compare


for _name, _kind, _negate in (
    ("eq", "Equal", False),
    ("ne", "Equal", True),
    ("lt", "Less", False),
    ("le", "LessOrEqual", False),
    ("gt", "Greater", False),
    ("ge", "GreaterOrEqual", False),
):
    rule(f"aten.{_name}.Scalar", f"aten.{_name}.Tensor")(_compare(_kind, negate=_negate))  # type: ignore[arg-type]


@rule("aten.logical_not.default", "aten.bitwise_not.default")
def logical_not(call: Call, x: Var) -> Var:
    """Not x, for booleans."""
    return call.tape.record(call.builder.unary("Not", call.builder.cast(x.value, BOOL)))


@rule("aten.bitwise_and.Tensor", "aten.__and__.Tensor", "aten.logical_and.default")
def logical_and(call: Call, left: Var, right: Var) -> Var:
    """Left and right, for booleans."""
    return call.tape.record(call.builder.binary("And", left.value, right.value, BOOL))


@rule("aten.where.self")
def where(call: Call, condition: Var, yes: Var, no: Var) -> Var:
    """Yes where condition, else no."""
    builder = call.builder

    def chosen(dy: Value, *, by: bool) -> Value:
        zero = builder.constant(0.0)
        return builder.where(condition.value, dy if by else zero, zero if by else dy)

    return call.tape.record(
        builder.where(condition.value, yes.value, no.value),
        {
            yes: lambda dy: builder.sum_to(chosen(dy, by=True), yes.value.shape),
            no: lambda dy: builder.sum_to(chosen(dy, by=False), no.value.shape),
        },
    )


@rule("aten.masked_fill.Scalar")
def masked_fill(call: Call, x: Var, mask: Var, number: float) -> Var:
    """The number where mask, else x."""
    builder = call.builder
    filled = builder.where(mask.value, _number(call, number, x.value), x.value)
    zero = builder.constant(0.0)
    return call.tape.record(
        filled,
        {x: lambda dy: builder.sum_to(builder.where(mask.value, zero, dy), x.value.shape)},
    )


@rule(
    "aten.to.dtype", "aten.to.dtype_layout", "aten.to.device", "aten._to_copy.default",
    "aten.type_as.default", "aten.to.other",
)  # fmt: skip
def to(call: Call, x: Var, *_: object, **__: object) -> Var:
    """Another element type; device and memory layout mean nothing here."""
    value = call.builder.cast(x.value, call.dtype)
    if value is x.value:
        return x
    return call.tape.record(value)


@rule(
    "aten.dropout.default", "aten.feature_dropout.default", "aten.native_dropout.default"
)  # fmt: skip
def dropout(call: Call, x: Var, probability: float, train: bool) -> Var:
    """Nothing, where it is switched off."""
    if train and probability:
        raise call.refuse(
            "dropout is switched on, so the step would be random",
            "put the module into eval mode in its family's file",
        )
    return x


@rule("aten.contiguous.default", "aten.clone.default", "aten.detach.default", "aten.alias.default",
      "aten.lift_fresh_copy.default", "aten.detach_.default")  # fmt: skip
def same(call: Call, x: Var, **_: object) -> Var:
    """The same numbers."""
    del call
    return x
