"""The start of Gaussians: points on a sphere, in a ball, or on the surface of a mesh, and their first size."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.types import TriMesh
from threedgen.kernels import load_native

Points = tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]


def ball(count: int, radius: float, generator: torch.Generator) -> Float[Tensor, "N 3"]:
    """Points uniform in the volume of a ball of `radius` world units around the origin."""
    distance = radius * torch.rand(count, 1, generator=generator) ** (1.0 / 3.0)
    return distance * _directions(count, generator)


def sphere(count: int, radius: float, generator: torch.Generator) -> Float[Tensor, "N 3"]:
    """Points uniform on the surface of a sphere of `radius` world units around the origin."""
    return radius * _directions(count, generator)


def mesh_surface(mesh: TriMesh, count: int, generator: torch.Generator) -> Points:
    """Points uniform on the surface of a mesh, and their colours.

    A face is drawn with a probability proportional to its area, and a point in it uniformly. Colours are the
    interpolated vertex colours, or mid grey if the mesh has none. Raises UserError if no face has an area.
    """
    corners = mesh.vertices[mesh.faces]  # [F, 3, 3]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = torch.linalg.vector_norm(normals, dim=-1).double().cumsum(0)
    if len(area) == 0 or not area[-1] > 0:
        raise UserError("the mesh to start from has no surface: all its faces are empty")
    # By the inverse of the cumulative area: torch.multinomial takes no more than 2^24 faces.
    draw = torch.rand(count, generator=generator, dtype=torch.float64) * area[-1].cpu()
    face = torch.searchsorted(area.cpu(), draw, right=True).clamp(max=len(area) - 1)
    u, v = torch.rand(2, count, generator=generator, dtype=torch.float64)
    root = u.sqrt()
    weights = torch.stack([1 - root, root * (1 - v), root * v], dim=-1).to(mesh.vertices)  # [N, 3]
    face = face.to(mesh.faces.device)
    points = torch.einsum("nk,nkc->nc", weights, corners[face])
    if mesh.vertex_colors is None:
        return points, torch.full_like(points, 0.5)
    return points, torch.einsum("nk,nkc->nc", weights, mesh.vertex_colors.to(weights)[mesh.faces[face]])


def neighbour_distance(points: Float[Tensor, "N 3"], neighbours: int = 3) -> Float[Tensor, " N"]:
    """Mean distance of each point to its nearest neighbours, the first scale of a Gaussian (3D Gaussian Splatting,
    Kerbl et al. 2023).

    neighbours: at most 16. If there are fewer other points, the mean over all of them; 1 for a point without
    others. Raises ValueError for points that are not finite.
    """
    neighbours = min(neighbours, len(points) - 1)
    if neighbours < 1:
        return torch.ones_like(points[:, 0])
    places = points.detach().cpu().double().contiguous()
    native: Any = load_native()
    if native is not None:
        found = torch.empty(len(places), dtype=torch.float64)
        native.neighbour_distances(places, neighbours, torch.get_num_threads(), found)
        return found.to(points)
    from scipy.spatial import KDTree

    distances, _ = KDTree(places.numpy()).query(
        places.numpy(), k=neighbours + 1
    )  # the first is the point itself
    return torch.from_numpy(distances[:, 1:].mean(axis=1)).to(points)


def _directions(count: int, generator: torch.Generator) -> Float[Tensor, "N 3"]:
    """Uniform unit vectors: a uniform z and a uniform azimuth (Archimedes), which are never of length zero."""
    z = 2.0 * torch.rand(count, generator=generator) - 1.0
    azimuth = 2.0 * math.pi * torch.rand(count, generator=generator)
    across = torch.sqrt((1.0 - z * z).clamp(min=0.0))
    return torch.stack([across * torch.cos(azimuth), across * torch.sin(azimuth), z], dim=-1)
