"""`.sog`, PlayCanvas' format for the web (version 2): a zip of meta.json and lossless WebP pictures.

Each pixel is a Gaussian. Positions have 16 bits in a scale of sign(x) ln(1 + |x|); scales, colours and coefficients
are numbers of a table of 256; rotations are the three smallest components of a quaternion with 8 bits each.
Coefficients above degree 0 are those of one of at most 65536 palette entries.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from threedgen.datasets.splat_files import SplatParameters
from threedgen.export.splat_packing import morton_order, opacities, smallest_three, to_bytes, unit_quats

_TABLE = 256
_ROUNDS = 12  # of Lloyd's algorithm for a table
_COLUMNS = 64  # entries of the palette in a row of its picture
_EXACT = 1 << 16  # with no more Gaussians than this, each has an entry of its own
_PALETTE = 8192  # entries otherwise
_BLOCK = 8192  # Gaussians whose entries are searched at once


def encode(splats: SplatParameters, note: Mapping[str, Any], up: str) -> bytes:
    """The content of the file, with the axes of `splats`. note, up: what meta.json says about it."""
    order = morton_order(splats.means.numpy())
    means = splats.means.double().numpy()[order]
    logs = np.sign(means) * np.log1p(np.abs(means))
    low, high = logs.min(axis=0), logs.max(axis=0)
    fine = np.floor((logs - low) / np.where(high > low, high - low, 1.0) * 65535.0 + 0.5).astype(np.uint16)
    scale_table, scales = _tabled(splats.log_scales.double().numpy()[order])
    color_table, colors = _tabled(splats.sh[:, 0].double().numpy()[order])
    largest, others = smallest_three(unit_quats(splats)[order])
    quats = to_bytes(255.0 * (others * math.sqrt(0.5) + 0.5))
    pictures = {
        "means_l.webp": fine & 255,
        "means_u.webp": fine >> 8,
        "scales.webp": scales,
        "quats.webp": np.column_stack([quats, 252 + largest]),
        "sh0.webp": np.column_stack([colors, to_bytes(255.0 * opacities(splats)[order])]),
    }
    width = 4 * math.ceil(math.sqrt(len(order)) / 4)
    files = {name: _webp(pixels, width) for name, pixels in pictures.items()}
    meta: dict[str, Any] = {
        "version": 2,
        "asset": {"generator": "threedgen", "up": up, **note},
        "count": len(order),
        "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": scale_table.tolist(), "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": color_table.tolist(), "files": ["sh0.webp"]},
    }
    coefficients = splats.sh.shape[1] - 1
    if coefficients:
        palette, labels = _palette(splats.sh[:, 1:].float()[torch.from_numpy(order)].flatten(1))
        table, entries = _tabled(palette.double().numpy())
        names = ["shN_centroids.webp", "shN_labels.webp"]
        files[names[0]] = _webp(entries.reshape(-1, 3), _COLUMNS * coefficients)
        low_high = np.column_stack([labels & 255, labels >> 8, np.zeros_like(labels)])
        files[names[1]] = _webp(low_high, width)
        degree = math.isqrt(coefficients + 1) - 1
        meta["shN"] = {"count": len(palette), "bands": degree, "codebook": table.tolist(), "files": names}
    return _zipped({"meta.json": json.dumps(meta, separators=(",", ":"), allow_nan=False).encode(), **files})


def _tabled(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A table of 256 numbers and the number of the entry that is nearest to each value.

    Values that are no more than 256 different ones are kept, spread over the table, because Babylon.js in Chromium
    takes the entry below where the opacity is less than 1. Otherwise half of the entries begin at equal steps, so
    that rare values are met as well, half where the values are dense, and all move to the means of their values.
    """
    flat = np.unique(values)
    if len(flat) <= _TABLE:
        places = np.linspace(0, _TABLE - 1, len(flat)).round()
        table = np.interp(np.arange(_TABLE), places, flat)
    else:
        whole = np.sort(values, axis=None)
        dense = np.quantile(whole, (np.arange(_TABLE // 2) + 0.5) / (_TABLE // 2))
        table = np.sort(np.concatenate([dense, np.linspace(flat[0], flat[-1], _TABLE // 2)]))
        for _ in range(_ROUNDS):
            nearest = _nearest(table, whole)
            count = np.bincount(nearest, minlength=_TABLE)
            total = np.bincount(nearest, whole, minlength=_TABLE)
            table = np.sort(np.where(count > 0, total / np.maximum(count, 1), table))
    table = table.astype(np.float32).astype(np.float64)
    return table, _nearest(table, values).astype(np.uint8)


def _nearest(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The number of the nearest entry of a sorted table for each value."""
    return np.searchsorted(0.5 * (table[1:] + table[:-1]), values)


def _palette(rows: Tensor) -> tuple[Tensor, np.ndarray]:
    """[P, C] entries and the number of the entry of each of the rows [N, C]: its own, or the nearest one.

    Rows in the order of space are sampled at equal steps, and the entries move once to the means of their rows.
    """
    count = len(rows)
    if count <= _EXACT:
        return rows, np.arange(count)
    palette = rows[torch.linspace(0, count - 1, _PALETTE).round().long()]
    labels = _assigned(rows, palette)
    total = torch.zeros_like(palette).index_add_(0, labels, rows)
    members = torch.bincount(labels, minlength=_PALETTE).unsqueeze(1)
    palette = torch.where(members > 0, total / members.clamp_min(1), palette)
    return palette, _assigned(rows, palette).numpy()


def _assigned(rows: Tensor, palette: Tensor) -> Tensor:
    """The number of the entry nearest to each row."""
    return torch.cat([torch.cdist(block, palette).argmin(dim=1) for block in rows.split(_BLOCK)])


def _webp(pixels: np.ndarray, width: int) -> bytes:
    """A lossless picture of pixels [N, 3 or 4] in rows of `width`, filled up with zeros; opaque if they have 3."""
    from PIL import Image

    height = -(-len(pixels) // width)
    picture = np.zeros((height * width, 4), np.uint8)
    picture[:, 3] = 255
    picture[: len(pixels), : pixels.shape[1]] = pixels
    content = io.BytesIO()
    # exact: the colours of transparent pixels are data, too.
    Image.fromarray(picture.reshape(height, width, 4)).save(content, "WEBP", lossless=True, exact=True)
    return content.getvalue()


def _zipped(files: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # of 1980, so that the same asset is the same file
    return content.getvalue()
