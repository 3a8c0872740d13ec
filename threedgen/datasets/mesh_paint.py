"""Pieces of a mesh file with their colours, and the paint of what trimesh reads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from threedgen.datasets.decoding import decoding, reason
from threedgen.datasets.painted_mesh import REPEATED, Wrap

GREY = 0.7  # colour of a mesh without colours


class Paint(NamedTuple):
    """The paint of a piece, in displayed colours.

    colors: [F, 3, 3], and uvs: [F, 3, 2], of the corners. texture: [h, w, 4] or None. opacity: that of the
    material, by which the alpha of the texture is multiplied. wrap: what the texture does outside [0, 1].
    """

    colors: Float[np.ndarray, "F 3 3"]
    uvs: Float[np.ndarray, "F 3 2"]
    texture: Float[np.ndarray, "h w 4"] | None = None
    opacity: float = 1.0
    wrap: Wrap = REPEATED

    @classmethod
    def of_color(cls, colors: Any, faces: Int[np.ndarray, "F 3"], opacity: float = 1.0) -> Paint:
        """colors: anything that can be spread over [F, 3, 3]."""
        shape = (*faces.shape, 3)
        return cls(np.broadcast_to(colors, shape).copy(), np.zeros((*faces.shape, 2)), None, opacity)


class Piece(NamedTuple):
    """Triangles of one paint. vertices: in their place in the scene; a mirrored piece is turned right side out."""

    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    paint: Paint


def unit(colors: Any) -> Float[np.ndarray, "N 3"]:
    """RGB in [0, 1] of colours of any of the types that files have."""
    rgb = np.asarray(colors)[:, :3]
    whole = np.issubdtype(rgb.dtype, np.integer)
    return rgb / np.iinfo(rgb.dtype).max if whole else rgb.astype(np.float64).clip(0.0, 1.0)


def paint_of(
    piece: Any, faces: Int[np.ndarray, "F 3"], path: Path, image: Float[np.ndarray, "h w 4"] | None
) -> Paint:
    """The paint of an object of trimesh. path: of the mesh file, for errors. image: a texture that replaces its
    material. Raises UserError for a texture that is damaged."""
    visual = piece.visual
    if visual.kind == "face":
        return Paint.of_color(unit(visual.face_colors)[:, None], faces)
    if visual.kind == "vertex":
        return Paint.of_color(unit(visual.vertex_colors)[faces], faces)
    if visual.kind != "texture":
        return Paint.of_color(GREY, faces)
    attributes = getattr(visual, "vertex_attributes", {})
    own = unit(attributes["color"])[faces] if "color" in attributes else None
    found = _material_image(visual.material, path) if image is None else image
    if visual.uv is None or len(visual.uv) != len(piece.vertices):
        found = None
    opacity = _opacity(visual.material) if image is None else 1.0
    if found is not None:  # viewers ignore the Kd of an .mtl that has a texture
        colors = np.ones((*faces.shape, 3)) if own is None else own
        return Paint(colors, np.asarray(visual.uv)[faces], found, opacity)
    factor = _factor(visual.material) if image is None else None
    if own is None:
        return Paint.of_color(GREY if factor is None else factor, faces, opacity)
    return Paint.of_color(own if factor is None else own * factor, faces, opacity)


def finite_colors(piece: Any) -> bool:
    """Whether all colours of a .ply are finite. trimesh turns colours into bytes, and NaN into black, but also
    keeps the numbers of the file."""
    for element in piece.metadata.get("_ply_raw", {}).values():
        data = element.get("data")
        names = data if isinstance(data, dict) else getattr(getattr(data, "dtype", None), "names", None)
        for name in set(names or ()) & {"red", "green", "blue"}:
            if not np.isfinite(np.asarray(data[name], dtype=np.float64)).all():
                return False
    return True


def _material_image(material: Any, path: Path) -> Float[np.ndarray, "h w 4"] | None:
    picture = getattr(material, "image", None)
    if picture is None:
        return None
    with decoding(path, lambda error: f"cannot read a texture of {path}: {reason(error)}"):
        whole = picture.convert("RGBA")
    return np.asarray(whole, dtype=np.float64) / 255.0


def _opacity(material: Any) -> float:
    """The opacity of a material in [0, 1], without that of its texture."""
    for name in ("d", "tr"):  # `d -halo 0.5` is also allowed
        words = getattr(material, "kwargs", {}).get(name, ())
        try:
            value = float(words[-1])
        except (ValueError, IndexError):
            continue
        if math.isfinite(value):
            return min(max(value if name == "d" else 1.0 - value, 0.0), 1.0)
    return 1.0


def _factor(material: Any) -> Float[np.ndarray, " 3"] | None:
    value = getattr(material, "diffuse", None)
    if value is None:
        return None
    color = np.asarray(value)[:3]
    return color / 255.0 if np.issubdtype(color.dtype, np.integer) else color.astype(np.float64)
