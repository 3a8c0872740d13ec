"""Settings of the training of a diffusion model of scenes; each is an option of its command."""

from __future__ import annotations

from typing import Annotated

from threedgen.core.settings import at_least, between, settings
from threedgen.training.config import RingBankConfig


@settings
class SceneTrainingConfig(RingBankConfig):
    """A diffusion model of scenes.

    Attributes:
        ema: Decay of the exponential moving average of the weights, which is what is saved.
        rays: Number of pixels of each view that are compared in a step.
        context_dropout: Share of the examples whose context picture is withheld, for guidance.
        self_share: Share of the examples that are given the estimate of a first pass.
        novel_weight: Weight of the error from a camera that sees neither of the two pictures.
        context_weight: Weight of the error of the target as the context alone shows it.
        side_weight: Weight of the term that teaches from which side of the object a picture was taken.
    """

    steps: Annotated[int, at_least(1)] = 20000
    batch: Annotated[int, at_least(1)] = 32
    learning_rate: Annotated[float, at_least(0.0)] = 1e-3
    decay: Annotated[float, between(0.0, 1.0)] = 0.5
    ema: Annotated[float, between(0.0, 1.0)] = 0.995
    rays: Annotated[int, at_least(1)] = 64
    context_dropout: Annotated[float, between(0.0, 1.0)] = 0.1
    self_share: Annotated[float, between(0.0, 1.0)] = 0.5
    novel_weight: Annotated[float, at_least(0.0)] = 1.0
    context_weight: Annotated[float, at_least(0.0)] = 0.5
    side_weight: Annotated[float, at_least(0.0)] = 0.01
