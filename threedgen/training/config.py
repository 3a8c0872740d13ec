"""Settings of the trainings of small diffusion models; each is an option of its command."""

from __future__ import annotations

from typing import Annotated, Literal

from threedgen.core.settings import at_least, between, settings


@settings
class TrainingConfig:
    """What every such training has.

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

    steps: Annotated[int, at_least(1)] = 14000
    batch: Annotated[int, at_least(1)] = 16
    learning_rate: Annotated[float, at_least(0.0)] = 1.2e-3
    warmup: Annotated[int, at_least(1)] = 200
    decay: Annotated[float, between(0.0, 1.0)] = 0.4
    weight_decay: Annotated[float, at_least(0.0)] = 1e-3
    ema: Annotated[float, between(0.0, 1.0)] = 0.999
    seed: int = 0
    precision: Literal["bf16", "fp32"] = "bf16"
    device: str = "cpu"


@settings
class CaptionTrainingConfig(TrainingConfig):
    """A model that is given captions and cameras.

    Attributes:
        text_dropout: Share of the examples whose prompt is withheld, for guidance.
        view_dropout: Share of the examples whose camera is withheld, for guidance.
    """

    text_dropout: Annotated[float, between(0.0, 1.0)] = 0.1
    view_dropout: Annotated[float, between(0.0, 1.0)] = 0.1


@settings
class PriorTrainingConfig(CaptionTrainingConfig):
    """The text prior.

    Attributes:
        bank_views: Number of pictures that are rendered before the training.
        pair_share: Share of the scenes that show two objects.
    """

    bank_views: Annotated[int, at_least(1)] = 24000
    pair_share: Annotated[float, between(0.0, 1.0)] = 0.2


@settings
class SceneBankConfig(TrainingConfig):
    """A model that learns from views of scenes.

    Attributes:
        object_scenes: Number of times that each object of the catalogue is rendered before the training, from eight
            sides in other colours and light.
        class_scenes: Number of random things that are rendered for each word with procedural classes.
        assemblies: Number of random assemblies of solids that are rendered.
        shapes: Number of scenes of the shape world that are rendered.
    """

    object_scenes: Annotated[int, at_least(0)] = 3
    class_scenes: Annotated[int, at_least(0)] = 20
    assemblies: Annotated[int, at_least(0)] = 3000
    shapes: Annotated[int, at_least(0)] = 400


@settings
class ViewBankConfig(SceneBankConfig):
    """A model that is given a picture of an object.

    Attributes:
        picture_dropout: Share of the examples whose picture is withheld, for guidance.
    """

    picture_dropout: Annotated[float, between(0.0, 1.0)] = 0.1


@settings
class RingBankConfig(SceneBankConfig):
    """A model of several views at once, whose scenes have twice as many views."""

    object_scenes: Annotated[int, at_least(0)] = 7
    class_scenes: Annotated[int, at_least(0)] = 12
    assemblies: Annotated[int, at_least(0)] = 1500
    shapes: Annotated[int, at_least(0)] = 100


@settings
class ViewTrainingConfig(ViewBankConfig):
    """The view prior that is a denoiser of views."""

    steps: Annotated[int, at_least(1)] = 10000
    batch: Annotated[int, at_least(1)] = 32
    learning_rate: Annotated[float, at_least(0.0)] = 1e-3
    decay: Annotated[float, between(0.0, 1.0)] = 0.5


@settings
class MultiViewTrainingConfig(RingBankConfig):
    """The multi-view prior.

    Attributes:
        shows: What it draws, colors or normals.
        picture_dropout: Share of the examples whose picture is withheld, for guidance.
        text_dropout: Share of the examples whose caption is withheld.
        every_six: Every so many steps, groups have six views, of which there are fewer; in the others they have
            four.
        every_orbit: Every so many steps, groups have twelve views, of which there are a third.
    """

    steps: Annotated[int, at_least(1)] = 20000
    batch: Annotated[int, at_least(1)] = 8
    learning_rate: Annotated[float, at_least(0.0)] = 1e-3
    decay: Annotated[float, between(0.0, 1.0)] = 0.5
    shows: Literal["colors", "normals"] = "colors"
    picture_dropout: Annotated[float, between(0.0, 1.0)] = 0.2
    text_dropout: Annotated[float, between(0.0, 1.0)] = 0.4
    every_six: Annotated[int, at_least(1)] = 6
    every_orbit: Annotated[int, at_least(1)] = 8


@settings
class PictureFieldTrainingConfig(RingBankConfig):
    """The view prior that is a field.

    Attributes:
        picture_dropout: Share of the examples whose picture is withheld.
        seen_dropout: Share of the features of a picture that are withheld in a step. Without that the field learns
            the objects by heart, and errs more on others.
        views: Number of views of the object of each picture in a step.
        rays: Number of pixels of each view that are compared in a step.
        side_weight: Weight of the term that teaches from which side of the object a picture was taken.
    """

    steps: Annotated[int, at_least(1)] = 20000
    batch: Annotated[int, at_least(1)] = 32
    learning_rate: Annotated[float, at_least(0.0)] = 1e-3
    decay: Annotated[float, between(0.0, 1.0)] = 0.5
    weight_decay: Annotated[float, at_least(0.0)] = 1e-3
    side_weight: Annotated[float, at_least(0.0)] = 0.01
    picture_dropout: Annotated[float, between(0.0, 1.0)] = 0.02
    seen_dropout: Annotated[float, between(0.0, 0.9)] = 0.3
    views: Annotated[int, between(1, 7)] = 2
    rays: Annotated[int, at_least(1)] = 64


@settings
class VideoTrainingConfig(CaptionTrainingConfig):
    """The video prior.

    Attributes:
        bank_views: Number of clips that are rendered before the training.
    """

    steps: Annotated[int, at_least(1)] = 9000
    batch: Annotated[int, at_least(1)] = 32
    learning_rate: Annotated[float, at_least(0.0)] = 1.2e-3
    decay: Annotated[float, between(0.0, 1.0)] = 0.5
    bank_views: Annotated[int, at_least(1)] = 10000


@settings
class FieldTrainingConfig(TrainingConfig):
    """The field of the text prior.

    Attributes:
        rays: Number of pixels of each picture that are compared in a step.
        text_dropout: Share of the examples whose prompt is withheld, which teaches the mean of everything.
        code_dropout: Share of the other examples that say what is shown but not which one of that name, which
            teaches the mean of each word.
        class_things: Number of things of each procedural class that are rendered before the training.
        object_views: Number of pictures of each object of the catalogue that are rendered before the training.
    """

    steps: Annotated[int, at_least(1)] = 20000
    batch: Annotated[int, at_least(1)] = 32
    learning_rate: Annotated[float, at_least(0.0)] = 2e-3
    decay: Annotated[float, between(0.0, 1.0)] = 0.5
    weight_decay: Annotated[float, at_least(0.0)] = 0.0
    rays: Annotated[int, at_least(1)] = 256
    text_dropout: Annotated[float, between(0.0, 1.0)] = 0.05
    code_dropout: Annotated[float, between(0.0, 1.0)] = 0.1
    class_things: Annotated[int, at_least(1)] = 20
    object_views: Annotated[int, at_least(1)] = 24
