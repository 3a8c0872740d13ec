"""A picture of what a text says, for recipes that begin with a picture."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import DISTANCE, FOV, orbit
from threedgen.core.png import to_uint8, write_png
from threedgen.datasets.cut_outs import CutOut, cut_out_of
from threedgen.guidance.priors.load import THINGS, PriorConfig, load_prior
from threedgen.recipes import typed
from threedgen.recipes.layers import FROM_TEXT, merge_layers, recipe_layers
from threedgen.reconstruction.sampling import Asked, sample_views

_STEPS = 25  # of the sampler


def from_text(recipe: str | Path) -> PriorConfig | None:
    """The prior that draws the picture for a recipe, or None if the recipe does not begin with a picture of a text.

    Raises UserError as `recipe_layers` does, and for a section that is no prior.
    """
    section = merge_layers(recipe_layers(recipe)).get(FROM_TEXT)
    if not isinstance(section, Mapping):
        return None
    return typed.build(PriorConfig, section.get("prior") or {}, f"{FROM_TEXT}.prior")


def picture_of(prompt: str, config: PriorConfig, seed: int, strict: bool = False) -> CutOut:
    """The cut-out of a picture that the prior draws of the front of what the prompt says. strict: whether words
    that the embedded prior of things has not learnt are refused. Raises UserError."""
    if config.name == THINGS and not config.path:
        config = replace(
            config, options={**config.options, "instance": seed, **({"strict": True} if strict else {})}
        )
    picture = drawn(prompt, config, seed)
    with tempfile.TemporaryDirectory(prefix="threedgen-") as folder:
        path = Path(folder) / "picture.png"
        write_png(path, to_uint8(picture))
        cut_out = cut_out_of(path)
    return replace(cut_out, about=f"a picture of the text was drawn first; {_without_path(cut_out.about)}")


def drawn(prompt: str, config: PriorConfig, seed: int) -> Float[Tensor, "S S 3"]:
    """The picture, in [0, 1]."""
    prior: Any = load_prior(config)
    prior.prepare([prompt, ""])
    one = torch.ones(1)
    front = orbit(0.0 * one, 0.0 * one, DISTANCE * one, FOV, prior.image_size, prior.image_size)
    asked = Asked(prompt, None, front, _STEPS, prior.default_scale, prior.default_scale, seed)
    return sample_views(prior, asked)[0]


def _without_path(text: str) -> str:
    return text.split(": ", 1)[-1]
