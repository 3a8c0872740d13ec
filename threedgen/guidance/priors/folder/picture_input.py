"""How an encoder takes pictures, as the config of its feature extractor says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedgen.guidance.priors.folder.config_keys import LARGEST_SIDE, damaged_key
from threedgen.guidance.priors.folder.files import PipelineFolder, read_config

CONFIG = "preprocessor_config.json"


@dataclass(frozen=True)
class PictureInput:
    """side: pixels that a picture is resized to. crop: pixels around its centre that are kept. mean, std: of the
    three colours, which are subtracted and divided by."""

    side: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, picture: Float[Tensor, "1 H W 3"]) -> Float[Tensor, "1 3 crop crop"]:
        """What the encoder takes of a square picture in [0, 1]."""
        pixels = F.interpolate(
            picture.permute(0, 3, 1, 2),
            (self.side, self.side),
            mode="bicubic",
            antialias=True,
            align_corners=False,
        )
        start = (self.side - self.crop) // 2
        pixels = pixels[..., start : start + self.crop, start : start + self.crop].clamp(0.0, 1.0)
        mean, std = (torch.tensor(values).to(pixels)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std


def picture_input(folder: PipelineFolder, part: str) -> PictureInput:
    """That of the feature extractor in the folder `part`. Raises UserError if it is missing or damaged."""
    file = folder.part(part) / CONFIG
    config = read_config(file)

    def colours(key: str, least: float) -> tuple[float, ...]:
        given = config.get(key)
        values = given if isinstance(given, list) else []
        numbers = tuple(float(one) for one in values if isinstance(one, int | float) and least < one <= 1.0)
        if not len(numbers) == len(values) == 3:
            raise damaged_key(file, key, given, f"three numbers above {least:g} and up to 1")
        return numbers

    def side(key: str) -> int:
        given: Any = config.get(key)
        lengths = set(given.values()) if isinstance(given, dict) else {given}
        length = lengths.pop() if len(lengths) == 1 else None
        if not isinstance(length, int) or isinstance(length, bool) or not 0 < length <= LARGEST_SIDE:
            raise damaged_key(file, key, given, f"a side from 1 to {LARGEST_SIDE} pixels")
        return length

    whole = side("size")
    crop = side("crop_size") if config.get("do_center_crop") else whole
    return PictureInput(whole, min(crop, whole), colours("image_mean", -1.0), colours("image_std", 0.0))
