"""`.compressed.ply`, PlayCanvas' compact PLY: 16 bytes a Gaussian, and one byte for each coefficient above degree
0.

256 Gaussians that are near each other are a chunk, which states the smallest and the largest of their positions,
logarithms of scales and colours. Within these, positions and scales have 11, 10 and 11 bits, colours and
opacities 8; rotations are the three smallest components of a quaternion with 10 bits each. Other coefficients
have steps of 1/32 within +-4.
"""

from __future__ import annotations

import math

import numpy as np

from threedgen.core.spherical_harmonics import DC
from threedgen.datasets.splat_files import SplatParameters
from threedgen.export.splat import comments, header_bytes
from threedgen.export.splat_packing import morton_order, opacities, smallest_three, unit_quats

_CHUNK = 256
_LARGEST_LOG = 20.0  # readers of scales beyond it have none left


def encode(splats: SplatParameters, comment: str, up: str) -> bytes:
    """The content of the file, with the axes of `splats`. comment: lines for the header. up: what it says is up."""
    count, coefficients = splats.sh.shape[:2]
    order = morton_order(splats.means.numpy())
    chunks = -(-count // _CHUNK)
    # The last Gaussian fills the last chunk, so that it changes no bound.
    filled = np.concatenate([order, np.repeat(order[-1:], chunks * _CHUNK - count)])
    scales = splats.log_scales.double().numpy().clip(-_LARGEST_LOG, _LARGEST_LOG)
    colors = 0.5 + DC * splats.sh[:, 0].double().numpy()
    bounds, (position, scale, color) = _within_chunks(
        *(
            values[filled].reshape(chunks, _CHUNK, 3)
            for values in (splats.means.double().numpy(), scales, colors)
        )
    )
    largest, others = smallest_three(unit_quats(splats)[order])
    words = np.empty((count, 4), "<u4")
    words[:, 0] = _word(position[:count], (11, 10, 11))
    words[:, 1] = largest.astype(np.uint32) << 30 | _word(others * math.sqrt(0.5) + 0.5, (10, 10, 10))
    words[:, 2] = _word(scale[:count], (11, 10, 11))
    words[:, 3] = _word(np.column_stack([color[:count], opacities(splats)[order]]), (8, 8, 8, 8))
    rest = splats.sh[:, 1:].transpose(1, 2).reshape(count, -1).double().numpy()[order]
    header = ["ply", "format binary_little_endian 1.0", *comments(comment, up), f"element chunk {chunks}"]
    header += [
        f"property float {end}_{kind}{axis}"
        for kind, axes in (("", "xyz"), ("scale_", "xyz"), ("", "rgb"))
        for end in ("min", "max")
        for axis in axes
    ]
    header.append(f"element vertex {count}")
    header += [f"property uint packed_{name}" for name in ("position", "rotation", "scale", "color")]
    if coefficients > 1:
        header.append(f"element sh {count}")
        header += [f"property uchar f_rest_{number}" for number in range(rest.shape[1])]
    # Readers take the middle of a step of 1/32, so the step is found by rounding down.
    small = np.floor(32.0 * rest + 128.0).clip(0, 255).astype(np.uint8)
    return header_bytes(header) + bounds.tobytes() + words.tobytes() + small.tobytes()


def _within_chunks(*groups: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The bounds of each chunk, [C, 6 G] in float32, and each group of values [N, 3] as a share of its bounds.

    groups: [C, 256, 3].
    """
    bounds, shares = [], []
    for values in groups:
        low, high = (end(values, axis=1).astype("<f4") for end in (np.min, np.max))
        span = high.astype(np.float64) - low
        share = (values - low[:, None]) / np.where(span > 0.0, span, 1.0)[:, None]
        bounds += [low, high]
        shares.append(share.reshape(-1, 3))
    return np.concatenate(bounds, axis=1), shares


def _word(shares: np.ndarray, widths: tuple[int, ...]) -> np.ndarray:
    """Numbers in [0, 1], one column for each width in bits, in one word: the first in the highest bits."""
    word = np.zeros(len(shares), np.uint32)
    for column, width in zip(shares.T, widths, strict=True):
        most = (1 << width) - 1
        word = word << np.uint32(width) | np.floor(column * most + 0.5).clip(0, most).astype(np.uint32)
    return word
