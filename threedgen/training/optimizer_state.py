"""The moments of an optimizer as named tensors, in the form that a checkpoint holds."""

from __future__ import annotations

import torch
from torch import Tensor

from threedgen.core.checkpoint import MOMENTS, check_moments
from threedgen.core.errors import UserError


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments by "INDEX.NAME", where INDEX counts the parameters through all groups."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def restore(optimizer: torch.optim.Optimizer, values: dict[str, Tensor]) -> None:
    """Restores moments that `moments` returned. Learning rates and other settings of the optimizer stay as they
    are. Raises UserError if they do not fit its parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    places = {str(index): parameter for index, parameter in enumerate(parameters)}
    saved: dict[str, dict[str, Tensor]] = {}
    for name, value in values.items():
        index, _, key = name.partition(".")
        saved.setdefault(index, {})[key] = value
    states: dict[int, dict[str, Tensor]] = {}
    for index, state in saved.items():
        if index not in places:
            raise UserError(f"optimizer state of {index} does not fit: there is no such parameter")
        check_moments(state, places[index], index)
        # A fused optimizer needs the memory layout of the parameter.
        laid = {
            key: torch.empty_like(places[index], dtype=state[key].dtype, requires_grad=False).copy_(
                state[key]
            )
            for key in MOMENTS
        }
        states[int(index)] = {**state, **laid}
    document = optimizer.state_dict()
    optimizer.load_state_dict({"state": states, "param_groups": document["param_groups"]})
