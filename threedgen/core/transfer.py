"""Numbers between the CPU and a GPU, such that neither waits for the other more often than it must."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Number = float | Tensor
"""A number to log: a tensor of one element stays on its device until all numbers of a step are read."""


def sent(tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor on another device (and in another type, if given), in the order of the device's own work.

    A plain copy from the CPU to CUDA makes the CPU wait until all that was asked of the GPU before is done; one from
    pinned memory does not.
    """
    device = torch.device(device)
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.to(dtype=dtype).pin_memory().to(device, non_blocking=True)
    return tensor.to(device=device, dtype=dtype)


def sent_as(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor on the device and in the type of `like`, as by `sent`."""
    return sent(tensor, like.device, like.dtype)


def read_numbers(numbers: Mapping[str, Number]) -> dict[str, float]:
    """The numbers as Python's; all of those on one device are read at once."""
    held = {name: value.detach().reshape(()) for name, value in numbers.items() if isinstance(value, Tensor)}
    read: dict[str, float] = {}
    for device in {value.device for value in held.values()}:
        own = {name: value for name, value in held.items() if value.device == device}
        exact = torch.float32 if device.type == "mps" else torch.float64
        values = torch.stack([value.to(exact) for value in own.values()]).tolist()
        read.update(zip(own, values, strict=True))
    return {name: read[name] if name in read else float(value) for name, value in numbers.items()}
