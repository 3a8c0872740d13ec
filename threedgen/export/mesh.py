"""From Gaussians to a mesh: density, level set, cleaning, decimation, colours; and operations on meshes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int

from threedgen.core.errors import UserError
from threedgen.core.material import Wish
from threedgen.core.settings import above, at_least, between, settings
from threedgen.core.types import GaussianCloud, TriMesh
from threedgen.export.connected import grown, mesh_pieces, taubin, voxel_pieces
from threedgen.export.density import Ellipsoids, Grid, density, ellipsoids
from threedgen.export.silhouettes import Picture, carve, enclosed, pictures, visible_level
from threedgen.export.surface_color import surface_colors

FEWEST_FACES = 100  # the smallest budget of triangles that a setting may ask for
LOG_RANGE = 3.0  # the logarithm of a density is clipped to +- this much around that of the level
_MARGIN = 4  # empty voxels around the asset, so that the surface closes inside the grid
_SURELY_FAINT = 0.05  # a density that no visible surface has


class NoSurface(UserError):
    """Nothing in an asset is opaque enough to have a surface."""


@settings
class MeshConfig:
    """How Gaussians or a radiance field become a mesh.

    Attributes:
        resolution (voxels): Number of voxels along the longest side of the asset.
        faces (triangles): Largest number of triangles after decimation.
        deviation (share of the diameter): A mesh with a texture gets fewer triangles than `faces` as long as 99 %
            of its surface moves by less than this; 0 always uses all of them.
        level: Density at the surface: of Gaussians, the sum of their opacities; of a field, per world unit. With
            null the level is chosen whose silhouettes agree with the pictures.
        floaters: Connected pieces below this share of the volume of the largest piece are dropped; 0 keeps all.
        smoothing: Number of Taubin passes, which keep the volume, before decimation; 0 for none.
        outline (steps): Steps in which the vertices move towards the outlines of the pictures that the asset was
            made from, if there are any; 0 for none.
        texture_size (texels): Width and height of the texture; 0 gives the vertices colours instead.
        material: What the colours in the file mean. albedo: the light of the prior's pictures is divided out of
            them, and programs light them. unlit: they are shown as they are. lit: they are left as they are, and
            programs light them nevertheless. auto: albedo where that light is known, and else unlit.
    """

    resolution: Annotated[int, between(16, 512)] = 128
    faces: Annotated[int, at_least(FEWEST_FACES)] = 8_000
    deviation: Annotated[float, between(0.0, 0.1)] = 0.001
    level: Annotated[float, above(0.0)] | None = None
    floaters: Annotated[float, between(0.0, 1.0, open_high=True)] = 0.001
    smoothing: Annotated[int, at_least(0)] = 20
    outline: Annotated[int, at_least(0)] = 60
    texture_size: Annotated[int, between(0, 8192)] = 512
    material: Wish = "auto"

    def plain(self) -> MeshConfig:
        """The same for meshes with colours at their vertices: those that move, or that are worked on further."""
        return replace(self, outline=0, texture_size=0)


def extract_mesh(cloud: GaussianCloud, config: MeshConfig | None = None) -> TriMesh:
    """The visible surface of a cloud, in world coordinates.

    It is closed and oriented outwards; enclosed hollows are filled. Vertex colours are display-referred RGB in
    [0, 1], as those of the Gaussians; normals are unit vectors. Float32 and int64, on the CPU. Raises NoSurface
    if nothing is opaque enough to have a surface.
    """
    config = config or MeshConfig()
    shapes = ellipsoids(cloud)
    if len(shapes) == 0:
        raise _empty()
    shapes, low, high = _focus(shapes, config.floaters)
    longest = float((high - low).max())

    def surface(spacing: float) -> tuple[np.ndarray, np.ndarray]:
        return _surface(shapes, low, high, spacing, config)

    vertices, faces, _ = fitted(surface, longest / (config.resolution - 1), config.faces)
    normals = vertex_normals(vertices, faces)
    colors = surface_colors(shapes.thickened(1e-3 * longest), vertices, normals, reach=longest / 16)
    return TriMesh(
        vertices=torch.from_numpy(vertices.astype(np.float32)),
        faces=torch.from_numpy(faces.astype(np.int64)),
        vertex_colors=torch.from_numpy(colors.astype(np.float32)),
        normals=torch.from_numpy(normals.astype(np.float32)),
    )


def fitted(
    surface: Callable[[float], tuple[np.ndarray, np.ndarray]], spacing: float, budget: int
) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"], float]:
    """Vertices and at most `budget` faces of surface(spacing), and the spacing that was used in the end.

    The surface is decimated. If no decimation reaches the budget, it is made again on a coarser lattice.
    """
    vertices, faces = surface(spacing)
    while len(faces) > budget:
        decimated = decimate(vertices, faces, budget)
        if decimated is not None:
            return *decimated, spacing
        spacing *= 1.02 * (len(faces) / budget) ** 0.5  # faces go with the square of the resolution
        vertices, faces = surface(spacing)
    return vertices, faces, spacing


def _empty() -> NoSurface:
    return NoSurface(
        "no mesh: no Gaussian is opaque enough to have a surface; run more steps, or export .ply instead"
    )


def _focus(shapes: Ellipsoids, share: float) -> tuple[Ellipsoids, np.ndarray, np.ndarray]:
    """The cloud without distant crumbs, which would cost the asset its resolution, and its box.

    Pieces are connected regions of a coarse lattice. The weight of a piece is that of the Gaussians in it, opacity
    times volume; a piece below `share` of the largest weight is dropped.
    """
    extents = shapes.extents()
    low, high = (shapes.means - extents).min(axis=0), (shapes.means + extents).max(axis=0)
    while True:
        before = float((high - low).max())
        spacing = before / 63
        grid = _lattice(shapes, low, high, spacing)
        labels = voxel_pieces(grid.values > _SURELY_FAINT)
        count = int(labels.max())
        if count == 0:
            raise _empty()
        centres = np.rint((shapes.means - grid.origin) / spacing).astype(int)
        piece = labels[tuple(np.clip(centres, 0, np.array(labels.shape) - 1).T)]
        weights = np.bincount(piece, shapes.opacities * shapes.scales.prod(axis=1), minlength=count + 1)
        weights[0] = 0.0
        kept = weights >= share * weights.max()
        kept[0] = False
        where = np.argwhere(kept[labels])
        low = grid.origin + spacing * (where.min(axis=0) - 0.5)
        high = grid.origin + spacing * (where.max(axis=0) + 0.5)
        shapes = shapes.chosen((piece == 0) | kept[piece]).touching(low, high)
        if float((high - low).max()) > 0.5 * before:
            return shapes, low, high  # otherwise the lattice was far too coarse for what is left


def _lattice(shapes: Ellipsoids, low: np.ndarray, high: np.ndarray, spacing: float) -> Grid:
    # With odd counts, every second voxel is a lattice of its own with the same first and last voxel.
    counts = 2 * np.ceil((high - low) / (2.0 * spacing) - 1e-6).astype(int) + 1 + 2 * _MARGIN
    return density(shapes, low - _MARGIN * spacing, spacing, (int(counts[0]), int(counts[1]), int(counts[2])))


def _surface(
    shapes: Ellipsoids, low: np.ndarray, high: np.ndarray, spacing: float, config: MeshConfig
) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"]]:
    """The cleaned level set, before decimation."""
    grid = _lattice(shapes, low, high, spacing)
    # Half the resolution is enough for the thirteen pictures, because tau is smooth. Their Gaussians are
    # thickened less than those of the density: the pictures are the measure, and the level makes up for the
    # thickness.
    coarse = Grid(grid.origin, 2.0 * spacing, grid.values[::2, ::2, ::2])
    views = pictures(shapes.thickened(0.3 * spacing), coarse)
    level = config.level or visible_level(views, coarse)
    if level is None:
        raise _empty()
    # The logarithm of a Gaussian is quadratic, so linear interpolation between voxels is far more exact there.
    field = np.log(np.maximum(grid.values, level * math.exp(-LOG_RANGE)) / level)
    carve(field, views)
    solid = _filled(field > 0.0, views)
    np.clip(field, -LOG_RANGE, LOG_RANGE, out=field)
    field = np.where(solid, np.maximum(field, 1e-3), np.minimum(field, -1e-3))
    surface = zero_level(field, grid.origin, spacing, config)
    if surface is None:
        raise _empty()
    return surface


def zero_level(
    field: Float[np.ndarray, "X Y Z"], origin: Float[np.ndarray, " 3"], spacing: float, config: MeshConfig
) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"]] | None:
    """The surface around the positive values of a lattice, cleaned and smoothed; None if there are none.

    It is oriented outwards, and closed at the edge of the lattice, where `field` is changed in place.
    """
    from skimage.measure import marching_cubes

    border = np.ones(field.shape, dtype=bool)
    border[1:-1, 1:-1, 1:-1] = False
    field[border] = -LOG_RANGE
    if not (field > 0).any():
        return None
    vertices, faces, _, _ = marching_cubes(field, 0.0, gradient_direction="descent")
    vertices, faces = origin + spacing * vertices.astype(np.float64), faces.astype(np.int64)
    if signed_volume(vertices, faces) < 0:
        faces = faces[:, ::-1].copy()
    vertices, faces = main_pieces(vertices, faces, config.floaters)
    return taubin(vertices, faces, config.smoothing), faces


def _filled(solid: np.ndarray, views: list[Picture]) -> np.ndarray:
    """`solid` with invisible hollows filled, and the pinholes that lead to them closed.

    Gaussians fitted to pictures often leave the inside of an object empty behind a skin with holes.
    """
    hollow = enclosed(solid, views) & ~solid
    if not hollow.any():
        return solid
    filled = solid | hollow
    closed = ~grown(~grown(filled, 2), 2, outside=True)
    return filled | (closed & grown(hollow, 3))


def main_pieces(vertices: np.ndarray, faces: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces without pieces below `share` of the largest volume.

    The inner walls of hollows, whose volume is negative, are left out as well.
    """
    piece = mesh_pieces(len(vertices), faces)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    volumes = np.bincount(piece[faces[:, 0]], weights=np.einsum("fi,fi->f", a, np.cross(b, c)))
    kept = volumes >= max(share * volumes.max(initial=0.0), 1e-300)
    faces = faces[kept[piece[faces[:, 0]]]]
    return _used(vertices, faces)


