"""Convolutions with frozen weights: patch embeddings of image models."""

from __future__ import annotations

from collections.abc import Sequence

from ravan_export.graph import Value, Var
from ravan_export.graph.value import Dim
from ravan_export.rules.registry import Call, rule

__all__: list[str] = []


def _each(sizes: int | Sequence[int], axes: int) -> list[int]:
    """One number for each axis; torch takes a single one for all."""
    listed = [sizes] if isinstance(sizes, int) else list(sizes)
    return listed * axes if len(listed) == 1 else listed


@rule("aten.conv1d.default", "aten.conv2d.default")
def conv(
    call: Call,
    x: Var,
    weight: Var,
    bias: Var | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Var:
    """y = x * W + b; dx is the transposed convolution of dy with the same W, as it lies in the base.

    W [outputs, inputs / groups, ...] and b are frozen, so neither has a gradient here.
    """
    if weight.needs_grad or (bias is not None and bias.needs_grad):
        raise call.refuse(
            "a trained convolution", "only adapted linear layers and the task head train"
        )
    builder, shape = call.builder, x.value.shape
    axes = len(shape) - 2
    strides, pads = _each(stride, axes), _each(padding, axes)
    dilations = _each(dilation, axes)
    both = [*pads, *pads]
    names = [builder.name(x.value), builder.name(weight.value)]
    if bias is not None:
        names.append(builder.name(bias.value))
    y = builder.op(
        "Conv", names, call.shape, strides=strides, pads=both, dilations=dilations, group=groups
    )

    def d_x(dy: Value) -> Value:
        kernel = weight.value.shape[2:]
        # Rows at the end that no window reached: they have a gradient of 0.
        left = [
            _beyond(call, *sizes)
            for sizes in zip(shape[2:], kernel, strides, pads, dilations, strict=True)
        ]
        dx = builder.op(
            "ConvTranspose",
            [builder.as_plain(dy).name, builder.name(weight.value)],
            shape,
            output_padding=left,
            strides=strides,
            pads=both,
            dilations=dilations,
            group=groups,
        )
        return dx.times(dy.scale)

    return call.tape.record(y, {x: d_x})


@rule("aten.convolution.default")
def convolution(
    call: Call,
    x: Var,
    weight: Var,
    bias: Var | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Var:
    """The same under torch's general name."""
    if transposed or any(output_padding):
        raise call.refuse("a transposed convolution", "this needs a rule in rules/convolve.py")
    return conv(call, x, weight, bias, stride, padding, dilation, groups)


def _beyond(call: Call, size: Dim, kernel: Dim, stride: int, pad: int, dilation: int) -> int:
    """How many of an axis' last elements no window covers: the remainder of the division."""
    if stride == 1:
        return 0
    if not isinstance(size, int) or not isinstance(kernel, int):
        raise call.refuse(
            "a convolution with strides along a dynamic dimension of trained values",
            "fix the size of that dimension in the task's file",
        )
    return (size + 2 * pad - dilation * (kernel - 1) - 1) % stride
