"""The moments of an optimizer as named tensors, in the form that a checkpoint holds."""

from __future__ import annotations

import torch
from torch import Tensor


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments by "INDEX.NAME", where INDEX counts the parameters through all groups."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def restore(optimizer: torch.optim.Optimizer, values: dict[str, Tensor]) -> None:
    """Restores moments that `moments` returned. Learning rates and other settings of the optimizer stay as they
    are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in values.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:  # a fused optimizer needs the memory layout of the parameter
            value = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
        states.setdefault(int(index), {})[key] = value
    document = optimizer.state_dict()
    optimizer.load_state_dict({"state": states, "param_groups": document["param_groups"]})
