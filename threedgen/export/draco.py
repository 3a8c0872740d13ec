"""Triangles compressed with Draco, as KHR_draco_mesh_compression of glTF stores them; DracoPy does the work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

_EFFORT = 7  # of 10, as the reference encoder does; it changes the time and not the quality
_POSITION_BITS, _UV_BITS, _NORMAL_BITS = 14, 12, 10
_COLOR = 8  # an identifier that no other attribute gets


@dataclass(frozen=True)
class Compressed:
    """content: the compressed mesh. faces, arrays: the triangles, and the attributes [V, 2 to 3] that readers get,
    colours as numbers of 16 bits. identifiers: those of Draco for the same names."""

    content: bytes
    faces: Int[np.ndarray, "F 3"]
    arrays: dict[str, np.ndarray]
    identifiers: dict[str, int]


def compressed(faces: Int[np.ndarray, "F 3"], arrays: dict[str, Float[np.ndarray, "V C"]]) -> Compressed:
    """arrays: POSITION, and NORMAL, TEXCOORD_0 and COLOR_0 (linear light in [0, 1]) as far as there are any.

    The order of the vertices changes, and equal ones become one. Positions are rounded to 1/16383 of the largest
    side of the mesh, uvs to 1/4095, and normals to about 0.1 degrees. Raises ImportError without DracoPy.
    """
    import DracoPy

    def as_double(name: str) -> Float[np.ndarray, "V C"] | None:
        return arrays[name].astype(np.float64) if name in arrays else None  # DracoPy wants that type

    kinds = DracoPy.AttributeType
    own = {"POSITION": kinds.POSITION, "NORMAL": kinds.NORMAL, "TEXCOORD_0": kinds.TEX_COORD}
    colors = arrays.get("COLOR_0")
    # Eight bits are too few for dark colours in linear light.
    extra = None if colors is None else {_COLOR: (65535.0 * colors.clip(0.0, 1.0)).round().astype(np.uint16)}
    content = DracoPy.encode(
        arrays["POSITION"],
        faces.astype(np.uint32),
        quantization_bits=_POSITION_BITS,
        compression_level=_EFFORT,
        normals=as_double("NORMAL"),
        normal_quantization_bits=_NORMAL_BITS,
        tex_coord=as_double("TEXCOORD_0"),
        tex_coord_quantization_bits=_UV_BITS,
        generic_attributes=extra,
    )
    # The encoder says neither which identifiers it chose nor how many vertices are left.
    decoded = DracoPy.decode(content)
    by_kind = {item["attribute_type"]: item for item in decoded.attributes}
    found = {name: by_kind[kind] for name, kind in own.items() if name in arrays}
    if colors is not None:
        found["COLOR_0"] = by_kind[kinds.GENERIC]
    return Compressed(
        content,
        np.asarray(decoded.faces),
        {name: np.asarray(item["data"]) for name, item in found.items()},
        {name: item["unique_id"] for name, item in found.items()},
    )
