"""Textures from views: every texel takes the colours that the views show at its place.

Each view counts by how squarely it sees the place, and not at all where something is in front of it; places that no
view sees keep the colours of the vertices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from threedgen.core.types import TriMesh
from threedgen.export.views import View
from threedgen.renderers.rasterize import rasterize
from threedgen.representations.texture_atlas import texels_of, texture_of, unwrap

_FLATTEST = 0.1  # cosine between the normal and the direction to a view below which the view does not count
_POWER = 4.0  # of the cosine: views that look squarely are sharper
_NEAR = 0.01  # of the diameter: what lies deeper behind the surface that a view sees is hidden from it
_LEAST = 0.02  # weight of the colours of the vertices


def paint(mesh: TriMesh, views: Sequence[View], size: int) -> TriMesh:
    """The mesh with an atlas and a texture of size x size texels instead of the colours of its vertices.

    mesh: with normals and colours at its vertices, on the CPU. Vertices on seams of the atlas are doubled. Raises
    UserError if it cannot be laid flat.
    """
    laid = unwrap(mesh, size)
    texels = texels_of(laid, size)
    colors, weights = _seen(mesh, views, texels.points, texels.normals)
    colors, weights = colors + _LEAST * texels.colors, weights + _LEAST
    texture = texture_of(texels, (colors / weights).clamp(0.0, 1.0))
    return dataclasses.replace(laid, vertex_colors=None, texture=texture)


def colored(mesh: TriMesh, views: Sequence[View]) -> TriMesh:
    """The mesh with the colours that the views show at its vertices; those that no view sees have the colour of the
    nearest one that is seen, or mid grey if none is.

    mesh: with normals, on the CPU.
    """
    from scipy.spatial import KDTree

    assert mesh.normals is not None
    colors, weights = _seen(mesh, views, mesh.vertices, mesh.normals)
    known = weights[:, 0] > _LEAST
    if not known.any():
        return dataclasses.replace(mesh, vertex_colors=torch.full_like(mesh.vertices, 0.5))
    nearest = KDTree(mesh.vertices[known].numpy()).query(mesh.vertices.numpy())[1]
    found = (colors[known] / weights[known]).clamp(0.0, 1.0)[torch.from_numpy(nearest)]
    return dataclasses.replace(mesh, vertex_colors=found)


def _seen(
    mesh: TriMesh, views: Sequence[View], points: Float[Tensor, "M 3"], normals: Float[Tensor, "M 3"]
) -> tuple[Float[Tensor, "M 3"], Float[Tensor, "M 1"]]:
    """The sums of weighted colours and of weights over the views at points of a surface."""
    colors, weights = torch.zeros_like(points), torch.zeros_like(points[:, :1])
    for view in views:
        rows, shown, weight = _shown(mesh, view, points, normals)
        colors[rows] += weight * shown
        weights[rows] += weight
    return colors, weights


def _shown(
    mesh: TriMesh, view: View, points: Float[Tensor, "M 3"], normals: Float[Tensor, "M 3"]
) -> tuple[Tensor, Float[Tensor, "m 3"], Float[Tensor, "m 1"]]:
    """The rows of the points that face a view, and the colour and the weight of each there."""
    camera = view.camera
    towards = normalize(camera.centers - points, dim=1)
    cosine = (towards * normals).sum(1)
    rows = (cosine > _FLATTEST).nonzero().squeeze(1)
    cosine = cosine[rows]
    into_camera = torch.linalg.inv(camera.world_from_camera[0])
    inside = points[rows] @ into_camera[:3, :3].T + into_camera[:3, 3]
    depth = inside[:, 2]
    pixel = (inside @ camera.intrinsics[0].T)[:, :2] / depth[:, None]
    grid = (2.0 * pixel / pixel.new_tensor([camera.width, camera.height]) - 1.0)[None, None]
    layers = torch.cat([view.rgb, view.alpha], dim=-1).permute(2, 0, 1)[None]
    shown = grid_sample(layers, grid, align_corners=False)[0, :, 0].T
    color, alpha = shown[:, :3] / shown[:, 3:].clamp_min(1e-3), shown[:, 3]
    nearest = rasterize(mesh, camera).inverse_z[:, None]
    front = grid_sample(nearest, grid, mode="nearest", align_corners=False)[0, 0, 0]
    diameter = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm())
    # A slanted surface changes its depth within a pixel.
    tolerance = _NEAR * diameter / cosine
    visible = (front > 0.0) & (depth - 1.0 / front.clamp_min(1e-6) < tolerance) & (depth > 0.0)
    # The edges of a render are mixed with what is behind it.
    solid = (2.0 * alpha - 1.0).clamp(0.0, 1.0)
    return rows, color, (view.trust * cosine**_POWER * visible * solid)[:, None]
