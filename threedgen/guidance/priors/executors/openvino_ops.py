"""The operations of torch that networks of diffusers consist of, in terms of OpenVINO.

OpenVINO's own frontend for torch needs ten seconds for a small UNet, and its graph of one crashes the CPU plugin of
2026.4. This table is shorter than a workaround.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as op

from threedgen.guidance.priors.executors.openvino_values import (
    Unsupported,
    Value,
    axis,
    chunk,
    concatenate,
    constant,
    convert,
    expand,
    flatten,
    integers,
    node,
    output,
    part,
    permute,
    repeat_interleave,
    reshape,
    select,
    shape,
    slice_scatter,
    split,
    split_evenly,
    stack,
    tile,
    to_layout,
    transpose,
    unbind,
    unchanged,
    unflatten,
    unsqueeze,
)


def _pair(a: Value, b: Value) -> tuple[ov.Output, ov.Output]:
    """Two operands of the same type, as torch promotes them: a number never decides, and floats win."""
    first, second = (x if isinstance(x, ov.Output) else None for x in (a, b))
    given = first if first is not None else second
    assert given is not None
    kind = given.get_element_type()
    left, right = node(a, given), node(b, given)
    if left.get_element_type() != right.get_element_type():
        kind = next(
            (x.get_element_type() for x in (left, right) if x.get_element_type().is_real()), ov.Type.f32
        )
        left, right = (output(op.convert(x, kind)) for x in (left, right))
    elif kind.is_integral() and any(isinstance(x, float) for x in (a, b)):
        raise Unsupported("an integer tensor with a fraction")
    return left, right


def _add(a: Value, b: Value, alpha: float = 1) -> Value:
    return output(op.add(*_pair(a, b if alpha == 1 else _multiply(b, alpha))))


def _subtract(a: Value, b: Value, alpha: float = 1) -> Value:
    return output(op.subtract(*_pair(a, b if alpha == 1 else _multiply(b, alpha))))


def _multiply(a: Value, b: Value) -> Value:
    if not isinstance(a, ov.Output) and not isinstance(b, ov.Output):
        return a * b
    return output(op.multiply(*_pair(a, b)))


def _divide(a: Value, b: Value) -> Value:
    # By 1 is what most layers of diffusers divide their output by.
    return a if isinstance(b, int | float) and b == 1 else output(op.divide(*_pair(a, b)))


def _power(a: Value, b: Value) -> Value:
    return output(op.power(*_pair(a, b)))


def _linear(x: Value, weight: Value, bias: Value | None = None) -> Value:
    product = output(op.matmul(node(x), node(weight), transpose_a=False, transpose_b=True))
    return product if bias is None else _add(product, bias)


def _matmul(a: Value, b: Value) -> Value:
    return output(op.matmul(node(a), node(b), transpose_a=False, transpose_b=False))


def _einsum(equation: str, operands: Sequence[Value], path: Any = None) -> Value:
    return output(op.einsum([node(x) for x in operands], equation.replace(" ", "")))


def _outer(a: Value, b: Value) -> Value:
    return _multiply(unsqueeze(node(a), 1), unsqueeze(node(b), 0))


def _convolution(
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] | str = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Value:
    if isinstance(padding, str) or groups != 1:
        raise Unsupported("a convolution in groups, or with padding by name")
    rank = len(shape(x)) - 2
    strides, pads, dilations = (list(v) * (rank if len(v) == 1 else 1) for v in (stride, padding, dilation))
    result = output(op.convolution(x, node(weight), strides, pads, pads, dilations))
    return result if bias is None else _add(result, bias.reshape(1, -1, *(1,) * rank))


def _group_norm(
    x: Value,
    groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Value:
    """As a factor and an offset for each sample and channel.

    OpenVINO's own operation of that name crashes the CPU plugin of 2026.4 in these networks, and the usual form, a
    normalisation of reshaped tensors, changes the layout in memory twice: a tenth of the time of a small UNet.
    """
    samples, channels, *rest = shape(x)
    axes, area = integers(list(range(2, 2 + len(rest)))), math.prod(rest)
    share = torch.full((channels // groups, channels // groups), groups / channels)
    over_groups = constant(torch.block_diag(*[share] * groups))

    def mean(values: Value) -> Value:
        return _matmul(values, over_groups)

    centre = mean(output(op.reduce_mean(x, axes, keep_dims=False)))
    length = output(op.reduce_l2(x, axes, keep_dims=False))
    square = mean(_multiply(_multiply(length, length), 1.0 / area))
    variance = output(op.relu(_subtract(square, _multiply(centre, centre))))  # rounding may make it negative
    factor = _power(_add(variance, eps), -0.5)
    factor = factor if weight is None else _multiply(factor, weight)
    offset = output(op.negative(_multiply(centre, factor)))
    offset = offset if bias is None else _add(offset, bias)
    wide = [samples, channels, *(1,) * len(rest)]
    return _add(_multiply(x, reshape(factor, wide)), reshape(offset, wide))


def _layer_norm(
    x: Value,
    sizes: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Value:
    axes = integers(list(range(-len(sizes), 0)))
    result = output(op.mvn(x, axes, normalize_variance=True, eps=eps, eps_mode="INSIDE_SQRT"))
    result = result if weight is None else _multiply(result, weight)
    return result if bias is None else _add(result, bias)


def _rms_norm(x: Value, sizes: Sequence[int], weight: Value | None = None, eps: float | None = None) -> Value:
    axes = integers(list(range(-len(sizes), 0)))
    mean = output(op.reduce_mean(op.multiply(x, x), axes, keep_dims=True))
    root = op.sqrt(op.add(mean, constant(torch.finfo(torch.float32).eps if eps is None else eps, mean)))
    result = output(op.divide(x, root))
    return result if weight is None else _multiply(result, weight)


def _attention(
    query: Value,
    key: Value,
    value: Value,
    mask: Value | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    if enable_gqa:
        raise Unsupported("attention with grouped queries")
    query, key, value = (node(x) for x in (query, key, value))
    extra = [] if mask is None else [node(mask)]
    if scale is not None:
        extra = [*(extra or [constant(torch.zeros(1, 1))]), constant(scale, query)]
    return output(op.scaled_dot_product_attention(query, key, value, *extra, causal=causal))


def _softmax(x: Value, dim: int, dtype: torch.dtype | None = None) -> Value:
    return output(op.softmax(x if dtype is None else convert(x, dtype), axis(x, dim)))


def _mean(x: Value, dims: Sequence[int], keepdim: bool = False) -> Value:
    return output(op.reduce_mean(x, integers(list(dims)), keep_dims=keepdim))


def _gelu(x: Value, approximate: str = "none") -> Value:
    return output(op.gelu(x, approximation_mode="ERF" if approximate == "none" else "TANH"))


def _nearest(x: Value, size: Sequence[int] | None, factors: Sequence[float] | None) -> Value:
    sizes = shape(x)
    if size is None:
        assert factors is not None
        size = [int(old * factor) for old, factor in zip(sizes[2:], factors, strict=True)]
    axes = integers(list(range(2, len(sizes))))
    # The rule of torch's "nearest": the source of a pixel is its position times the ratio, rounded down.
    options = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return output(op.interpolate(x, integers(list(size)), "nearest", "sizes", axes=axes, **options))


def _where(condition: Value, a: Value, b: Value) -> Value:
    return output(op.select(node(condition), node(a), node(b)))


def _alone(function: Callable[[ov.Output], Any]) -> Callable[..., Value]:
    return lambda x: output(function(x))


def one_layer(properties: dict[str, Any]) -> None:
    """Compiles and computes a single layer, to see whether OpenVINO works on this machine."""
    x = op.parameter([1, 16], ov.Type.f32)
    model: Any = ov.Model
    compiled = ov.Core().compile_model(model([_linear(x.output(0), torch.eye(16))], [x]), "CPU", properties)
    given = np.ones((1, 16), np.float32)
    if not np.array_equal(compiled.create_infer_request().infer([given])[0], given):
        raise RuntimeError("a product with the identity is something else")


HEAVY = frozenset(
    f"aten.{name}"
    for name in (
        "linear.default",
        "matmul.default",
        "einsum.default",
        "conv1d.default",
        "conv2d.default",
        "conv3d.default",
        "scaled_dot_product_attention.default",
    )
)
"""The operations that take the time of a pass."""

TABLE: dict[str, Callable[..., Any]] = {
    "aten.add.Tensor": _add,
    "aten.sub.Tensor": _subtract,
    "aten.rsub.Scalar": lambda a, b: _subtract(b, a),
    "aten.mul.Tensor": _multiply,
    "aten.div.Tensor": _divide,
    "aten.pow.Scalar": _power,
    "aten.pow.Tensor_Scalar": _power,
    "aten.reciprocal.default": lambda x: _divide(1.0, x),
    "aten.neg.default": _alone(op.negative),
    "aten.exp.default": _alone(op.exp),
    "aten.sin.default": _alone(op.sin),
    "aten.cos.default": _alone(op.cos),
    "aten.sigmoid.default": _alone(op.sigmoid),
    "aten.tanh.default": _alone(op.tanh),
    "aten.relu.default": _alone(op.relu),
    "aten.silu.default": _alone(op.swish),
    "aten.gelu.default": _gelu,
    "aten.to.dtype": lambda x, dtype, *_: convert(x, dtype),
    "aten.to.dtype_layout": to_layout,
    "aten._to_copy.default": to_layout,
    "aten.type_as.default": lambda x, other: output(op.convert(node(x), node(other).get_element_type())),
    "aten.contiguous.default": unchanged,
    "aten.clone.default": unchanged,
    "aten.dropout.default": unchanged,
    "aten.view.default": reshape,
    "aten._unsafe_view.default": reshape,
    "aten.reshape.default": reshape,
    "aten.permute.default": permute,
    "aten.transpose.int": transpose,
    "aten.flatten.using_ints": flatten,
    "aten.unflatten.int": unflatten,
    "aten.unsqueeze.default": unsqueeze,
    "aten.expand.default": expand,
    "aten.broadcast_to.default": expand,
    "aten.repeat.default": tile,
    "aten.repeat_interleave.self_int": repeat_interleave,
    "aten.slice.Tensor": part,
    "aten.select.int": select,
    "aten.split_with_sizes.default": split,
    "aten.split.Tensor": split_evenly,
    "aten.chunk.default": chunk,
    "aten.unbind.int": unbind,
    "aten.cat.default": concatenate,
    "aten.concat.default": concatenate,
    "aten.stack.default": stack,
    "aten.linear.default": _linear,
    "aten.matmul.default": _matmul,
    "aten.einsum.default": _einsum,
    "aten.outer.default": _outer,
    "aten.conv1d.default": _convolution,
    "aten.conv2d.default": _convolution,
    "aten.conv3d.default": _convolution,
    "aten.group_norm.default": _group_norm,
    "aten.layer_norm.default": _layer_norm,
    "aten.rms_norm.default": _rms_norm,
    "aten.scaled_dot_product_attention.default": _attention,
    "aten.softmax.int": _softmax,
    "aten.mean.dim": _mean,
    "aten.upsample_nearest2d.vec": _nearest,
    "aten.upsample_nearest3d.vec": _nearest,
    "aten.where.self": _where,
    "aten.copy.default": lambda target, source, *_: source,  # the target is overwritten as a whole
    "aten.slice_scatter.default": slice_scatter,
}
