"""Values in the translation of a network to OpenVINO, and the operations of torch that only arrange them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as op

Value = Any
"""A tensor of torch if it does not depend on the inputs of the network, else an output of OpenVINO's graph."""

_TYPES = {
    torch.float32: ov.Type.f32,
    torch.bfloat16: ov.Type.bf16,
    torch.float16: ov.Type.f16,
    torch.int64: ov.Type.i64,
    torch.int32: ov.Type.i32,
    torch.bool: ov.Type.boolean,
}
_LAST = 2**31 - 1  # of a slice: torch writes 2^63 - 1 for "to the end"


class Unsupported(Exception):
    """A network has an operation, or a form of it, that the table lacks."""


def type_of(dtype: torch.dtype) -> ov.Type:
    """The element type of OpenVINO for one of torch. Raises Unsupported."""
    if dtype not in _TYPES:
        raise Unsupported(str(dtype))
    return _TYPES[dtype]


def constant(value: Any, like: ov.Output | None = None) -> ov.Output:
    """A constant of a tensor or number. like: a number takes the element type of this value."""
    if isinstance(value, torch.Tensor):
        if value.dtype == torch.bfloat16:
            value = value.float()  # exact, and numpy has no bfloat16
        return op.constant(value.detach().contiguous().numpy()).output(0)
    assert like is not None
    return op.constant(value, dtype=like.get_element_type()).output(0)


def node(value: Value, like: ov.Output | None = None) -> ov.Output:
    """A value of either kind, or a number, as an output of the graph."""
    return value if isinstance(value, ov.Output) else constant(value, like)


def shape(value: Value) -> list[int]:
    return [int(size) for size in value.shape]


def integers(values: Sequence[int] | int) -> ov.Output:
    return op.constant(np.asarray(values, dtype=np.int64)).output(0)


def axis(value: Value, dim: int) -> int:
    return dim % len(shape(value))


def output(result: Any) -> ov.Output:
    return result.output(0)


def convert(x: Value, dtype: torch.dtype) -> Value:
    wanted = type_of(dtype)
    return x if x.get_element_type() == wanted else output(op.convert(x, wanted))


def to_layout(x: Value, dtype: torch.dtype | None = None, **_: Any) -> Value:
    return x if dtype is None else convert(x, dtype)


def reshape(x: Value, sizes: Sequence[int]) -> Value:
    return output(op.reshape(x, integers(list(sizes)), special_zero=False))


def permute(x: Value, order: Sequence[int]) -> Value:
    return output(op.transpose(x, integers([dim % len(order) for dim in order])))


def transpose(x: Value, first: int, second: int) -> Value:
    order = list(range(len(shape(x))))
    first, second = axis(x, first), axis(x, second)
    order[first], order[second] = order[second], order[first]
    return permute(x, order)


def flatten(x: Value, start: int = 0, end: int = -1) -> Value:
    sizes, start, end = shape(x), axis(x, start), axis(x, end)
    return reshape(x, [*sizes[:start], math.prod(sizes[start : end + 1]), *sizes[end + 1 :]])


def unflatten(x: Value, dim: int, sizes: Sequence[int]) -> Value:
    old, dim = shape(x), axis(x, dim)
    known = -math.prod(sizes)
    inner = [old[dim] // known if size == -1 else size for size in sizes]
    return reshape(x, [*old[:dim], *inner, *old[dim + 1 :]])


def unsqueeze(x: Value, dim: int) -> Value:
    return output(op.unsqueeze(x, integers(dim % (len(shape(x)) + 1))))


def expand(x: Value, sizes: Sequence[int], implicit: bool = False) -> Value:
    old = shape(x)
    old = [1] * (len(sizes) - len(old)) + old
    target = [own if size == -1 else size for own, size in zip(old, sizes, strict=True)]
    return x if target == shape(x) else output(op.broadcast(x, integers(target)))


def tile(x: Value, times: Sequence[int]) -> Value:
    return output(op.tile(x, integers(list(times))))


def repeat_interleave(x: Value, times: int, dim: int | None = None, output_size: int | None = None) -> Value:
    if dim is None:
        x, dim = reshape(x, [-1]), 0
    sizes, dim = shape(x), axis(x, dim)
    wide = [*sizes[: dim + 1], times, *sizes[dim + 1 :]]
    return reshape(expand(unsqueeze(x, dim + 1), wide), [*sizes[:dim], sizes[dim] * times, *sizes[dim + 1 :]])


def part(x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Value:
    dim = axis(x, dim)
    size, first = shape(x)[dim], start or 0
    last = min(size if end is None else end, _LAST)
    if first in (0, -size) and last >= size and step == 1:
        return x
    bounds = (integers([bound]) for bound in (first, last, step, dim))
    return output(op.slice(x, *bounds))


def slice_scatter(
    x: Value, source: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    """x with a part of it replaced by `source`."""
    size, dim = shape(x)[axis(x, dim)], axis(x, dim)
    places = range(size)[slice(start, end, step)]
    order = list(range(size))
    for number, place in enumerate(places):
        order[place] = size + number
    return output(op.gather(concatenate([x, source], dim), integers(order), integers(dim)))


def select(x: Value, dim: int, index: int) -> Value:
    return output(op.gather(x, integers(index), integers(axis(x, dim))))


def split(x: Value, sizes: Sequence[int], dim: int = 0) -> list[Value]:
    return list(op.variadic_split(x, integers(axis(x, dim)), integers(list(sizes))).outputs())


def chunk(x: Value, count: int, dim: int = 0) -> list[Value]:
    return split_evenly(x, -(-shape(x)[axis(x, dim)] // count), dim)


def split_evenly(x: Value, each: int, dim: int = 0) -> list[Value]:
    size = shape(x)[axis(x, dim)]
    return split(x, [min(each, size - begin) for begin in range(0, size, each)], dim)


def unbind(x: Value, dim: int = 0) -> list[Value]:
    return [select(x, dim, index) for index in range(shape(x)[axis(x, dim)])]


def concatenate(parts: Sequence[Value], dim: int = 0) -> Value:
    given = [node(part) for part in parts]
    kind = next((x.get_element_type() for x in given if x.get_element_type().is_real()), None)
    given = [x if kind in (None, x.get_element_type()) else output(op.convert(x, kind)) for x in given]
    return given[0] if len(given) == 1 else output(op.concat(given, axis(given[0], dim)))


def stack(parts: Sequence[Value], dim: int = 0) -> Value:
    rank = len(shape(parts[0])) + 1
    return concatenate([unsqueeze(node(part), dim % rank) for part in parts], dim % rank)


def unchanged(x: Value, *_: Any, **__: Any) -> Value:
    """What changes the layout in memory only, or nothing in a frozen network."""
    return x