def _used(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices without those that no face has, and the faces with their new numbers."""
    used = np.zeros(len(vertices), dtype=bool)
    used[faces] = True
    return vertices[used], (np.cumsum(used) - 1)[faces]


def decimate(vertices: np.ndarray, faces: np.ndarray, budget: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Quadric edge collapse (Garland and Heckbert 1997) to at most `budget` faces; None if none gets there.

    A fast collapse may fold the surface onto itself, so slower ones are tried until the result is closed.
    """
    import fast_simplification

    # The library compares lengths with fixed tolerances, so it is given a mesh of unit size around the origin.
    centre, size = 0.5 * (vertices.min(axis=0) + vertices.max(axis=0)), np.ptp(vertices, axis=0).max()
    unit = ((vertices - centre) / size).astype(np.float32)
    fitting = None
    for aggressiveness in (5, 4, 3):
        points, triangles = fast_simplification.simplify(
            unit, faces.astype(np.int32), target_count=budget, agg=aggressiveness
        )[:2]
        if len(triangles) <= budget:
            points, triangles = _used(points, _without_folds(triangles.astype(np.int64)))
            fitting = centre + size * points.astype(np.float64), triangles
            if is_closed(fitting[1]):
                return fitting
    return fitting


def _without_folds(faces: np.ndarray) -> np.ndarray:
    """Faces without pairs of triangles on the same three vertices, which lie back to back."""
    a, b, c = np.sort(faces, axis=1).T
    order = np.lexsort((c, a * (int(faces.max(initial=-1)) + 1) + b))
    same = (np.diff(a[order]) == 0) & (np.diff(b[order]) == 0) & (np.diff(c[order]) == 0)
    alone = np.ones(len(faces), dtype=bool)
    alone[order[1:][same]] = alone[order[:-1][same]] = False
    return faces[alone]


def is_closed(faces: Int[np.ndarray, "F 3"]) -> bool:
    """Whether every edge belongs to exactly two faces, which run along it in opposite directions."""
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    size = int(faces.max(initial=-1)) + 1
    forward = np.sort(edges[:, 0] * size + edges[:, 1])
    backward = np.sort(edges[:, 1] * size + edges[:, 0])
    return bool((np.diff(forward) > 0).all() and (forward == backward).all())


def is_watertight(mesh: TriMesh) -> bool:
    """`is_closed` for positions instead of vertices, because a seam of a texture has two vertices at one position.

    Faces with two corners at one position have neither inside nor outside, and do not count.
    """
    place = np.unique(mesh.vertices.detach().cpu().numpy(), axis=0, return_inverse=True)[1].reshape(-1)
    faces = place[mesh.faces.cpu().numpy()]
    line = (faces == np.roll(faces, 1, axis=1)).any(axis=1)
    return is_closed(faces[~line])


def signed_volume(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> float:
    """Volume inside a closed mesh; positive if its faces are counter-clockwise seen from outside."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6.0)


def vertex_normals(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]
) -> Float[np.ndarray, "V 3"]:
    """Unit normals: area-weighted means of the normals of the faces; +Y for a vertex whose faces have no area."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    flat = np.cross(b - a, c - a)
    summed = np.zeros_like(vertices)
    for axis in range(3):
        summed[:, axis] = np.bincount(
            faces.ravel(), weights=np.repeat(flat[:, axis], 3), minlength=len(vertices)
        )
    lengths = np.linalg.norm(summed, axis=1, keepdims=True)
    return np.where(lengths > 0, summed / np.maximum(lengths, 1e-300), [0.0, 1.0, 0.0])
