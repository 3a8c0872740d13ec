"""Wavefront OBJ with vertex colours behind the positions ("v x y z r g b"), as MeshLab and Blender read it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from threedgen.errors import UserError
from threedgen.export.atomic import replacing
from threedgen.types import TriMesh


def write_obj(path: str | Path, mesh: TriMesh, comment: str = "") -> Path:
    """Writes positions, colours, normals and faces; world units, +Y up, colours display-referred in [0, 1].

    comment: goes on top, one `#` a line. Nine significant digits: float32 positions survive exactly.
    Raises UserError for a mesh without faces and when the place cannot be written.
    """
    path = Path(path)
    if len(mesh.faces) == 0:
        raise UserError(f"cannot write {path}: the mesh has no faces")
    text = io.StringIO()
    for line in ("threedgen", *comment.splitlines()):
        text.write(f"# {line}\n")
    rows, form = mesh.vertices.detach().cpu().numpy(), "v %.9g %.9g %.9g"
    if mesh.vertex_colors is not None:
        colors = mesh.vertex_colors.detach().cpu().clamp(0.0, 1.0).numpy()
        rows, form = np.concatenate([rows, colors], axis=1), form + " %.6g %.6g %.6g"
    np.savetxt(text, rows, fmt=form)
    corners = mesh.faces.cpu().numpy() + 1
    if mesh.normals is None:
        np.savetxt(text, corners, fmt="f %d %d %d")
    else:
        np.savetxt(text, mesh.normals.detach().cpu().numpy(), fmt="vn %.6g %.6g %.6g")
        np.savetxt(text, np.repeat(corners, 2, axis=1), fmt="f %d//%d %d//%d %d//%d")
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    return path
