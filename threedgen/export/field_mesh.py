"""From a radiance field to a mesh: density, level set, cleaning, decimation, colours."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.core.types import RadianceField, TriMesh
from threedgen.export.connected import voxel_pieces
from threedgen.export.mesh import LOG_RANGE, MeshConfig, NoSurface, fitted, vertex_normals, zero_level
from threedgen.renderers.volumetric import in_occupied_cell

_COARSE = 64  # lattice points along each side when the asset is located
_BLOCK = 1 << 16  # points in one query of the field
_OPAQUE = math.log(2.0)  # optical thickness at which half of the light is stopped
_LEVELS = 60  # candidates for the level
_SHADES = 12  # samples on the short ray along which the colour of a vertex is composited


def extract_field_mesh(field: RadianceField, config: MeshConfig | None = None) -> TriMesh:
    """The visible surface of a field, in world coordinates.

    It is closed and oriented outwards; at the border of the box of the field it is closed, and invisible
    hollows are filled. If the config has no level, the level is chosen whose silhouettes along the axes agree
    with the opacity of the field. Vertex colours are those that a viewer in front of the vertex sees,
    display-referred RGB in [0, 1]; normals are unit vectors. Float32 and int64, on the CPU. Raises NoSurface if
    nothing is opaque enough to have a surface.
    """
    config = config or MeshConfig()
    low, high = _focus(field, config)
    longest = float((high - low).max())

    def surface(spacing: float) -> tuple[np.ndarray, np.ndarray]:
        return _surface(field, low, high, spacing, config)

    vertices, faces, spacing = fitted(surface, longest / (config.resolution - 1), config.faces)
    if len(faces) == 0:
        raise _empty()
    normals = vertex_normals(vertices, faces)
    return TriMesh(
        vertices=torch.from_numpy(vertices.astype(np.float32)),
        faces=torch.from_numpy(faces.astype(np.int64)),
        vertex_colors=_colors(field, vertices, normals, reach=max(2.0 * spacing, longest / 64)),
        normals=torch.from_numpy(normals.astype(np.float32)),
    )


def visible_level(density: Float[np.ndarray, "X Y Z"], spacing: float) -> float | None:
    """The density whose level set has the silhouettes of the field; None if nothing is opaque.

    density: on a cubic lattice, per world unit. In a parallel projection along an axis, a pixel belongs to the
    silhouette of the field if half of its light is stopped, and to that of the level set if the largest density
    along its ray reaches the level.
    """
    opaque = [density.sum(axis=axis) * spacing >= _OPAQUE for axis in range(3)]
    if not all(mask.any() for mask in opaque):
        return None
    largest = [density.max(axis=axis) for axis in range(3)]
    most = float(density.max())
    levels = most * np.geomspace(1e-3, 0.9, _LEVELS)
    overlaps = [
        np.mean([_overlap(top >= level, mask) for top, mask in zip(largest, opaque, strict=True)])
        for level in levels
    ]
    # Many levels fit a hard edge: the middle one of them is the furthest from both haze and holes.
    good = np.flatnonzero(np.array(overlaps) >= max(overlaps) - 1e-3)
    return float(levels[good[len(good) // 2]])


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


def _empty() -> NoSurface:
    return NoSurface("no mesh: nothing in the field is opaque enough to have a surface; run more steps")


@torch.no_grad()
def _density(
    field: RadianceField, origin: np.ndarray, spacing: float, shape: tuple[int, ...]
) -> Float[np.ndarray, "X Y Z"]:
    """The density at origin + spacing * (i, j, k); 0 outside the box and in cells that are known to be empty."""
    bounds = field.bounds
    axes = [torch.from_numpy(origin[axis] + spacing * np.arange(shape[axis])).to(bounds) for axis in range(3)]
    values = np.zeros(shape, dtype=np.float32)
    slab = max(_BLOCK // (shape[1] * shape[2]), 1)
    down = bounds.new_tensor([0.0, 0.0, -1.0])
    for begin in range(0, shape[0], slab):
        points = torch.cartesian_prod(axes[0][begin : begin + slab], axes[1], axes[2])
        inside = _lit(field, points).nonzero().squeeze(-1)
        block = bounds.new_zeros(len(points))
        for rows in inside.split(_BLOCK):
            block[rows] = field.query(points[rows], down.expand(len(rows), 3))[0]
        values[begin : begin + slab] = block.reshape(-1, *shape[1:]).float().cpu().numpy()
    if not np.isfinite(values).all():
        raise NoSurface(
            "no mesh: the density of the field is not finite everywhere; lower its learning rate or gain"
        )
    return values


def _lit(field: RadianceField, points: Float[Tensor, "M 3"]) -> Tensor:
    """[M], whether a renderer would take samples there."""
    low, high = field.bounds
    return ((points >= low) & (points <= high)).all(-1) & in_occupied_cell(field, points)


def _focus(field: RadianceField, config: MeshConfig) -> tuple[np.ndarray, np.ndarray]:
    """The box of the asset without distant crumbs, which would cost the asset its resolution."""
    low, high = field.bounds.detach().double().cpu().numpy()
    spacing = float((high - low).max()) / (_COARSE - 1)
    shape = tuple(int(n) for n in np.ceil((high - low) / spacing - 1e-6).astype(int) + 1)
    density = _density(field, low, spacing, shape)
    level = config.level or visible_level(density, spacing)
    if level is None:
        raise _empty()
    labels = voxel_pieces(density >= level)
    if labels.max() == 0:
        raise _empty()
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    where = np.argwhere((sizes >= max(config.floaters * sizes.max(), 1))[labels])
    return low + spacing * (where.min(axis=0) - 1.0), low + spacing * (where.max(axis=0) + 1.0)


def _surface(
    field: RadianceField, low: np.ndarray, high: np.ndarray, spacing: float, config: MeshConfig
) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"]]:
    """The cleaned level set, before decimation."""
    shape = tuple(int(n) for n in np.ceil((high - low) / spacing - 1e-6).astype(int) + 3)
    origin = low - spacing
    density = _density(field, origin, spacing, shape)
    level = config.level or visible_level(density, spacing)
    if level is None:
        raise _empty()
    # Densities change by factors across a surface, so linear interpolation is more exact in the logarithm.
    log = np.log(np.maximum(density, 1e-30) / level)
    np.clip(log, -LOG_RANGE, LOG_RANGE, out=log)
    log[log == 0.0] = 1e-6  # a vertex on a lattice point would pinch the surface
    surface = zero_level(log, origin, spacing, config)
    if surface is None:
        raise _empty()
    return surface


@torch.no_grad()
def _colors(
    field: RadianceField,
    vertices: Float[np.ndarray, "V 3"],
    normals: Float[np.ndarray, "V 3"],
    reach: float,
) -> Float[Tensor, "V 3"]:
    """Colours composited from `reach` in front of each vertex to 2 `reach` behind it, over the last colour."""
    places, outward = (torch.from_numpy(value).to(field.bounds) for value in (vertices, normals))
    low, high = field.bounds
    depths = (torch.arange(_SHADES) + 0.5) / _SHADES * 3.0 * reach - reach
    color, seen = torch.zeros_like(places), torch.ones_like(places[:, :1])
    rgb = color
    for depth in depths.tolist():
        points = torch.minimum(torch.maximum(places - depth * outward, low), high)
        blocks = zip(points.split(_BLOCK), outward.split(_BLOCK), strict=True)
        answers = [field.query(where, -normal) for where, normal in blocks]
        density, rgb = (torch.cat(values) for values in zip(*answers, strict=True))
        density = torch.where(_lit(field, points), density, 0.0)
        alpha = 1 - torch.exp(-density * (3.0 * reach / _SHADES))[:, None]
        color, seen = color + seen * alpha * rgb, seen * (1 - alpha)
    return (color + seen * rgb).clamp(0.0, 1.0).float().cpu()
