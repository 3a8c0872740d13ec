"""Settings of the training of a NerfDiff."""

from __future__ import annotations

from typing import Annotated

from threedgen.core.settings import at_least, between, settings
from threedgen.training.config import TrainingConfig


@settings
class NerfDiffTrainingConfig(TrainingConfig):
    """The two networks of NerfDiff, which are trained together.

    Attributes:
        stride (pixels): The NeRF is compared with every stride-th pixel of each row and column, starting at
            a random one.
        denoised: Number of objects of a batch that the denoiser is trained on; only these are rendered whole.
        denoising: Weight lambda of the loss of the denoiser; 0 trains the single-image NeRF alone.
        coupled: 1 lets the loss of the denoiser reach the NeRF as well, 0 does not.
    """

    steps: Annotated[int, at_least(1)] = 6000
    batch: Annotated[int, at_least(1)] = 16
    learning_rate: Annotated[float, at_least(0.0)] = 1e-3
    decay: Annotated[float, between(0.0, 1.0)] = 0.5
    stride: Annotated[int, at_least(1)] = 2
    denoised: Annotated[int, at_least(0)] = 8
    denoising: Annotated[float, at_least(0.0)] = 1.0
    coupled: Annotated[int, between(0, 1)] = 0
