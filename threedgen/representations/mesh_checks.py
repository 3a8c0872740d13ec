"""Checks of a mesh before it is written to a file."""

from __future__ import annotations

import torch

from threedgen.core.errors import UserError
from threedgen.core.types import TriMesh


def check_mesh(mesh: TriMesh, refusal: str) -> None:
    """Raises UserError for a mesh without faces, with faces of vertices that it does not have, or with numbers that
    are not finite in float32. refusal: the beginning of the message, such as "cannot write"."""
    if len(mesh.faces) == 0:
        raise UserError(f"{refusal}: the mesh has no faces")
    low, high = (int(value) for value in torch.aminmax(mesh.faces))
    if low < 0 or high >= len(mesh.vertices):
        wrong = low if low < 0 else high
        raise UserError(f"{refusal}: a face of the mesh names vertex {wrong}, there are {len(mesh.vertices)}")
    for name in ("vertices", "normals", "vertex_colors", "uvs", "texture"):
        value = getattr(mesh, name)
        if value is not None and not bool(value.float().isfinite().all()):  # files hold float32
            raise UserError(f"{refusal}: the {name} of the mesh hold numbers that are not finite")
