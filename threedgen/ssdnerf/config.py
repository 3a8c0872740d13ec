"""The settings of a training of codes, decoder and diffusion, and the recipes they come from.

The defaults are those of the paper's cars (Chen, Gu et al. 2023, section 4 and its code; METHODS 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from threedgen.core.errors import UserError
from threedgen.core.schedule import Schedule, bounds
from threedgen.ssdnerf.recipes import FOLDER

CIRCUMSTANCES = ("dataset", "objects", "size", "tolerant", "start_from")
"""What `training.yaml` says besides the settings."""


@dataclass(frozen=True)
class Codes:
    """What a scene is: three planes of features.

    channels: of a texel. resolution: texels a side. initial: the first values lie in +-initial. learning_rate: of
    Adam on the values before their activation 2 tanh(c). regularizer: weight of the mean square of 2 tanh(c).
    smoothness: weight of the mean squared difference of neighbouring texels, for codes that are learnt without
    a prior.
    """

    channels: int = 6
    resolution: int = 128
    initial: float = 1e-4
    learning_rate: float = 5e-3
    regularizer: float = 3e-3
    smoothness: float = 0.0

    def __post_init__(self) -> None:
        _positive("codes", self, ("channels", "resolution", "initial", "learning_rate"))
        _not_negative("codes", self, ("regularizer", "smoothness"))


@dataclass(frozen=True)
class Decoder:
    """The network that all scenes share: features of a point to density and colour.

    hidden: its width. directions: colours depend on the direction of view. learning_rate: of Adam.
    """

    hidden: int = 64
    directions: bool = True
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        _positive("decoder", self, ("hidden", "learning_rate"))


@dataclass(frozen=True)
class Diffusion:
    """The denoiser of codes, a DDPM UNet, and its loss.

    widths: channels of its levels, finest first. attention: which of them attend to themselves. layers: residual
    blocks a level. head: channels of each head of attention. dropout: in residual blocks. fold: so many texels
    squared are stacked into channels before the UNet, which makes it that much cheaper. schedule: linear or
    cosine. weight: c_diff, of the loss against the mean square of the codes. power: omega in w(t) = (alpha /
    sigma)^(2 omega). momentum: of the running mean square. learning_rate: of Adam. captions: the network is
    told the scene's caption. drop: how often it is not, so that guidance has an unconditional branch. centred: it
    sees codes without their running mean and at unit variance (most of a code is what all scenes have in common).
    places: so many learnt maps tell it where on the planes it is. kind: plain; stage-wise (f-DM) and matryoshka
    (MDM) denoise coarse codes first.
    """

    widths: tuple[int, ...] = (128, 256, 256, 512, 512)
    attention: tuple[bool, ...] = (False, False, True, True, True)
    layers: int = 2
    head: int = 64
    dropout: float = 0.0
    fold: int = 1
    schedule: Literal["linear", "cosine"] = "linear"
    weight: float = 4.0
    power: float = 0.5
    momentum: float = 1e-3
    learning_rate: float = 1e-4
    captions: bool = False
    drop: float = 0.1
    centred: bool = False
    places: int = 0
    kind: Literal["plain", "stage-wise", "matryoshka"] = "plain"

    def __post_init__(self) -> None:
        _positive("diffusion", self, ("layers", "head", "fold", "learning_rate", "momentum"))
        _not_negative("diffusion", self, ("weight", "power", "places"))
        if len(self.widths) != len(self.attention) or not self.widths or min(self.widths) < 8:
            raise UserError(
                "diffusion.attention must say true or false for each of diffusion.widths, which are at least 8"
            )
        if any(width % 8 for width in self.widths):
            raise UserError(f"diffusion.widths must be multiples of 8, got {list(self.widths)}")
        attended = [width for width, attends in zip(self.widths, self.attention, strict=True) if attends]
        attended.append(self.widths[-1])  # the middle of the UNet always attends
        if any(width % self.head for width in attended):
            raise UserError(f"diffusion.head is {self.head}: it must divide the attended widths {attended}")
        for name in ("dropout", "drop"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"diffusion.{name} is {getattr(self, name)}; it must be in [0, 1)")


@dataclass(frozen=True)
class Rendering:
    """How scenes are seen in training.

    samples: intervals on the diagonal of the box. extent: scenes live in
    [-extent, extent]^3. weight: of the mean squared error of the colours' sum over rgb, times 1 - exp(-0.1 views).
    cells: a side of the grid of what is empty. decay: of its running maximum. threshold: of the density that
    counts. look: steps between looks at where a scene is empty.
    """

    samples: int = 256
    extent: float = 1.0
    weight: float = 20.0
    cells: int = 64
    decay: float = 0.9
    threshold: float = 0.1
    look: int = 1

    def __post_init__(self) -> None:
        _positive("rendering", self, ("samples", "extent", "weight", "cells", "threshold", "look"))
        if not 0.0 <= self.decay < 1.0:
            raise UserError(f"rendering.decay is {self.decay}; it must be in [0, 1)")
        if self.samples > 4096 or self.cells > 512:
            raise UserError(
                f"rendering.samples is {self.samples} and rendering.cells is {self.cells}; they must be at most "
                "4096 and 512"
            )


@dataclass(frozen=True)
class Guiding:
    """Sampling guided by the given views; steps 0: none, the code is found by finetuning alone.

    gain: lambda_gd, for the squared error summed over the pixels of a training picture for each view. rays: looked
    at in each step, which stand for all. correctors: Langevin steps after each DDIM step. delta: their size.
    """

    steps: int = 75
    gain: float = 3.2
    rays: int = 1024
    correctors: int = 0
    delta: float = 0.4

    def __post_init__(self) -> None:
        _not_negative("guiding", self, ("steps", "gain", "correctors"))
        _positive("guiding", self, ("rays", "delta"))


@dataclass(frozen=True)
class Finetuning:
    """Gradient steps on the code; outer 0: none.

    outer: times that the prior's gradient is taken. inner: steps of Adam with each. learning_rate: the first,
    decay: its factor from step to step. prior: c_diff of the diffusion loss, 0 for none. rays: of the views in
    each step; 0: all.
    """

    outer: int = 25
    inner: int = 4
    learning_rate: float = 5e-3
    decay: float = 0.998
    prior: float = 1.0
    rays: int = 0

    def __post_init__(self) -> None:
        _not_negative("finetuning", self, ("outer", "rays", "prior"))
        _positive("finetuning", self, ("inner", "learning_rate", "decay"))
        if self.decay > 1.0:
            raise UserError(f"finetuning.decay is {self.decay}; it must be at most 1")


@dataclass(frozen=True)
class Config:
    """A training.

    steps: outer steps. batch: scenes in each, over all processes. inner: steps of the codes in each; 0: the codes
    stay as they are, and only the diffusion learns. rays: of one scene, an inner step. views: kept of each
    scene, 0: all. warmup: steps in which the learning rates rise. rates: factor of all learning rates,
    code_rates: of that of the codes on top: steps as large as what makes scenes differ are noise to the
    diffusion. fidelity: factor of the weights of rendering and regularizer. ema: decay of the averages of
    decoder and denoiser. reset: fraction of the run at which all codes become their mean (training on a few
    views, METHODS 4.3); 0: never. precision: of the denoiser.
    """

    steps: int = 1_000_000
    batch: int = 16
    inner: Schedule = field(default_factory=lambda: {0: 16, 0.002: 4, 0.1: 2})
    rays: Schedule = 4096
    views: int = 0
    warmup: int = 500
    rates: Schedule = field(default_factory=lambda: {0: 1.0, 0.5: 0.5})
    code_rates: Schedule = 1.0
    fidelity: Schedule = field(default_factory=lambda: {0: 1.0, 0.5: 0.5})
    ema: float = 0.9999
    reset: float = 0.0
    seed: int = 0
    precision: Literal["bf16", "fp32"] = "bf16"
    codes: Codes = field(default_factory=Codes)
    decoder: Decoder = field(default_factory=Decoder)
    diffusion: Diffusion = field(default_factory=Diffusion)
    rendering: Rendering = field(default_factory=Rendering)
    guiding: Guiding = field(default_factory=Guiding)
    finetuning: Finetuning = field(default_factory=Finetuning)

    def __post_init__(self) -> None:
        _positive("", self, ("steps", "batch", "warmup"))
        if not 1 <= bounds(self.rays)[0] <= bounds(self.rays)[1] < float("inf"):
            raise UserError("rays must be at least 1, and finite")
        if self.views < 0:
            raise UserError(f"views is {self.views}: 0 for all, or how many of each scene")
        for name in ("inner", "rates", "code_rates", "fidelity"):
            low, high = bounds(getattr(self, name))
            if not 0 <= low <= high < float("inf"):
                raise UserError(f"{name} must not be negative, and finite, got {low} to {high}")
        if not 0.0 <= self.ema < 1.0 or not 0.0 <= self.reset < 1.0:
            raise UserError("ema and reset must be in [0, 1)")
        levels = self.diffusion.fold * 2 ** (len(self.diffusion.widths) - 1)
        if self.diffusion.kind != "plain":
            levels *= 2  # the coarse codes are half as large
        if self.codes.resolution % levels:
            raise UserError(
                f"codes.resolution is {self.codes.resolution}: with {len(self.diffusion.widths)} levels and a fold "
                f"of {self.diffusion.fold} it must be a multiple of {levels}"
            )


def load_config(source: str | Path, settings: Sequence[str] = (), steps: int | None = None) -> Config:
    """A recipe's settings: the name of a built-in one or a YAML file, with key=value on top.

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
    """The settings that plain values mean. Raises UserError."""
    from threedgen.recipes import typed

    return typed.build(Config, values, "")


def _positive(path: str, config: Any, names: tuple[str, ...]) -> None:
    for name in names:
        if not 0 < getattr(config, name) < float("inf"):
            key = f"{path}.{name}" if path else name
            raise UserError(f"{key} is {getattr(config, name)}; it must be positive")


def _not_negative(path: str, config: Any, names: tuple[str, ...]) -> None:
    for name in names:
        if not 0 <= getattr(config, name) < float("inf"):
            raise UserError(f"{path}.{name} is {getattr(config, name)}; it must not be negative")
