"""Masks as programs write them: white on black, 0 and 1, colours of a palette, labels, or cut-outs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from threedgen.core.errors import UserError

GREY = 8  # levels by which the channels of a grey picture may differ, as they do after JPEG
_DIM = (
    0.5  # share of white that the brightest pixel of a mask in grey reaches: below it the levels are labels
)
_COLORS = 256  # different colours that a mask of labels has at most; a photo has more
_DRAWN = 0.95  # share of the pixels of a mask in black and white that are one or the other
_LEAST = 0.01  # share of both of them
_EDGE = 0.95  # share of the border that is white in a mask in which black and white are exchanged


def object_of(
    rgba: UInt8[np.ndarray, "H W 4"], deep: Float[np.ndarray, "H W"] | None, name: str
) -> UInt8[np.ndarray, "H W"]:
    """Where the object is by a mask in straight RGBA: 255 is object, 0 is not.

    deep: the levels of a file of 16 bits, in [0, 1]; labels are lost in its 8 bits. Where the mask is transparent
    is no object. What else is object is white in grey masks, everything but black in masks of labels (0 and 1, or
    colours), and everything in a cut-out of the object, whose transparency is the mask.

    name: of the file, for errors. Raises UserError for a coloured photo.
    """
    alpha = rgba[..., 3]
    rgb = rgba[..., :3]
    if alpha.min() < 250 and not _black_and_white(rgb[alpha >= 128]):
        found = alpha
    else:
        spread = rgb.max(axis=2).astype(int) - rgb.min(axis=2)
        coloured = int(spread.max()) > GREY
        if coloured:
            _require_labels(rgb, name)
        levels = rgb.max(axis=2) / 255.0 if deep is None else deep
        if coloured or levels.max() < _DIM:
            levels = (levels > 0.0).astype(float)
        found = np.round(255.0 * levels * (alpha / 255.0)).astype(np.uint8)
    return found


def require_object(found: UInt8[np.ndarray, "H W"], name: str | Path) -> None:
    """Raises UserError for a mask that shows no object, and for one in which black and white are exchanged.

    Masks of posed pictures may be like that. found: what `object_of` found in the file `name`.
    """
    if found.max() < 128:
        raise UserError(f"the mask '{name}' is black all over: it must be white where the object is")
    solid = found >= 128
    border = np.concatenate([solid[0], solid[-1], solid[:, 0], solid[:, -1]])
    if border.mean() >= _EDGE and (~solid).mean() >= _LEAST:
        raise UserError(
            f"the mask '{name}' is white along the edges of the picture and black in its middle: it must be white "
            "where the object is, so exchange black and white"
        )


def levels_of_16_bits(values: np.ndarray) -> Float[np.ndarray, "H W"]:
    return np.clip(values, 0, 65535) / 65535.0


def _black_and_white(rgb: UInt8[np.ndarray, "N 3"]) -> bool:
    """Whether pixels are those of a mask and not of a picture of the object."""
    if len(rgb) == 0:
        return False
    black, white = (rgb.max(axis=1) < 16).mean(), (rgb.min(axis=1) > 239).mean()
    return bool(black + white >= _DRAWN and min(black, white) >= _LEAST)


def _require_labels(rgb: UInt8[np.ndarray, "H W 3"], name: str) -> None:
    colors: Any = np.unique(rgb.reshape(-1, 3), axis=0)
    if len(colors) > _COLORS or colors[0].max() > 0:
        raise UserError(
            f"the mask '{name}' is a coloured picture: a mask is white where the object is and black elsewhere, or "
            "has colours on black, or is the object on transparency"
        )
