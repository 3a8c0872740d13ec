"""A shape that shows how it is turned: from a small body, one arm along each axis, of length 1, 2 and 3."""

from __future__ import annotations

import numpy as np
import torch

from threedgen.core.types import TriMesh
from threedgen.export.mesh import vertex_normals

SIDES = np.array([[-0.1, 1.0], [-0.2, 2.0], [-0.3, 3.0]])  # the smallest and the largest x, y and z


def arms(textured: bool) -> TriMesh:
    """An octahedron whose tips on +X, +Y and +Z are far away, and red, green and blue; the others are black.

    textured: its colours are in a texture of two rows, of which the upper one holds those of the far tips.
    """
    tips = np.zeros((6, 3))
    tips[[0, 1, 2], [0, 1, 2]] = SIDES[:, 1]
    tips[[3, 4, 5], [0, 1, 2]] = SIDES[:, 0]
    faces = np.array([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]])
    colors = np.concatenate([np.eye(3), np.zeros((3, 3))])
    picture = np.stack([np.eye(3), np.zeros((3, 3))])  # [2, 3, 3]
    across = (np.arange(6) % 3 + 0.5) / 3.0
    down = np.repeat([0.25, 0.75], 3)

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).float()

    return TriMesh(
        vertices=tensor(tips),
        faces=torch.from_numpy(faces),
        vertex_colors=None if textured else tensor(colors),
        normals=tensor(vertex_normals(tips, faces)),
        uvs=tensor(np.stack([across, down], axis=1)) if textured else None,
        texture=tensor(picture) if textured else None,
    )
