"""PNG files of one picture: numbers of 8 bits, written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from threedgen.core.atomic import store


def to_uint8(picture: Float[torch.Tensor, "*shape 3"]) -> UInt8[np.ndarray, "*shape 3"]:
    """Colours in [0, 1] as rounded numbers of 8 bits; values outside are clipped, and NaN becomes 0."""
    numbers = picture.detach().cpu().nan_to_num(0.0)  # a copy, which may be changed
    return numbers.clamp_(0.0, 1.0).mul_(255.0).round_().to(torch.uint8).numpy()


def write_png(path: str | Path, picture: UInt8[np.ndarray, "H W C"]) -> Path:
    """Writes one picture of three or four channels. Raises UserError if the place cannot be written."""
    path = Path(path)
    store(path, encoded(picture))
    return path


def encoded(picture: UInt8[np.ndarray, "H W C"]) -> bytes:
    """The content of such a file."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="PNG")
    return content.getvalue()
