"""Settings of the trainings of small diffusion models; each is an option of its command."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingConfig:
    """What every such training is told.

    Attributes:
        steps: Number of steps of the whole training.
        batch: Number of pictures or clips in a step.
        learning_rate: Learning rate of Adam between the warm-up and the decay.
        warmup (steps): Length of the linear rise of the learning rate at the start.
        decay: Share of the training, at its end, over which the learning rate falls to zero.
        weight_decay: Decoupled weight decay of AdamW.
        ema: Decay of the exponential moving average of the weights, which is what is saved.
        seed: Seed of every random draw.
        precision: bf16 runs the networks in bfloat16 autocast while the weights stay float32; fp32 does not.
        device: Where to compute: auto takes the GPU if there is one.
    """

    steps: int = 14000
    batch: int = 16
    learning_rate: float = 1.2e-3
    warmup: int = 200
    decay: float = 0.4
    weight_decay: float = 1e-3
    ema: float = 0.999
    seed: int = 0
    precision: str = "bf16"
    device: str = "cpu"


@dataclass(frozen=True)
class CaptionTrainingConfig(TrainingConfig):
    """A model that is told captions and cameras.

    Attributes:
        text_dropout: Share of the examples whose prompt is withheld, for guidance.
        view_dropout: Share of the examples whose camera is withheld, for guidance.
    """

    text_dropout: float = 0.1
    view_dropout: float = 0.1


@dataclass(frozen=True)
class PriorTrainingConfig(CaptionTrainingConfig):
    """The text prior.

    Attributes:
        bank_views: Number of pictures that are rendered before the training.
        pair_share: Share of the scenes that show two objects.
    """

    bank_views: int = 24000
    pair_share: float = 0.2


@dataclass(frozen=True)
class ViewTrainingConfig(TrainingConfig):
    """The view prior.

    Attributes:
        picture_dropout: Share of the examples whose picture is withheld, for guidance.
        bank_views: Number of pictures that are rendered before the training.
    """

    steps: int = 10000
    batch: int = 32
    learning_rate: float = 1e-3
    decay: float = 0.5
    picture_dropout: float = 0.12
    bank_views: int = 64000


@dataclass(frozen=True)
class VideoTrainingConfig(CaptionTrainingConfig):
    """The video prior.

    Attributes:
        bank_views: Number of clips that are rendered before the training.
    """

    steps: int = 9000
    batch: int = 32
    learning_rate: float = 1.2e-3
    decay: float = 0.5
    bank_views: int = 10000
