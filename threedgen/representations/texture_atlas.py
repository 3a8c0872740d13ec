"""Texture atlases: cut a mesh open and lay it flat (xatlas), and paint the colours of its surface on it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import xatlas
from jaxtyping import Bool, Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.types import Cameras, TriMesh
from threedgen.renderers.mesh_shading import face_normals
from threedgen.renderers.rasterize import rasterize
from threedgen.representations.mesh_checks import check_mesh

GUTTER = 4  # texels between the charts of an atlas


def unwrap(mesh: TriMesh, size: int = 512) -> TriMesh:
    """The same surface with an atlas: uvs in [0, 1], v = 0 at the top, no two faces overlapping.

    Vertices on seams are duplicated, so their number grows; faces keep their number and order. Colours and normals
    follow their vertices; a texture is dropped. size: width and height in texels of the texture that the atlas is
    for, in which charts lie GUTTER texels apart. Raises UserError if the mesh cannot be laid flat: it has no faces,
    faces of vertices that it does not have, numbers that are not finite, or all vertices in one place.
    """
    check_mesh(mesh, "cannot unwrap")
    places = mesh.vertices.detach().cpu().double().numpy()
    # xatlas compares lengths with fixed tolerances, so it is given a mesh of unit size around the origin.
    centred = places - (0.5 * places.min(axis=0) + 0.5 * places.max(axis=0))
    extent = np.abs(centred).max()
    if not extent > 0.0:
        raise UserError("cannot unwrap: all vertices of the mesh are in one place")
    vertices = np.ascontiguousarray(centred / extent, dtype=np.float32)
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices, np.ascontiguousarray(mesh.faces.cpu().numpy(), dtype=np.uint32))
    options = xatlas.PackOptions()
    options.padding, options.resolution = GUTTER, size
    atlas.generate(pack_options=options)
    if atlas.atlas_count > 1:  # it did not fit one page: let the page grow
        options.resolution = 0
        atlas.generate(pack_options=options)
    origin, faces, uvs = atlas[0]
    if not np.isfinite(uvs).all():
        raise UserError("cannot unwrap: some triangles of the mesh have no area")
    source = torch.from_numpy(origin.astype(np.int64)).to(mesh.vertices.device)

    def of(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[source]

    return TriMesh(
        vertices=mesh.vertices[source],
        faces=torch.from_numpy(faces.astype(np.int64)).to(mesh.faces),
        vertex_colors=of(mesh.vertex_colors),
        normals=of(mesh.normals),
        uvs=torch.from_numpy(uvs.astype(np.float32)).to(mesh.vertices).clamp(0.0, 1.0),
    )


@dataclass(frozen=True)
class Texels:
    """The places of a surface that the centres of the texels of its texture show.

    covered: [size, size], whether the centre of a texel lies on a face; M of them do. points: [M, 3]. normals:
    [M, 3], unit, those of the mesh, interpolated, or those of its faces. colors: [M, 3], interpolated between the
    vertices, or mid grey.
    """

    covered: Bool[Tensor, "size size"]
    points: Float[Tensor, "M 3"]
    normals: Float[Tensor, "M 3"]
    colors: Float[Tensor, "M 3"]


def texels_of(mesh: TriMesh, size: int) -> Texels:
    """The texels of a texture of size x size of a mesh with uvs, on the CPU, without gradients.

    Raises ValueError if the mesh has no uvs or size is below 1.
    """
    if mesh.uvs is None or size < 1:
        raise ValueError("a texture needs a mesh with uvs and a size of at least 1")
    uvs, vertices, faces = (value.detach().cpu() for value in (mesh.uvs, mesh.vertices, mesh.faces))
    # The atlas is rendered as a flat mesh at z = 1 by a camera whose pixels are its texels.
    flat = TriMesh(torch.cat([uvs, torch.ones_like(uvs[:, :1])], dim=1).float(), faces)
    pixels = torch.diag(torch.tensor([float(size), float(size), 1.0]))[None]
    seen = rasterize(flat, Cameras(torch.eye(4)[None], pixels, size, size, torch.zeros(1), 0.5, 2.0))
    covered = seen.face_id[0] >= 0
    face = seen.face_id[0][covered].long()
    weights = seen.bary[0][covered][..., None].to(vertices)

    def between(values: Float[Tensor, "V 3"]) -> Float[Tensor, "M 3"]:
        return (weights * values.detach().cpu()[faces[face]]).sum(1)

    if mesh.normals is None:
        normals = face_normals(vertices, faces)[face]
    else:
        normals = torch.nn.functional.normalize(between(mesh.normals), dim=1)
    points = between(vertices)
    colors = torch.full_like(points, 0.5) if mesh.vertex_colors is None else between(mesh.vertex_colors)
    return Texels(covered, points, normals, colors)


def texture_of(texels: Texels, colors: Float[Tensor, "M 3"]) -> Float[Tensor, "size size 3"]:
    """The texture that has these colours at the texels.

    A texel whose centre lies on no face takes the colour of the nearest one whose centre does, so that filtering
    mixes no other colour in at a seam. If the mesh covers no texel, all of them are mid grey.
    """
    texture = torch.full((*texels.covered.shape, 3), 0.5)
    if not texels.covered.any():
        return texture
    texture[texels.covered] = colors.detach().cpu().float()
    return _dilated(texture, texels.covered.numpy())


def bake_vertex_colors(mesh: TriMesh, size: int) -> TriMesh:
    """The mesh with a texture instead of its vertex colours (or mid grey), unwrapped if it has no uvs."""
    laid = mesh if mesh.uvs is not None else unwrap(mesh, size)
    texels = texels_of(laid, size)
    texture = texture_of(texels, texels.colors)
    return dataclasses.replace(laid, vertex_colors=None, texture=texture.to(laid.vertices))


def _dilated(texture: Float[Tensor, "S S 3"], covered: np.ndarray) -> Float[Tensor, "S S 3"]:
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    row, column = torch.from_numpy(np.asarray(nearest).astype(np.int64))
    return texture[row, column]
