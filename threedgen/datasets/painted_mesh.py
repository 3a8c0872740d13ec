"""Meshes with colours, textures and transparency, and the pieces of their surface that a picture is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedgen.core.types import Cameras, TriMesh
from threedgen.renderers.mesh_shading import corner_weights, to_camera
from threedgen.renderers.rasterize import rasterize

_CHUNK = 1 << 20  # pixels of the bounding boxes of faces that are tested at a time
_INVISIBLE = 1.0 / 255.0  # pieces of at most this opacity are left out
_IN_FRONT = 1e-4  # share of the depth by which glass may be behind what it lies on

Wrap = tuple[str, str]  # what a texture does outside [0, 1] along u and v: "repeat", "mirror" or "clamp"
REPEATED: Wrap = ("repeat", "repeat")


@dataclass(frozen=True)
class PaintedMesh:
    """A mesh and the colours that viewers display: the interpolated colour of the corners of a face, times its
    texture if it has one.

    corner_colors: [F, 3, 3], and textures: [h, w, 3] each, display-referred in [0, 1]. corner_uvs: [F, 3, 2], v = 0
    at the bottom. texture: [F], the index into `textures`, -1 for none.
    opacity: [F] in [0, 1], of the material of a face, by which the opacity of its texture is multiplied. alphas:
    [h, w, 1] in [0, 1] for each texture, its opacity, or None if all of it is opaque. wraps: what each texture does
    outside [0, 1].
    """

    mesh: TriMesh
    corner_colors: Float[Tensor, "F 3 3"]
    corner_uvs: Float[Tensor, "F 3 2"]
    texture: Int[Tensor, " F"]
    textures: tuple[Float[Tensor, "h w 3"], ...]
    opacity: Float[Tensor, " F"]
    alphas: tuple[Float[Tensor, "h w 1"] | None, ...]
    wraps: tuple[Wrap, ...]

    @property
    def plain(self) -> bool:
        """Whether the whole mesh has one colour, so that without light its pictures would show only its outline."""
        colors = [self.corner_colors.reshape(-1, 3)[None], *(t.reshape(-1, 3)[None] for t in self.textures)]
        return all(float((c.amax(1) - c.amin(1)).max()) < 1.0 / 255.0 for c in colors)

    @property
    def clear(self) -> Bool[Tensor, " F"]:
        """Whether something may be seen through a face: its material or its texture is not all opaque."""
        holes = torch.tensor([alpha is not None for alpha in self.alphas] + [False])  # -1 is the last
        return (self.opacity < 1.0) | holes[self.texture]


@dataclass(frozen=True)
class Fragments:
    """Pieces of surface that one picture is made of, each seen at the centre of a pixel.

    pixel: [n], its number, row by row. face: [n]. bary: [n, 3], barycentric coordinates in the face. weight: [n] in
    [0, 1], its share of the pixel: a picture is the sum of the colours of pieces times their weights.
    """

    pixel: Int[Tensor, " n"]
    face: Int[Tensor, " n"]
    bary: Float[Tensor, "n 3"]
    weight: Float[Tensor, " n"]


def fragments(painted: PaintedMesh, camera: Cameras) -> Fragments:
    """What one camera sees: the nearest opaque piece at each pixel and all that is clear in front of it, where each
    piece hides a share of what is behind it that is its opacity.

    Both sides of faces are seen. A clear face that reaches behind the near plane is left out.
    """
    clear = painted.clear
    mesh = painted.mesh
    if not bool(clear.any()):
        return _opaque(mesh, camera)[0]
    solid = torch.nonzero(~clear)[:, 0]
    nearest, inverse_z = _opaque(replace(mesh, faces=mesh.faces[solid]), camera)
    chunks = _covered(mesh, torch.nonzero(clear)[:, 0], camera)
    pieces = [_kept(painted, chunk, inverse_z) for chunk in chunks]
    if not pieces:
        return replace(nearest, face=solid[nearest.face])
    pixel, face, bary, depth, opacity = (torch.cat(column) for column in zip(*pieces, strict=True))
    order = torch.argsort(depth, descending=True)  # depth is one over z
    order = order[torch.argsort(pixel[order], stable=True)]
    pixel, face, bary, opacity = pixel[order], face[order], bary[order], opacity[order]
    # The logarithm of what is left of the light, summed from the front of each pixel to the back.
    passed = torch.log1p(-opacity.double().clamp(max=1.0 - 1e-6))
    before = passed.cumsum(0) - passed
    _, group, count = torch.unique_consecutive(pixel, return_inverse=True, return_counts=True)
    first = count.cumsum(0) - count
    weight = (opacity * torch.exp(before - before[first][group])).float()
    left = (
        torch.zeros(camera.height * camera.width, dtype=torch.float64)
        .index_add_(0, pixel, passed)
        .exp()
        .float()
    )
    return Fragments(
        torch.cat([nearest.pixel, pixel]),
        torch.cat([solid[nearest.face], face]),
        torch.cat([nearest.bary, bary]),
        torch.cat([left[nearest.pixel], weight]),
    )


def surface(
    painted: PaintedMesh, face: Int[Tensor, " n"], bary: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
    """The colours and the opacities at barycentric coordinates of faces, texture included."""
    weights = bary[:, :, None]
    color = (weights * painted.corner_colors[face]).sum(1)
    uv = (weights * painted.corner_uvs[face]).sum(1)
    opacity = painted.opacity[face]
    layers = zip(painted.textures, painted.alphas, painted.wraps, strict=True)
    for index, (texture, alpha, wrap) in enumerate(layers):
        chosen = painted.texture[face] == index
        if alpha is None:
            color[chosen] *= sample(texture, uv[chosen], wrap)
        else:  # what is clear has no say in the colour
            mixed = sample(torch.cat([texture * alpha, alpha], dim=2), uv[chosen], wrap)
            color[chosen] *= mixed[:, :3] / mixed[:, 3:].clamp_min(1e-6)
            opacity[chosen] *= mixed[:, 3]
    return color, opacity


def sample(
    texture: Float[Tensor, "h w C"], uv: Float[Tensor, "n 2"], wrap: Wrap = REPEATED
) -> Float[Tensor, "n C"]:
    """The texture at texture coordinates, bilinear; the centres of texels are at half integers."""
    height, width = texture.shape[:2]
    x = uv[:, 0] * width - 0.5
    y = (1.0 - uv[:, 1]) * height - 0.5
    left, top = x.floor(), y.floor()
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    columns = [_wrapped(left.long() + i, width, wrap[0]) for i in (0, 1)]
    rows = [_wrapped(top.long() + i, height, wrap[1]) for i in (0, 1)]
    upper, lower = (texture[row, columns[0]] * (1 - fx) + texture[row, columns[1]] * fx for row in rows)
    return upper * (1 - fy) + lower * fy


def _wrapped(index: Int[Tensor, " n"], size: int, wrap: str) -> Int[Tensor, " n"]:
    """The texels that are shown at numbers outside of a texture of so many."""
    if wrap == "clamp":
        return index.clamp(0, size - 1)
    if wrap == "mirror":
        index = index % (2 * size)
        return torch.minimum(index, 2 * size - 1 - index)
    return index % size


def _opaque(mesh: TriMesh, camera: Cameras) -> tuple[Fragments, Float[Tensor, " P"]]:
    """The nearest pieces of a mesh, and one over camera z at each pixel, 0 where nothing is."""
    if not len(mesh.faces):
        none = torch.zeros(0, dtype=torch.int64)
        return Fragments(none, none, torch.zeros(0, 3), torch.zeros(0)), torch.zeros(
            camera.height * camera.width
        )
    seen = rasterize(mesh, camera)
    face_id = seen.face_id[0].flatten()
    pixel = torch.nonzero(face_id >= 0)[:, 0]
    bary = seen.bary[0].flatten(0, 1)[pixel]
    return Fragments(pixel, face_id[pixel].long(), bary, torch.ones(len(pixel))), seen.inverse_z[0].flatten()


_Chunk = tuple[Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, "n 3"], Float[Tensor, " n"]]


def _covered(mesh: TriMesh, chosen: Int[Tensor, " c"], camera: Cameras) -> Iterator[_Chunk]:
    """Every pixel centre in every chosen face, in parts: pixel, face, barycentric coordinates, one over z."""
    points = to_camera(mesh.vertices, camera)[0]
    corners = points[mesh.faces[chosen]]
    before = (corners[..., 2] > camera.near).all(1)
    chosen, corners = chosen[before], corners[before]
    intrinsics = camera.intrinsics[0]
    focal, centre = intrinsics[[0, 1], [0, 1]], intrinsics[:2, 2]
    image = corners[..., :2] / corners[..., 2:] * focal + centre
    limits = torch.tensor([camera.width - 1, camera.height - 1])
    low = (image.amin(1) - 0.5).ceil().clamp_min(0).long()
    high = torch.minimum((image.amax(1) - 0.5).floor().long(), limits)
    wide, tall = (high - low + 1).clamp_min(0).unbind(1)
    count = wide * tall
    # A pixel centre on an edge belongs to the face on one side of it, else glass would be doubled there.
    along = image[:, [2, 0, 1]] - image[:, [1, 2, 0]]
    owned = (along[..., 1] > 0) | ((along[..., 1] == 0) & (along[..., 0] > 0))
    part = (count.cumsum(0) - count) // _CHUNK
    for number in range(int(part.max()) + 1 if len(part) else 0):
        inside = torch.nonzero((part == number) & (count > 0))[:, 0]
        which = inside.repeat_interleave(count[inside])
        start = (count[inside].cumsum(0) - count[inside]).repeat_interleave(count[inside])
        offset = torch.arange(len(which)) - start
        column = low[which, 0] + offset % wide[which]
        row = low[which, 1] + offset // wide[which]
        weights = corner_weights(corners[which], intrinsics.expand(len(which), 3, 3), row, column)
        back = weights.sum(1, keepdim=True) < 0
        weights = torch.where(back, -weights, weights)
        hit = ((weights > 0) | ((weights == 0) & (owned[which] ^ back))).all(1)
        bary = weights[hit] / weights[hit].sum(1, keepdim=True)
        which = which[hit]
        yield (
            row[hit] * camera.width + column[hit],
            chosen[which],
            bary,
            1.0 / (bary * corners[which][..., 2]).sum(1),
        )


def _kept(
    painted: PaintedMesh, chunk: _Chunk, inverse_z: Float[Tensor, " P"]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The pieces of a chunk that are not hidden by what is opaque nor invisible, and their opacities."""
    pixel, face, bary, depth = chunk
    front = depth >= inverse_z[pixel] * (1.0 - _IN_FRONT)
    pixel, face, bary, depth = pixel[front], face[front], bary[front], depth[front]
    opacity = surface(painted, face, bary)[1]
    some = opacity > _INVISIBLE
    return pixel[some], face[some], bary[some], depth[some], opacity[some]
