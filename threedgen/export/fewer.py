"""Meshes with fewer triangles: as few as the shape needs, and levels of detail for objects that are far away."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int

from threedgen.core.types import TriMesh
from threedgen.export.mesh import FEWEST_FACES, decimate, is_closed, vertex_normals
from threedgen.export.nearest import Surface, apart
from threedgen.renderers.mesh_shading import sample_texture
from threedgen.representations.texture_atlas import texels_of, texture_of, unwrap

_STEP = 2.0**0.25  # between the numbers of triangles that are tried
_LEVEL = 4  # times as few triangles in each level of detail
_RETRIES = 1.0, 0.93, 0.86  # shares of a number of triangles, if its decimation tears the surface open
_FEWEST_OF_LEVEL = 16
_SMALLEST_TEXTURE = 16

_Arrays = tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"]]


def simplified(mesh: TriMesh, deviation: float) -> TriMesh:
    """The mesh with as few triangles, but at least FEWEST_FACES, as keep its surface where it is.

    deviation: by how much 99 % of the surface may move, as a share of the diameter of the mesh; 0 keeps the mesh as
    it is. A closed mesh stays closed. The mesh is without uvs; colours of vertices are those of the nearest places,
    and normals are made anew.
    """
    if deviation == 0.0 or len(mesh.faces) <= FEWEST_FACES:
        return mesh
    vertices, faces = _arrays(mesh)
    before, found = Surface(vertices, faces), None
    # The deviation grows as triangles go, so their number is found by bisection.
    enough, too_few = 0, int(math.log(len(faces) / FEWEST_FACES, _STEP)) + 1
    while too_few - enough > 1:
        middle = (enough + too_few) // 2
        tried = _decimated(vertices, faces, int(len(faces) / _STEP**middle))
        if tried is not None and apart(before, Surface(*tried)) <= deviation * before.diameter:
            enough, found = middle, tried
        else:
            too_few = middle
    return mesh if found is None else _carried(mesh, before, *found)


def coarser(mesh: TriMesh) -> TriMesh | None:
    """The next level of detail: a quarter of the triangles, and a texture of half the size if there is one.

    The new texture has the colours of the old one at the nearest places. A closed mesh stays closed. None if the
    mesh cannot be made of so few triangles.
    """
    vertices, faces = _arrays(mesh)
    budget = len(faces) // _LEVEL
    reduced = _decimated(vertices, faces, budget) if budget >= _FEWEST_OF_LEVEL else None
    if reduced is None:
        return None
    before = Surface(mesh.vertices.detach().cpu().double().numpy(), mesh.faces.cpu().numpy())
    level = _carried(mesh, before, *reduced)
    if mesh.texture is None or mesh.uvs is None:
        return level
    size = max(_SMALLEST_TEXTURE, max(mesh.texture.shape[:2]) // 2)
    laid = unwrap(level, size)
    texels = texels_of(laid, size)
    near = before.nearest(texels.points.double().numpy(), texels.normals.double().numpy())
    corners = mesh.uvs.detach().cpu().double().numpy()[mesh.faces.cpu().numpy()[near.face]]
    uvs = torch.from_numpy((near.weights[..., None] * corners).sum(axis=1)).float()
    texture = texture_of(texels, sample_texture(mesh.texture.detach().cpu().float(), uvs))
    return replace(laid, vertex_colors=None, texture=texture)


def _arrays(mesh: TriMesh) -> _Arrays:
    """Vertices and faces, with one vertex where the texture is cut."""
    vertices, faces = mesh.vertices.detach().cpu().double().numpy(), mesh.faces.cpu().numpy()
    if mesh.uvs is None:
        return vertices, faces
    vertices, place = np.unique(vertices, axis=0, return_inverse=True)
    faces = place.reshape(-1)[faces]
    return vertices, faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]


def _decimated(vertices: np.ndarray, faces: np.ndarray, budget: int) -> _Arrays | None:
    """At most `budget` faces; None if they cannot be had, or not without tearing a closed surface open."""
    closed = is_closed(faces)
    for share in _RETRIES:
        found = decimate(vertices, faces, int(share * budget))
        if found is not None and len(found[1]) > 0 and (is_closed(found[1]) or not closed):
            return found
    return None


def _carried(mesh: TriMesh, before: Surface, vertices: np.ndarray, faces: np.ndarray) -> TriMesh:
    """Other vertices and faces as a mesh with the colours of `mesh`, whose surface is `before`, at its vertices."""
    colors = None
    if mesh.vertex_colors is not None:
        near = before.nearest(vertices)
        corners = mesh.vertex_colors.detach().cpu().numpy()[mesh.faces.cpu().numpy()[near.face]]
        colors = torch.from_numpy((near.weights[..., None] * corners).sum(axis=1).astype(np.float32))
    return TriMesh(
        vertices=torch.from_numpy(vertices.astype(np.float32)),
        faces=torch.from_numpy(faces.astype(np.int64)),
        vertex_colors=colors,
        normals=torch.from_numpy(vertex_normals(vertices, faces).astype(np.float32)),
        material=mesh.material,
    )
