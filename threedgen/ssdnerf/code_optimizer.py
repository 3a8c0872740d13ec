"""Adam on the codes of one batch of objects: the moments come from the bank and go back to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.ssdnerf.code_bank import Records


class CodeOptimizer:
    """torch's Adam over one parameter for each object, which has its own moments and count of steps (SSDNeRF, Chen,
    Gu et al. 2023, algorithm 1 and its code)."""

    def __init__(self, codes: Sequence[nn.Parameter], records: Records, learning_rate: float) -> None:
        self._codes = list(codes)
        self._adam = torch.optim.Adam(self._codes, learning_rate, fused=True)
        for index, code in enumerate(self._codes):
            self._adam.state[code] = {
                "step": records.step[index].to(code.device, torch.float32),
                "exp_avg": records.first[index].to(code.device, copy=True),
                "exp_avg_sq": records.second[index].to(code.device, copy=True),
            }

    def step(self) -> None:
        """Takes one step of Adam along the gradients of the codes."""
        self._adam.step()

    def records(self, density: Float[Tensor, "B G G G"]) -> Records:
        """The records that the bank keeps. density: the running maxima of the occupancy grids."""
        states = [self._adam.state[code] for code in self._codes]
        return Records(
            code=torch.stack([code.detach() for code in self._codes]).cpu(),
            first=torch.stack([state["exp_avg"] for state in states]).cpu(),
            second=torch.stack([state["exp_avg_sq"] for state in states]).cpu(),
            step=torch.stack([state["step"] for state in states]).round().long().cpu(),
            density=density,
        )
