"""Numbers between the CPU and a GPU, such that neither waits for the other more often than it must."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

Number = float | Tensor
"""A number to log: a tensor of one element stays on its device until all numbers of a step are read."""

_ON_CPU: Any = WeakTensorKeyDictionary()  # tensor on a device -> (its version, the same numbers on the CPU)


def sent(tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor on another device (and in another type, if given), in the order of the device's own work.

    A plain copy from the CPU to CUDA makes the CPU wait until all that was asked of the GPU before is done; one
    from pinned memory does not. `on_cpu` knows what was sent, without asking the device.
    """
    device = torch.device(device)
    if tensor.device.type != "cpu" or device.type == "cpu":
        return tensor.to(device=device, dtype=dtype)
    tensor = tensor.to(dtype=dtype)
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    there = pinned.to(device, non_blocking=True)
    _remember(there, tensor.detach())
    return there


def sent_as(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor on the device and in the type of `like`, as by `sent`."""
    return sent(tensor, like.device, like.dtype)


def constant(values: Sequence[Any], like: Tensor) -> Tensor:
    """The numbers in the type and on the device of `like`, as by `sent`."""
    return sent(torch.tensor(values, dtype=like.dtype), like.device)


def on_cpu(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, without a gradient. From another device it is read once, until it is changed in place.

    It is meant for the few numbers on which the course of the program depends: cameras, bounds, switches.
    """
    if tensor.device.type == "cpu" or tensor.is_inference():
        return tensor.detach().cpu()
    version, known = _ON_CPU.get(tensor, (-1, None))
    if known is None or version != tensor._version:
        known = tensor.detach().cpu()
        _remember(tensor, known)
    return known


def write(there: Tensor, numbers: Tensor) -> None:
    """Writes numbers on the CPU into a tensor of the same shape on any device, as by `sent`."""
    there.copy_(sent(numbers, there.device, there.dtype))
    if there.device.type != "cpu":
        _remember(there, numbers)


def rows(tensor: Tensor, index: slice | Tensor) -> Tensor:
    """tensor[index], for an index on any device; of rows of what was sent, `on_cpu` knows the numbers."""
    if tensor.device.type == "cpu":
        return tensor[on_cpu(index) if isinstance(index, Tensor) else index]
    chosen = tensor[sent(index, tensor.device) if isinstance(index, Tensor) else index]
    version, known = _ON_CPU.get(tensor, (-1, None))
    if known is not None and version == tensor._version:
        _remember(chosen, rows(known, index))
    return chosen


def among(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], items: Tensor, chosen: Tensor
) -> tuple[Tensor, Tensor]:
    """The two results of `function` for each item [N, ...], and zeros for the items that are not chosen [N].

    On the CPU only the chosen items are computed. A GPU, which would be asked how many there are, computes all.
    """
    if items.device.type == "cpu":
        index = chosen.nonzero().squeeze(1)
        one, two = function(items[index])
        return _spread(one, index, len(items)), _spread(two, index, len(items))
    one, two = function(items)
    return _only(chosen, one), _only(chosen, two)


def _spread(found: Tensor, index: Tensor, count: int) -> Tensor:
    return found.new_zeros(count, *found.shape[1:]).index_put((index,), found)


def _only(chosen: Tensor, found: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, *(1,) * (found.ndim - 1)), found, 0.0)


def _remember(there: Tensor, here: Tensor) -> None:
    if not there.is_inference():  # such a tensor does not tell whether it was changed
        _ON_CPU[there] = (there._version, here)


def read_numbers(numbers: Mapping[str, Number]) -> dict[str, float]:
    """The numbers as Python's; all of those on one device are read at once."""
    held = {name: exact(value).reshape(()) for name, value in numbers.items() if isinstance(value, Tensor)}
    read: dict[str, float] = {}
    for device in {value.device for value in held.values()}:
        own = {name: value for name, value in held.items() if value.device == device}
        read.update(zip(own, torch.stack(list(own.values())).tolist(), strict=True))
    return {name: read[name] if name in read else float(value) for name, value in numbers.items()}


def exact(tensor: Tensor) -> Tensor:
    """The numbers in float64, which Python has, or in float32 on a device without it; without a gradient."""
    return tensor.detach().to(torch.float32 if tensor.device.type == "mps" else torch.float64)
