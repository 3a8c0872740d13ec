"""The settings of a training of codes, decoder and denoiser, and the recipes that hold them.

The defaults are those of SSDNeRF's cars (Chen, Gu et al. 2023, section 4, and its code).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from threedgen.core.schedule import Schedule
from threedgen.core.settings import SettingError, above, at_least, between, settings
from threedgen.ssdnerf.recipes import FOLDER

CIRCUMSTANCES = ("dataset", "objects", "size", "tolerant", "start_from")
"""What `training.yaml` holds besides the settings."""
SECTIONS = ("codes", "decoder", "diffusion", "rendering", "guiding", "finetuning")
"""The sections of the settings, which a trained model keeps. The other settings are of the training only."""


@settings
class Codes:
    """The code of an object: three planes of features.

    Attributes:
        channels: Number of features of a texel.
        resolution (texels): Width and height of a plane.
        initial: The first values of a code are drawn between minus and plus this number.
        learning_rate: Learning rate of Adam on the values c of a code before their activation 2 tanh(c).
        regularizer: Weight of the mean square of the activated values, which keeps them away from their bounds.
        smoothness: Weight of the mean squared difference of neighbouring texels. It is for codes that are trained
            without a prior.
    """

    channels: Annotated[int, at_least(1)] = 6
    resolution: Annotated[int, at_least(1)] = 128
    initial: Annotated[float, above(0.0)] = 1e-4
    learning_rate: Annotated[float, above(0.0)] = 5e-3
    regularizer: Annotated[float, at_least(0.0)] = 3e-3
    smoothness: Annotated[float, at_least(0.0)] = 0.0


@settings
class Decoder:
    """The network that all objects share: it turns the features of a point into density and colour.

    Attributes:
        hidden: Width of the hidden layer.
        directions: Whether colours depend on the direction of view.
        learning_rate: Learning rate of Adam.
    """

    hidden: Annotated[int, at_least(1)] = 64
    directions: bool = True
    learning_rate: Annotated[float, above(0.0)] = 1e-3


@settings
class Diffusion:
    """The denoiser of codes, which is the UNet of DDPM, and its loss.

    Attributes:
        widths: Number of channels of each level of the UNet, the finest level first. Each is a multiple of 8.
        attention: Whether each level attends to itself, the finest level first.
        layers: Number of residual blocks of a level.
        head: Number of channels of a head of attention.
        dropout: Share of the features that dropout withholds in residual blocks.
        fold (texels): Blocks of this width and height are stacked into channels before the UNet. The UNet becomes
            cheaper by the square of this number.
        schedule: Noise schedule: linear (DDPM) or cosine (Nichol and Dhariwal 2021).
        weight: Weight c_diff of the loss, relative to the mean square of the codes. 0 trains no denoiser.
        power: Exponent omega of the weight w(t) = (alpha / sigma)^(2 omega) of a noise level.
        momentum: Share of each new batch in the running mean square of the codes.
        learning_rate: Learning rate of Adam.
        captions: Whether the network is given the caption of the object.
        drop: Share of the captions that are withheld, so that guidance has an unconditional branch.
        centred: Whether the network sees codes without their running mean and at unit variance. Most of a code is
            what all objects have in common.
        places: Number of learnt maps that show the network where on a plane each texel is.
        kind: Order in which resolutions are denoised: plain (one resolution), stage-wise (f-DM, coarse codes
            first) or matryoshka (MDM, both resolutions together).
    """

    widths: Annotated[tuple[int, ...], at_least(8)] = (128, 256, 256, 512, 512)
    attention: tuple[bool, ...] = (False, False, True, True, True)
    layers: Annotated[int, at_least(1)] = 2
    head: Annotated[int, at_least(1)] = 64
    dropout: Annotated[float, between(0.0, 1.0, open_high=True)] = 0.0
    fold: Annotated[int, at_least(1)] = 1
    schedule: Literal["linear", "cosine"] = "linear"
    weight: Annotated[float, at_least(0.0)] = 4.0
    power: Annotated[float, at_least(0.0)] = 0.5
    momentum: Annotated[float, above(0.0)] = 1e-3
    learning_rate: Annotated[float, above(0.0)] = 1e-4
    captions: bool = False
    drop: Annotated[float, between(0.0, 1.0, open_high=True)] = 0.1
    centred: bool = False
    places: Annotated[int, at_least(0)] = 0
    kind: Literal["plain", "stage-wise", "matryoshka"] = "plain"

    def __post_init__(self) -> None:
        if not self.widths:
            raise SettingError("widths", "is empty; it must hold the width of at least one level")
        if len(self.attention) != len(self.widths):
            raise SettingError(
                "attention",
                f"has {len(self.attention)} values; it must hold true or false for each of the "
                f"{len(self.widths)} widths",
            )
        if any(width % 8 for width in self.widths):
            raise SettingError("widths", f"is {list(self.widths)}; every width must be a multiple of 8")
        attended = [width for width, attends in zip(self.widths, self.attention, strict=True) if attends]
        attended.append(self.widths[-1])  # the middle of the UNet always attends
        if any(width % self.head for width in attended):
            raise SettingError("head", f"is {self.head}; it must divide the widths that attend, {attended}")


@settings
class Rendering:
    """How objects are rendered in training.

    Attributes:
        samples: Number of intervals on the diagonal of the box in which objects lie.
        extent (world units): Objects lie in the box from minus to plus this number along each axis.
        weight: Weight of the squared error of the colours, summed over rgb. It is multiplied by
            1 - exp(-views / 10), which grows with the number of views of an object.
        cells: Number of cells along each side of the grid of what is empty.
        decay: Factor of the running maximum of the density of a cell at each update.
        threshold (per world unit): Density from which on a cell counts as occupied.
        look (steps): Number of outer steps between updates of the grid of an object.
    """

    samples: Annotated[int, between(1, 4096)] = 256
    extent: Annotated[float, above(0.0)] = 1.0
    weight: Annotated[float, above(0.0)] = 20.0
    cells: Annotated[int, between(1, 512)] = 64
    decay: Annotated[float, between(0.0, 1.0, open_high=True)] = 0.9
    threshold: Annotated[float, above(0.0)] = 0.1
    look: Annotated[int, at_least(1)] = 1


@settings
class Guiding:
    """Sampling that is guided by the given views.

    Attributes:
        steps: Number of DDIM steps. With 0 there is no guided sampling, and finetuning alone finds the code.
        gain: Strength lambda_gd of the guidance, for the squared error summed over as many pixels of each view as
            a training picture has.
        rays: Number of rays of each step, which stand for all pixels.
        correctors: Number of Langevin steps after each DDIM step.
        delta: Size of a Langevin step.
    """

    steps: Annotated[int, at_least(0)] = 75
    gain: Annotated[float, at_least(0.0)] = 3.2
    rays: Annotated[int, at_least(1)] = 1024
    correctors: Annotated[int, at_least(0)] = 0
    delta: Annotated[float, above(0.0)] = 0.4


@settings
class Finetuning:
    """Gradient steps on the code of a reconstruction.

    Attributes:
        outer: Number of times that the gradient of the prior is computed. With 0 there is no finetuning.
        inner: Number of steps of Adam with each gradient of the prior.
        learning_rate: Learning rate of the first step.
        decay: Factor of the learning rate from step to step.
        prior: Weight c_diff of the diffusion loss. With 0 the prior has no part in finetuning.
        rays: Number of rays of the views in each step. 0 takes all pixels.
    """

    outer: Annotated[int, at_least(0)] = 25
    inner: Annotated[int, at_least(1)] = 4
    learning_rate: Annotated[float, above(0.0)] = 5e-3
    decay: Annotated[float, between(0.0, 1.0, open_low=True)] = 0.998
    prior: Annotated[float, at_least(0.0)] = 1.0
    rays: Annotated[int, at_least(0)] = 0


@settings
class Config:
    """A training of codes, decoder and denoiser.

    Attributes:
        steps: Number of outer steps of the whole training.
        batch: Number of objects in an outer step, over all processes together.
        inner: Number of steps of the codes in each outer step. With 0 the codes stay as they are, and only the
            denoiser learns.
        rays: Number of rays of an object in an inner step.
        views: Number of pictures that are kept of each object, evenly spread over their order. 0 keeps all.
        warmup (steps): Length of the linear rise of the learning rates at the start.
        rates: Factor of all learning rates.
        code_rates: Further factor of the learning rate of the codes. Steps as large as what makes objects differ
            are noise to the denoiser.
        fidelity: Factor of the weights of the rendering loss and of the regularizer.
        ema: Decay of the exponential moving averages of decoder and denoiser.
        reset: Fraction of the training at which all codes become their mean, for a training on few views of each
            object. 0 never resets them.
        seed: Seed of every random draw.
        precision: bf16 runs the denoiser in bfloat16 autocast while its weights stay float32; fp32 does not.
        codes: The codes of the objects.
        decoder: The network that all objects share.
        diffusion: The denoiser of codes and its loss.
        rendering: How objects are rendered in training.
        guiding: Sampling that is guided by given views, which is the first stage of a reconstruction.
        finetuning: Gradient steps on the code, which are the second stage of a reconstruction.
    """

    steps: Annotated[int, at_least(1)] = 1_000_000
    batch: Annotated[int, at_least(1)] = 16
    inner: Annotated[Schedule, at_least(0)] = field(default_factory=lambda: {0: 16, 0.002: 4, 0.1: 2})
    rays: Annotated[Schedule, at_least(1)] = 4096
    views: Annotated[int, at_least(0)] = 0
    warmup: Annotated[int, at_least(1)] = 500
    rates: Annotated[Schedule, at_least(0.0)] = field(default_factory=lambda: {0: 1.0, 0.5: 0.5})
    code_rates: Annotated[Schedule, at_least(0.0)] = 1.0
    fidelity: Annotated[Schedule, at_least(0.0)] = field(default_factory=lambda: {0: 1.0, 0.5: 0.5})
    ema: Annotated[float, between(0.0, 1.0, open_high=True)] = 0.9999
    reset: Annotated[float, between(0.0, 1.0, open_high=True)] = 0.0
    seed: int = 0
    precision: Literal["bf16", "fp32"] = "bf16"
    codes: Codes = field(default_factory=Codes)
    decoder: Decoder = field(default_factory=Decoder)
    diffusion: Diffusion = field(default_factory=Diffusion)
    rendering: Rendering = field(default_factory=Rendering)
    guiding: Guiding = field(default_factory=Guiding)
    finetuning: Finetuning = field(default_factory=Finetuning)

    def __post_init__(self) -> None:
        levels = self.diffusion.fold * 2 ** (len(self.diffusion.widths) - 1)
        if self.diffusion.kind != "plain":
            levels *= 2  # the coarse codes are half as large
        if self.codes.resolution % levels:
            raise SettingError(
                "codes.resolution",
                f"is {self.codes.resolution}; with {len(self.diffusion.widths)} levels and a fold of "
                f"{self.diffusion.fold} it must be a multiple of {levels}",
            )


def load_config(source: str | Path, settings: Sequence[str] = (), steps: int | None = None) -> Config:
    """The settings of a recipe, which is the name of a built-in one or a YAML file, changed by key=value.

    Raises UserError for an unknown recipe, key or value.
    """
    from threedgen.recipes.layers import (
        merge,
        merge_layers,
        nested,
        parse_value,
        recipe_layers,
        split_overrides,
    )

    values = merge_layers(recipe_layers(source, FOLDER))
    for about in ("description", "paper", "needs", "memory", *CIRCUMSTANCES):
        values.pop(about, None)
    for key, raw in split_overrides(settings):
        values = merge(values, nested(values, key.split("."), parse_value(key, raw), key))
    if steps is not None:
        values["steps"] = steps
    return config_of(values)


def config_of(values: Mapping[str, Any]) -> Config:
    """The settings that plain values describe. Raises UserError."""
    from threedgen.recipes import typed

    return typed.build(Config, values, "")
