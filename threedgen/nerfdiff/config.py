"""Settings of the training of a NerfDiff."""

from __future__ import annotations

from dataclasses import dataclass

from threedgen.training.config import TrainingConfig


@dataclass(frozen=True)
class NerfDiffTrainingConfig(TrainingConfig):
    """Both networks of NerfDiff.

    Attributes:
        stride (pixels): The NeRF is compared with every stride-th pixel of each row and column, starting at
            a random one.
        denoised: Number of objects of a batch that the denoiser is trained on; only these are rendered whole.
        denoising: Weight lambda of the loss of the denoiser; 0 trains the single-image NeRF alone.
        coupled: 1 lets the loss of the denoiser reach the NeRF as well, 0 does not.
    """

    steps: int = 6000
    batch: int = 16
    learning_rate: float = 1e-3
    decay: float = 0.5
    stride: int = 2
    denoised: int = 8
    denoising: float = 1.0
    coupled: int = 0
