"""Normals without the small bumps that the surface of Gaussians has, and the pictures of the asset do not show.

A bilateral filter (Fleishman et al. 2003, of normals instead of places): each normal becomes the mean of itself and
of those of its neighbours, which count less the more they differ, so that edges stay.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.types import TriMesh
from threedgen.export.seams import welds

_PASSES = 20
_ALIKE = (
    0.3  # length of the difference of two unit normals up to which they count as of one face of the object
)


def calm_normals(mesh: TriMesh) -> Float[Tensor, "V 3"]:
    """Unit normals of a mesh with normals; vertices that are doubled at seams keep one normal."""
    assert mesh.normals is not None
    same = torch.from_numpy(welds(mesh)).to(mesh.faces)
    corners = same[mesh.faces]
    edges = torch.cat([corners, corners.roll(1, dims=1)]).reshape(2, -1)
    first, second = torch.cat([edges, edges.flip(0)], dim=1)
    normals = mesh.normals.detach()
    for _ in range(_PASSES):
        near = normals[second]
        apart = (normals[first] - near).square().sum(1, keepdim=True)
        share = torch.exp(-0.5 * apart / _ALIKE**2)
        normals = torch.nn.functional.normalize(normals.index_add(0, first, share * near), dim=1)
    return normals[same]
