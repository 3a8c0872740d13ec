"""A mesh as an object of trimesh, for Python programs that process it further."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from threedgen.core.png import to_uint8
from threedgen.core.types import TriMesh

if TYPE_CHECKING:
    import trimesh


def to_trimesh(mesh: TriMesh) -> trimesh.Trimesh:
    """The same vertices and faces in the same order, with the texture or the vertex colours (8 bits, sRGB).

    trimesh counts v from the bottom of a texture, while `TriMesh.uvs` counts it from the top.
    """
    import trimesh
    from PIL import Image
    from trimesh.visual import ColorVisuals, TextureVisuals

    vertices, faces = mesh.vertices.detach().cpu().numpy(), mesh.faces.cpu().numpy()
    normals = None if mesh.normals is None else mesh.normals.detach().cpu().numpy()
    visual: ColorVisuals | TextureVisuals | None = None
    if mesh.texture is not None and mesh.uvs is not None:
        uvs = mesh.uvs.detach().cpu().numpy() * np.array([1.0, -1.0]) + np.array([0.0, 1.0])
        visual = TextureVisuals(uv=uvs, image=Image.fromarray(to_uint8(mesh.texture)))
    elif mesh.vertex_colors is not None:
        visual = ColorVisuals(vertex_colors=to_uint8(mesh.vertex_colors))
    return trimesh.Trimesh(vertices, faces, vertex_normals=normals, visual=visual, process=False)
