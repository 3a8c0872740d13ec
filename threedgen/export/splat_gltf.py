"""3D Gaussians in a .glb by the extension KHR_gaussian_splatting of Khronos.

A primitive of points: position, rotation (x, y, z, w), scale and opacity (both linear), and the coefficients of
spherical harmonics, whose basis is that of threedgen. COLOR_0 is for programs that do not know the extension,
which show points: the colour in linear light, and the opacity. Colours are display-referred sRGB, as in pictures.
+Y is up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from threedgen.core.pictures import linear_from_srgb
from threedgen.core.spherical_harmonics import DC
from threedgen.datasets.splat_files import SplatParameters
from threedgen.export.gltf import Buffer, container
from threedgen.export.splat_packing import opacities, unit_quats

_NAME = "KHR_gaussian_splatting"
_POINTS = 0


def encode(splats: SplatParameters, note: Mapping[str, Any]) -> bytes:
    """The content of the file, with the axes of `splats`. note: JSON values for `asset.extras`."""
    buffer = Buffer()
    opacity = opacities(splats)[:, None]
    colors = linear_from_srgb(np.clip(0.5 + DC * splats.sh[:, 0].double().numpy(), 0.0, 1.0))
    attributes = {
        "COLOR_0": np.column_stack([colors, opacity]),
        f"{_NAME}:ROTATION": np.roll(unit_quats(splats), -1, axis=1),
        f"{_NAME}:SCALE": splats.log_scales.exp().numpy(),
        f"{_NAME}:OPACITY": opacity,
    }
    names = [(degree, order) for degree in range(4) for order in range(2 * degree + 1)]
    for (degree, order), coefficients in zip(names, splats.sh.unbind(dim=1), strict=False):
        attributes[f"{_NAME}:SH_DEGREE_{degree}_COEF_{order}"] = coefficients.numpy()
    numbers = {"POSITION": buffer.add(splats.means.numpy().astype("<f4"), bounds=True)}
    numbers |= {name: buffer.add(values.astype("<f4")) for name, values in attributes.items()}
    primitive = {
        "attributes": numbers,
        "mode": _POINTS,
        "extensions": {_NAME: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}},
    }
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "threedgen", **({"extras": dict(note)} if note else {})},
        "extensionsUsed": [_NAME],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "asset"}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    return container(document, bytes(buffer.data))
