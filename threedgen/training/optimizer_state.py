"""An optimizer's moments as named tensors, which is how a checkpoint holds them."""

from __future__ import annotations

import torch
from torch import Tensor


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """As "INDEX.NAME", INDEX counting the parameters through the groups."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def restore(optimizer: torch.optim.Optimizer, values: dict[str, Tensor]) -> None:
    """Puts back what `moments` gave; learning rates and other settings stay the optimizer's own."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in values.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:  # a fused optimizer takes them in the order of memory
            value = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
        states.setdefault(int(index), {})[key] = value
    document = optimizer.state_dict()
    optimizer.load_state_dict({"state": states, "param_groups": document["param_groups"]})
