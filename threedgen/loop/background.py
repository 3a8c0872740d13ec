"""What stands behind the object while it is optimised: plain and random colours in turn.

On one constant background an object can hide by melting into it (METHODS 1.1, pitfalls).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.random import generator


class Background:
    """One colour a step: `color`, or a uniformly random one on a share of the steps."""

    @dataclass(frozen=True)
    class Config:
        """color: RGB in [0, 1] of the plain background. random: share of steps that get a random one."""

        color: tuple[float, float, float] = (1.0, 1.0, 1.0)
        random: float = 0.5

    def __init__(self, config: Config) -> None:
        if not 0.0 <= config.random <= 1.0:
            raise UserError(f"background.random is a share between 0 and 1, got {config.random}")
        if not all(0.0 <= channel <= 1.0 for channel in config.color):
            raise UserError(f"background.color is RGB between 0 and 1, got {list(config.color)}")
        self.color = torch.tensor(config.color)
        self.share = config.random

    def __call__(self, seed: int, step: int) -> Float[Tensor, " 3"]:
        """The colour of one step; a function of its arguments alone."""
        rng = generator(seed, "background", step)
        chance, *color = torch.rand(4, generator=rng).tolist()
        return torch.tensor(color) if chance < self.share else self.color.clone()
