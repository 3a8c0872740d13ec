"""Signed distances of points to a surface: distances from dense samples, signs from parity along three axes."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.types import TriMesh

_SAMPLES = 60_000
_COARSE = 30  # every so many samples, one is used for points that are far from the surface


def distance_and_color(
    mesh: TriMesh, points: Float[Tensor, "N 3"], rng: torch.Generator
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
    """Unsigned distance from each point to a mesh in world units, and the colour of the mesh at the nearest point
    (mid grey if it has none).

    Computed on the CPU from samples of the surface; near it the distance is that to the tangent plane of the
    nearest sample. Raises UserError if no face has an area.
    """
    from scipy.spatial import KDTree

    places, normals, colors = _samples(mesh, rng)
    spacing = (_area(mesh).sum() / _SAMPLES).sqrt()
    far, nearest = (
        torch.from_numpy(found) for found in KDTree(places[::_COARSE].numpy()).query(points.numpy())
    )
    distance, nearest = far.to(points), nearest * _COARSE
    near = torch.nonzero(distance < 4 * spacing * _COARSE**0.5).squeeze(1)
    close, index = KDTree(places.numpy()).query(points[near].numpy())
    distance[near], nearest[near] = torch.from_numpy(close).to(points), torch.from_numpy(index)
    plane = ((points - places[nearest]) * normals[nearest]).sum(1).abs()
    return torch.where(distance < 4 * spacing, plane, distance), colors[nearest]


def inside_mesh(mesh: TriMesh, side: Float[Tensor, " S"]) -> Bool[Tensor, "S S S"]:
    """Which points of the lattice side x side x side (x, y, z; evenly spaced) a closed mesh encloses.

    A point is inside if, for at least two of the three axes, the line from it to the end of the axis crosses an odd
    number of faces. A small hole affects one axis only.
    """
    votes = torch.zeros(len(side), len(side), len(side), dtype=torch.int64)
    for axis in range(3):
        order = [axis, (axis + 1) % 3, (axis + 2) % 3]
        odd = _parity(mesh.vertices.detach().double()[:, order], mesh.faces, side.double())
        back = [order.index(i) for i in range(3)]
        votes += odd.permute(back)
    return votes >= 2


def _parity(vertices: Tensor, faces: Tensor, side: Tensor) -> Bool[Tensor, "S S S"]:
    """Whether an odd number of faces lies above each lattice point along the first coordinate."""
    size, step = len(side), side[1] - side[0]
    # The lines run slightly beside the lattice points, so that they meet no edge and no corner of a face, whatever
    # lattice the mesh was made on.
    shift = step * torch.tensor([1.234e-4, 2.718e-4], dtype=side.dtype)
    corners = vertices[faces]
    across = (corners[..., 1:] - side[0] - shift) / step
    low = across.amin(1).ceil().clamp(0, size).long()
    high = (across.amax(1).floor() + 1).clamp(0, size).long()
    extent = (high - low).clamp(min=0)
    counts = extent.prod(1)
    face = torch.repeat_interleave(torch.arange(len(faces)), counts)
    rank = torch.arange(len(face)) - (counts.cumsum(0) - counts)[face]
    u, v = low[face, 0] + rank // extent[face, 1], low[face, 1] + rank % extent[face, 1]
    x, y = (across[face, :, 0] - u[:, None]), (across[face, :, 1] - v[:, None])
    after, last = [1, 2, 0], [2, 0, 1]
    weights = x[:, after] * y[:, last] - x[:, last] * y[:, after]
    hit = (weights > 0).all(1) | (weights < 0).all(1)
    weights, face, u, v = weights[hit], face[hit], u[hit], v[hit]
    height = (weights * corners[face, :, 0]).sum(1) / weights.sum(1)
    level = (
        ((height - side[0]) / step).ceil().clamp(0, size).long()
    )  # points below it have the face above them
    crossings = torch.zeros(size + 1, size, size, dtype=torch.int64)
    crossings.index_put_((level, u, v), torch.ones_like(level), accumulate=True)
    above = crossings.flip(0).cumsum(0).flip(0)[1:]
    return above % 2 == 1


def _area(mesh: TriMesh) -> Float[Tensor, " F"]:
    a, b, c = (mesh.vertices.detach()[mesh.faces[:, i]] for i in range(3))
    return 0.5 * torch.linalg.vector_norm(torch.linalg.cross(b - a, c - a), dim=1)


def _samples(mesh: TriMesh, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Points uniform on the surface, the unit normals of their faces, and their colours."""
    area = _area(mesh).double().cumsum(0)
    if len(area) == 0 or not area[-1] > 0:
        raise UserError("the mesh to start from has no surface: all its faces are empty")
    draw = torch.rand(_SAMPLES, generator=rng, dtype=torch.float64) * area[-1]
    face = torch.searchsorted(area, draw, right=True).clamp(max=len(area) - 1)
    u, v = torch.rand(2, _SAMPLES, generator=rng)
    root = u.sqrt()
    weights = torch.stack([1 - root, root * (1 - v), root * v], dim=1)[..., None]
    corners = mesh.vertices.detach()[mesh.faces[face]]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    places, normals = (weights * corners).sum(1), torch.nn.functional.normalize(normals, dim=1, eps=1e-30)
    if mesh.uvs is not None and mesh.texture is not None:
        uvs = (weights * mesh.uvs.detach()[mesh.faces[face]]).sum(1)
        height, width = mesh.texture.shape[:2]
        column, row = (uvs * uvs.new_tensor([width, height])).long().unbind(1)
        return places, normals, mesh.texture.detach()[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    if mesh.vertex_colors is None:
        return places, normals, torch.full_like(places, 0.5)
    return places, normals, (weights * mesh.vertex_colors.detach()[mesh.faces[face]]).sum(1)
