"""Depths of posed pictures: files of distances along the optical axis, as nerfstudio and instant-ngp name them.

Depths that are not known are NaN. Depths are never averaged: the mean of two over an edge is the depth of nothing.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.pictures import nearest
from threedgen.datasets.decoding import reason
from threedgen.datasets.picture import MOST_PIXELS, read_levels

_ARRAYS, _PICTURES = (".npy", ".npz"), (".png", ".tif", ".tiff")
_OFF = (
    1.0  # pixels by which the proportions of a depth file may differ from those of its picture, by rounding
)


@dataclass(frozen=True)
class DepthFile:
    """A picture of 16 bits or an array. unit: length, in units of the world of the cameras, of its number 1."""

    path: Path
    unit: float


def read_depths(
    file: DepthFile, picture: tuple[int, int], height: int, width: int
) -> Float[Tensor, "height width"]:
    """The depths in a file in units of the world of the cameras, each that of the nearest pixel of the file.

    picture: width and height in pixels of the picture that the file belongs to; the file may have fewer pixels, as
    depth sensors do, in the same proportions. What is not a positive finite number is not known. Raises UserError
    for a file that is missing, broken, too large, not of one number a pixel, or of other proportions.
    """
    kind = file.path.suffix.lower()
    if kind not in (*_ARRAYS, *_PICTURES):
        raise UserError(
            f"the depths '{file.path}' are in a file of another kind than is read: a grey PNG or TIFF of 16 bits, "
            ".npy or .npz"
        )
    values = _array(file.path) if kind in _ARRAYS else read_levels(file.path)
    tall, wide = values.shape
    if (
        abs(tall - wide * picture[1] / picture[0]) > _OFF
        and abs(wide - tall * picture[0] / picture[1]) > _OFF
    ):
        raise UserError(
            f"the depths '{file.path}' have {wide} x {tall} pixels and their picture {picture[0]} x {picture[1]}: "
            "they must have the same proportions"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = torch.from_numpy(values.astype(np.float32))
    depths = nearest(numbers[None], height, width)[0] * file.unit
    return torch.where((depths > 0.0) & depths.isfinite(), depths, torch.nan)


def _array(path: Path) -> np.ndarray:
    """The numbers [H, W] of an array file, or of the first array of an archive of arrays."""
    try:
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive:
                # The size that the list of the archive gives is the most that is unpacked.
                if any(entry.file_size > 16 * MOST_PIXELS for entry in archive.infolist()):
                    raise ValueError("it is too large")
            with np.load(path, allow_pickle=False) as arrays:
                values = arrays[arrays.files[0]] if arrays.files else np.zeros(0)
        else:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        if values.ndim == 3 and 1 in (shape := values.shape):
            values = values.squeeze(shape.index(1))
        if values.ndim != 2 or values.dtype.kind not in "fiu" or not 0 < values.size <= MOST_PIXELS:
            raise ValueError(f"it holds numbers of shape {values.shape} and type {values.dtype}")
        return np.array(values)
    except Exception as error:  # zip files and headers of arrays fail in many ways
        # numpy says of an array of Python objects how such a file could be trusted, which nobody should do.
        objects = any(words in str(error) for words in ("allow_pickle", "Python objects"))
        why = "it holds Python objects" if objects else reason(error)
        raise UserError(
            f"cannot read the depths '{path}' ({why}): one number for each pixel is needed"
        ) from error
