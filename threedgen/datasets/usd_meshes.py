"""The triangles of OpenUSD files, as they are at the first moment of the file.

Meshes in their places, instances and point instancers; polygons are cut into triangles; faces have the colours of
UsdPreviewSurface (`usd_paint`), of subsets too. What is invisible, a guide or a proxy is left out. Skeletons do not
move their meshes: these have the shape in which they were bound.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from threedgen.core.errors import UserError
from threedgen.datasets.decoding import damaged
from threedgen.datasets.mesh_paint import Piece
from threedgen.datasets.mesh_references import References
from threedgen.datasets.obj_polygons import cut
from threedgen.datasets.usd_files import modules, opened, z_is_up
from threedgen.datasets.usd_paint import Surfaces

_Y_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # of a world with Z up
_FLAT = 2000  # corners at most of a polygon that is cut: the time grows with the square


def read(path: Path, references: References, image: np.ndarray | None) -> list[Piece]:
    """The pieces of a USD file, with +Y up. references: notes textures that cannot be read. image: [h, w, 4], a
    texture that replaces those of its materials, or None.

    Warns of shapes that are no meshes. Raises UserError if it is damaged, if a texture is, and without usd-core.
    """
    stage = opened(path)
    Usd, UsdGeom, Tf = modules(path, "Usd", "UsdGeom", "Tf")
    surfaces = Surfaces(path, references, image)
    cache = UsdGeom.XformCache(Usd.TimeCode.EarliestTime())
    world = _Y_UP if z_is_up(stage) else np.eye(3)
    found: list[Piece] = []
    others: list[str] = []
    with damaged(path):
        try:
            for prim, place in _meshes(stage.GetPseudoRoot(), cache, others):
                for piece in _pieces(prim, surfaces):
                    matrix = place[:3, :3] @ world.T  # of rows
                    vertices = piece.vertices @ matrix + place[3, :3] @ world.T
                    if np.linalg.det(matrix) < 0:
                        piece = _turned_over(piece)
                    found.append(piece._replace(vertices=vertices))
        except Tf.ErrorException as error:
            raise UserError(f"{path} is no USD file, or damaged") from error
    if others:
        warnings.warn(
            f"'{path}' holds {len(others)} shapes that are no meshes, such as {others[0]}: they are left out",
            stacklevel=3,
        )
    return found


def _meshes(root: Any, cache: Any, others: list[str]) -> Iterator[tuple[Any, np.ndarray]]:
    """The meshes at and below a prim that are shown, and their matrices [4, 4] for rows. others: gets the names of
    other shapes."""
    Usd, UsdGeom = modules(Path(), "Usd", "UsdGeom")
    time = Usd.TimeCode.EarliestTime()
    prims = iter(Usd.PrimRange(root, Usd.TraverseInstanceProxies()))
    for prim in prims:
        form = UsdGeom.Imageable(prim)
        if form and (
            form.ComputeVisibility(time) == UsdGeom.Tokens.invisible
            or form.ComputePurpose() in (UsdGeom.Tokens.guide, UsdGeom.Tokens.proxy)
        ):
            prims.PruneChildren()
        elif prim.IsA(UsdGeom.PointInstancer):
            prims.PruneChildren()  # what it repeats is often below it, and is not shown there
            yield from _instances(prim, cache, others)
        elif prim.IsA(UsdGeom.Mesh):
            yield prim, np.array(cache.GetLocalToWorldTransform(prim))
        elif prim.IsA(UsdGeom.Gprim):
            others.append(f"{prim.GetTypeName()} {prim.GetPath()}")


def _instances(prim: Any, cache: Any, others: list[str]) -> Iterator[tuple[Any, np.ndarray]]:
    Usd, UsdGeom = modules(Path(), "Usd", "UsdGeom")
    time = Usd.TimeCode.EarliestTime()
    instancer = UsdGeom.PointInstancer(prim)
    above = np.array(cache.GetLocalToWorldTransform(prim))
    kinds = instancer.GetProtoIndicesAttr().Get(time)
    matrices = instancer.ComputeInstanceTransformsAtTime(time, time, UsdGeom.PointInstancer.ExcludeProtoXform)
    for number, target in enumerate(instancer.GetPrototypesRel().GetTargets()):
        prototype = prim.GetStage().GetPrimAtPath(target)
        outer = np.linalg.inv(np.array(cache.GetParentToWorldTransform(prototype)))
        for mesh, place in list(_meshes(prototype, cache, others)):
            for kind, matrix in zip(kinds, matrices, strict=False):
                if kind == number:
                    yield mesh, place @ outer @ np.array(matrix) @ above


def _pieces(prim: Any, surfaces: Surfaces) -> Iterator[Piece]:
    """The triangles of a mesh in its own space, one piece for each material."""
    Usd, UsdGeom = modules(Path(), "Usd", "UsdGeom")
    time = Usd.TimeCode.EarliestTime()
    mesh = UsdGeom.Mesh(prim)
    points, counts, corners = (
        attribute.Get(time)
        for attribute in (
            mesh.GetPointsAttr(),
            mesh.GetFaceVertexCountsAttr(),
            mesh.GetFaceVertexIndicesAttr(),
        )
    )
    if not points or not counts or not corners:
        return
    points, counts = np.array(points, np.float64), np.array(counts, np.int64)
    corners = np.array(corners, np.int64)
    if counts.min() < 0 or counts.sum() > len(corners):
        raise ValueError(f"the mesh {prim.GetPath()} has fewer corners than its faces need")
    holes = mesh.GetHoleIndicesAttr().Get(time)
    places, polygon = _triangles(points, counts, corners, set(holes or ()))
    if mesh.GetOrientationAttr().Get() == UsdGeom.Tokens.leftHanded:
        places = places[:, ::-1]
    for chosen, paint in surfaces.paints(prim, places, polygon, corners[places]):
        yield Piece(points, corners[places[chosen]], paint)


def _triangles(
    points: np.ndarray, counts: np.ndarray, corners: np.ndarray, holes: set[int]
) -> tuple[Int[np.ndarray, "F 3"], Int[np.ndarray, " F"]]:
    """Triangles as places in the list of corners, and the polygon of each."""
    starts = counts.cumsum() - counts
    places: list[np.ndarray] = []
    polygons: list[np.ndarray] = []
    solid = (
        np.array([number not in holes for number in range(len(counts))])
        if holes
        else np.full(len(counts), True)
    )
    for size in np.unique(counts[(counts >= 3) & solid]):
        which = np.nonzero((counts == size) & solid)[0]
        fan = np.stack([np.array([0, k, k + 1]) for k in range(1, size - 1)])
        each = np.broadcast_to(fan, (len(which), *fan.shape)).copy()
        inside = ((corners >= 0) & (corners < len(points))).all()
        if 3 < size <= _FLAT and inside:
            for row, number in enumerate(which):
                ring = points[corners[starts[number] : starts[number] + size]]
                better = cut([(float(x), float(y), float(z)) for x, y, z in ring])
                if better is not None:
                    each[row] = better
        places.append((starts[which, None, None] + each).reshape(-1, 3))
        polygons.append(np.repeat(which, size - 2))
    if not places:
        return np.zeros((0, 3), np.int64), np.zeros(0, np.int64)
    return np.concatenate(places), np.concatenate(polygons)


def _turned_over(piece: Piece) -> Piece:
    """A piece whose faces show their other side."""
    paint = piece.paint._replace(colors=piece.paint.colors[:, ::-1], uvs=piece.paint.uvs[:, ::-1])
    return piece._replace(faces=piece.faces[:, ::-1], paint=paint)
