"""The colour behind the object while it is optimised: plain and random colours in turn.

On one constant background an object can hide by taking its colour (docs/methods.md, "Backgrounds").
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.random import generator
from threedgen.core.settings import between, settings


class ColorBackground:
    """One colour in each step: a plain one, or a uniformly random one on a share of the steps."""

    @settings
    class Config:
        """The colours behind the object during the optimisation.

        Attributes:
            color: The plain background, RGB in [0, 1].
            random: Share of the steps that have a random colour instead.
        """

        color: Annotated[tuple[float, float, float], between(0.0, 1.0)] = (1.0, 1.0, 1.0)
        random: Annotated[float, between(0.0, 1.0)] = 0.5

    def __init__(self, config: Config) -> None:
        self.color = torch.tensor(config.color)
        self.share = config.random

    def __call__(self, seed: int, step: int) -> Float[Tensor, " 3"]:
        """The colour of one step: a function of the arguments alone."""
        rng = generator(seed, "background", step)
        chance, *color = torch.rand(4, generator=rng).tolist()
        return torch.tensor(color) if chance < self.share else self.color.clone()
