"""Meshes of maps of normals (Direct2.5, Lu et al. 2024, arXiv:2311.15980): what the outlines allow is carved, then
the vertices move until the mesh shows the same normals and outlines, in rounds with a new mesh of the surface
between them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.settings import above, at_least, between, settings
from threedgen.core.types import Cameras, TriMesh
from threedgen.reconstruction.carving import carved, lattice_side, surface_of
from threedgen.reconstruction.normal_frame import checked_frame
from threedgen.renderers.mesh import MeshRenderer
from threedgen.representations.signed_distance import distance_and_color, inside_mesh
from threedgen.representations.smooth_offsets import Smoother


@settings
class Config:
    """How maps of normals become a mesh.

    Attributes:
        voxel (world units): Edge of the voxels that are carved, and of those of the new mesh of each round.
        rounds: Number of rounds; between two of them the surface gets new triangles of even size.
        steps: Number of steps of the optimizer in a round.
        rate (world units per step): Learning rate of the vertices, before they are smoothed.
        smoothness: How strongly a vertex moves its neighbours along with it, as smoothness of the mesh does.
        normal: Weight of the difference of the normals, L1 and one minus the cosine.
        mask: Weight of the squared difference of the outlines.
        laplacian: Weight of the squared distance, in voxels, of a vertex from the mean of its neighbours.
        edges: Weight of the squared deviation of the edge lengths, in voxels, from their mean.
    """

    voxel: Annotated[float, between(0.01, 0.3)] = 0.04
    rounds: Annotated[int, at_least(1)] = 3
    steps: Annotated[int, at_least(1)] = 60
    rate: Annotated[float, above(0.0)] = 0.01
    smoothness: Annotated[float, at_least(0.0)] = 10.0
    normal: Annotated[float, at_least(0.0)] = 1.0
    mask: Annotated[float, at_least(0.0)] = 1.0
    laplacian: Annotated[float, at_least(0.0)] = 0.1
    edges: Annotated[float, at_least(0.0)] = 0.02


def fused(
    normals: Float[Tensor, "V H W 3"],
    alpha: Float[Tensor, "V H W 1"],
    cameras: Cameras,
    config: Config | None = None,
    seed: int = 0,
) -> TriMesh:
    """The closed mesh that shows these normals and outlines, without colours, on the CPU.

    normals: of unit length, in the frame of the cameras' world. alpha: coverages in [0, 1]. cameras: of pictures of
    any size. seed: of the places by which the surface is measured between rounds. Raises UserError as
    `checked_frame` and `carved` do, and for maps that are not square, not one for each camera, or not finite.
    """
    config = config or Config()
    count, height, width = normals.shape[:3]
    if height != width or alpha.shape[:3] != normals.shape[:3] or count != len(cameras):
        raise UserError(
            f"there are {len(cameras)} cameras, normals of {list(normals.shape[:3])} and outlines of "
            f"{list(alpha.shape[:3])}: give one square map of each kind for each camera"
        )
    if not bool(normals.isfinite().all() and alpha.isfinite().all()):
        raise UserError("the normals or the outlines hold numbers that are not finite: draw them again")
    cameras = cameras.resized(height, width)
    mesh = carved(alpha[..., 0], cameras, config.voxel)
    checked_frame(normals, alpha, cameras)
    for turn in range(config.rounds):
        if turn:
            mesh = remeshed(mesh, config.voxel, generator(seed, "normal fusion", turn))
        mesh = _moved(mesh, normals, alpha, cameras, config)
    return mesh


@torch.no_grad()
def remeshed(mesh: TriMesh, voxel: float, rng: torch.Generator) -> TriMesh:
    """The surface of a closed mesh with triangles of the size of a voxel, by its signed distance; the mesh itself
    if it is thinner than a voxel everywhere."""
    side = lattice_side(voxel)
    inside = inside_mesh(mesh, side)
    points = torch.cartesian_prod(side, side, side)
    distance = distance_and_color(mesh, points, rng)[0].view(inside.shape)
    return surface_of(torch.where(inside, distance, -distance), side) or mesh


def _moved(
    mesh: TriMesh,
    normals: Float[Tensor, "V H W 3"],
    alpha: Float[Tensor, "V H W 1"],
    cameras: Cameras,
    config: Config,
) -> TriMesh:
    """The mesh after a round of steps."""
    offsets = torch.zeros_like(mesh.vertices, requires_grad=True)
    smooth = Smoother(mesh.faces, len(mesh.vertices), config.smoothness)
    optimizer = torch.optim.Adam([offsets], lr=config.rate)
    edges, render = _edges(mesh.faces), MeshRenderer()
    black = torch.zeros(3)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.rate * (1.0 - 0.9 * step / config.steps)
        vertices = mesh.vertices + smooth(offsets)
        moved = replace(mesh, vertices=vertices, normals=smooth_normals(vertices, mesh.faces))
        seen = render(moved, cameras, black)
        loss = config.normal * _normal_loss(seen.normal, normals, alpha)
        loss = loss + config.mask * (seen.alpha - alpha).square().mean() / alpha.mean()
        loss = loss + _shape_loss(vertices, edges, config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        vertices = mesh.vertices + smooth(offsets)
        return replace(mesh, vertices=vertices, normals=smooth_normals(vertices, mesh.faces))


def _normal_loss(
    shown: Float[Tensor, "V H W 3"] | None, normals: Float[Tensor, "V H W 3"], alpha: Float[Tensor, "V H W 1"]
) -> Float[Tensor, ""]:
    """L1 and one minus the cosine, means over the pixels of the object in both."""
    assert shown is not None
    both = alpha * (shown.detach().norm(dim=-1, keepdim=True) > 0.5)
    unit = F.normalize(shown, dim=-1)
    apart = (unit - normals).abs().sum(-1, keepdim=True) + 1.0 - (unit * normals).sum(-1, keepdim=True)
    return (apart * both).sum() / both.sum().clamp_min(1.0)


def _shape_loss(
    vertices: Float[Tensor, "N 3"], edges: Int[Tensor, "E 2"], config: Config
) -> Float[Tensor, ""]:
    ends = torch.cat([edges, edges.flip(1)])
    total = torch.zeros_like(vertices).index_add(0, ends[:, 0], vertices[ends[:, 1]])
    count = torch.bincount(ends[:, 0], minlength=len(vertices)).clamp_min(1)[:, None]
    bend = (total / count - vertices).square().sum(1).mean()
    lengths = (vertices[edges[:, 0]] - vertices[edges[:, 1]]).norm(dim=1)
    uneven = (lengths - lengths.detach().mean()).square().mean()
    return (config.laplacian * bend + config.edges * uneven) / config.voxel**2


def _edges(faces: Int[Tensor, "F 3"]) -> Int[Tensor, "E 2"]:
    """Each edge once."""
    halves = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    return torch.unique(halves.sort(dim=1).values, dim=0)


def smooth_normals(vertices: Float[Tensor, "N 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "N 3"]:
    """Unit normals at the vertices, differentiable: those of the faces around each, weighted by area."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    area = torch.linalg.cross(b - a, c - a)
    summed = torch.zeros_like(vertices)
    for corner in range(3):
        summed = summed.index_add(0, faces[:, corner], area)
    return F.normalize(summed, dim=-1)
