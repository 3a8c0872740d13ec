"""Wavefront OBJ: vertex colours behind the positions ("v x y z r g b"), or a texture with its MTL and PNG
beside it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from threedgen.errors import UserError
from threedgen.export.atomic import replacing
from threedgen.export.gltf import png
from threedgen.types import TriMesh


def write_obj(path: str | Path, mesh: TriMesh, comment: str = "") -> Path:
    """Writes positions, colours, normals and faces; world units, +Y up, colours display-referred in [0, 1].

    A mesh with uvs and a texture gets NAME.mtl and NAME.png in the same folder, and no vertex colours, which
    readers would multiply with the texture. comment: goes on top, one `#` a line. Nine significant digits:
    float32 positions survive exactly. Raises UserError for a mesh without faces and when the place cannot be
    written.
    """
    path = Path(path)
    if len(mesh.faces) == 0:
        raise UserError(f"cannot write {path}: the mesh has no faces")
    text = io.StringIO()
    for line in ("threedgen", *comment.splitlines()):
        text.write(f"# {line}\n")
    textured = mesh.texture is not None and mesh.uvs is not None
    if textured:
        text.write(f"mtllib {path.stem}.mtl\nusemtl surface\n")
    rows, form = _rows(mesh.vertices), "v %.9g %.9g %.9g"
    if mesh.vertex_colors is not None and not textured:
        rows, form = (
            np.concatenate([rows, _rows(mesh.vertex_colors.clamp(0.0, 1.0))], axis=1),
            (form + " %.6g %.6g %.6g"),
        )
    np.savetxt(text, rows, fmt=form)
    if textured:
        assert mesh.uvs is not None
        uvs = _rows(mesh.uvs)
        uvs = np.stack([uvs[:, 0], 1.0 - uvs[:, 1]], axis=1)  # OBJ's v = 0 is at the bottom
        np.savetxt(text, uvs, fmt="vt %.9g %.9g")
    if mesh.normals is not None:
        np.savetxt(text, _rows(mesh.normals), fmt="vn %.6g %.6g %.6g")
    corner = _CORNERS[textured, mesh.normals is not None]
    numbers = np.repeat(mesh.faces.cpu().numpy() + 1, corner.count("%d"), axis=1)
    np.savetxt(text, numbers, fmt=f"f {corner} {corner} {corner}")
    if textured:
        assert mesh.texture is not None
        _write_material(path, mesh.texture)
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    return path


# How a face names a corner that has (texture coordinates, a normal).
_CORNERS = {
    (False, False): "%d",
    (False, True): "%d//%d",
    (True, False): "%d/%d",
    (True, True): "%d/%d/%d",
}


def _rows(values: Tensor) -> Float[np.ndarray, "V C"]:
    return values.detach().cpu().numpy()


def _write_material(path: Path, texture: Float[Tensor, "H W 3"]) -> None:
    with replacing(path.with_suffix(".png")) as temporary:
        temporary.write_bytes(png(texture))
    with replacing(path.with_suffix(".mtl")) as temporary:
        temporary.write_text(
            f"newmtl surface\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {path.stem}.png\n",
            encoding="utf-8",
        )
