"""Vertices that a mesh has twice, because its texture is cut there, and normals that do not show the cut."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from threedgen.core.types import TriMesh
from threedgen.export.mesh import vertex_normals


def welds(mesh: TriMesh) -> Int[np.ndarray, " V"]:
    """For each vertex the number of the first one that is the same point of the surface.

    Points are the same if they have one position and one normal. Without normals, one position is enough for a mesh
    with uvs, which is cut along the borders of its charts; any other mesh has doubled vertices at its sharp edges.
    """
    if mesh.normals is None and mesh.uvs is None:
        return np.arange(len(mesh.vertices))
    parts = [part for part in (mesh.vertices, mesh.normals) if part is not None]
    rows = np.concatenate([part.detach().cpu().numpy().astype(np.float32) for part in parts], axis=1)
    _, first, same = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first[same.reshape(-1)]


def smooth_normals(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], same: Int[np.ndarray, " V"]
) -> Float[np.ndarray, "V 3"]:
    """`vertex_normals` of a mesh whose doubled vertices, `welds` of it, count as one."""
    return vertex_normals(vertices, same[faces])[same]
