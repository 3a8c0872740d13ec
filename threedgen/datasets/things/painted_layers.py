"""Catalogue objects as the training sees them: lit like the shape world, and in layers that any colours can fill.

The layers are those of `threedgen.datasets.world.render_layers` with two paints: how bright the first and the
second paint of the object is at each pixel, the colours of all else, and alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.cameras.orbit import DISTANCE, FOV, orbit
from threedgen.core.types import Cameras
from threedgen.datasets.multiview import PosedPictures
from threedgen.datasets.normal_maps import encoded
from threedgen.datasets.painted_mesh import Fragments, PaintedMesh, fragments, surface
from threedgen.datasets.things.thing_class import PAINTS
from threedgen.datasets.world import LIGHT, SUPERSAMPLING, compose, shade
from threedgen.renderers.mesh_shading import face_normals
from threedgen.renderers.rasterize import box_filter

_SIZE = 64  # pixels, of the pictures by which visible areas are measured
_VIEWS, _ELEVATIONS = 8, (10.0, 35.0)  # of these pictures: every other one is from higher up
_FRONT = 0.6  # a view from the front counts 1 + this, one from the back 1 - this
_LEAST = (0.4, 0.1)  # share of the visible area that the first and the second paint must have
_TINGE = 0.08  # share of a colour that may be no multiple of the colour of its paint
_SPREAD = 1.5  # how much brighter or darker than its paint a material may be


@dataclass(frozen=True)
class Paints:
    """The parts of an object that can have other colours.

    owner: [F], the paint of a face, -1 if its colours are fixed. colors: [2, 3], the own colours of the paints,
    display-referred; zero for a paint that the object does not have. shares: of the visible area, of each paint.
    """

    owner: Int[Tensor, " F"]
    colors: Float[Tensor, "2 3"]
    shares: tuple[float, float]


@dataclass(frozen=True)
class Visible:
    """Pieces of surface that are seen from around. face: [n]. color: [n, 3], without light. weight: [n], shares of
    the visible area, 1 together."""

    face: Int[Tensor, " n"]
    color: Float[Tensor, "n 3"]
    weight: Float[Tensor, " n"]


def visible(painted: PaintedMesh) -> Visible:
    """What 8 pictures from around show of an object. Those from the front count more than those from the back."""
    azimuth = (torch.arange(_VIEWS) + 0.5) * (360.0 / _VIEWS)
    elevation = torch.tensor(_ELEVATIONS).repeat(_VIEWS // 2)
    cameras = orbit(azimuth, elevation, torch.full((_VIEWS,), DISTANCE), FOV, _SIZE, _SIZE)
    seen = [fragments(painted, cameras[view : view + 1]) for view in range(_VIEWS)]
    face, bary = torch.cat([f.face for f in seen]), torch.cat([f.bary for f in seen])
    counts = 1.0 + _FRONT * torch.cos(torch.deg2rad(azimuth))
    weight = torch.cat([f.weight * count for f, count in zip(seen, counts, strict=True)])
    return Visible(face, surface(painted, face, bary)[0], weight / weight.sum().clamp_min(1e-9))


def coats(painted: PaintedMesh) -> Int[Tensor, " F"]:
    """A number for the coat of each face: faces have the same coat if they have the same texture, or none and the
    same colour at every corner."""
    steps = (painted.corner_colors * 255.0).round().long()
    flat = (steps == steps[:, :1]).flatten(1).all(1) & (painted.texture < 0)
    color = steps[:, 0] @ torch.tensor([1 << 16, 1 << 8, 1])
    return torch.unique(torch.where(flat, color, -2 - painted.texture), return_inverse=True)[1]


def find_paints(painted: PaintedMesh, recolored: bool = True) -> Paints:
    """The paints of an object: the coats of which most is seen, whose colours are multiples of one colour.

    The first paint must have 40 % of the visible area, the second 10 %. Coats of nearly the same colour are one
    paint. A coat with a texture is a paint if the texture is nearly one colour, lighter and darker. recolored:
    False means that there are no paints.
    """
    owner, colors, shares = torch.full((len(painted.texture),), -1), torch.zeros(len(PAINTS), 3), [0.0, 0.0]
    if recolored:
        seen, coat = visible(painted), coats(painted)
        count = int(coat.max()) + 1
        area = torch.zeros(count).index_add_(0, coat[seen.face], seen.weight)
        mean = torch.zeros(count, 3).index_add_(0, coat[seen.face], seen.color * seen.weight[:, None])
        mean = mean / area[:, None].clamp_min(1e-9)
        free = area > 0.0
        for paint, least in enumerate(_LEAST):
            best = int((area * free).argmax())
            bright, rest = _split(seen.color, mean[best].expand_as(seen.color))
            excess = torch.zeros(count).index_add_(0, coat[seen.face], rest.amax(1) * seen.weight)
            level = torch.zeros(count).index_add_(0, coat[seen.face], bright * seen.weight)
            like = (level > area / _SPREAD) & (level < area * _SPREAD)
            like &= excess <= _TINGE * mean.amax(1).clamp_min(0.1) * area
            like &= free
            share = float((area * like).sum())
            if not like[best] or share < least:
                break
            owner[like[coat]] = paint
            colors[paint], shares[paint] = mean[best], share
            free &= ~like
    return Paints(owner, colors, (shares[0], shares[1]))


def painted_layers(
    painted: PaintedMesh, paints: Paints, cameras: Cameras, light: Sequence[float] = LIGHT
) -> Float[Tensor, "B H W 6"]:
    """Anti-aliased layers: the shade of each of the two paints, the fixed colours, alpha. light: see `world.shade`.

    `world.compose` fills them with colours; with those of `paints` it gives the picture that `render` gives. What a
    texture has besides the colour of its paint is in the fixed colours.
    """
    views = [cameras[view : view + 1] for view in range(len(cameras))]
    return torch.cat([_layers(painted, paints, view, light) for view in views])


def painted_normals(painted: PaintedMesh, cameras: Cameras) -> Float[Tensor, "B H W 4"]:
    """Anti-aliased maps of the normals of faces, on the side that a camera sees; see `world.render_normals`."""
    maps = []
    for view in range(len(cameras)):
        camera = cameras[view : view + 1]
        seen, normals = _facing(painted, camera)
        maps.append(_gather(encoded(normals, torch.ones_like(normals[:, :1]))[seen.face], seen, camera))
    return torch.cat(maps)


def render(
    painted: PaintedMesh, cameras: Cameras, background: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> PosedPictures:
    """Anti-aliased pictures in the own colours, lit like the shape world."""
    images, alphas = [], []
    for view in range(len(cameras)):
        camera = cameras[view : view + 1]
        seen, color, shades = _lit(painted, camera, LIGHT)
        layers = _gather(torch.cat([color * shades, torch.ones_like(shades)], dim=1), seen, camera)
        alphas.append(layers[..., 3:])
        images.append(layers[..., :3] + (1.0 - layers[..., 3:]) * torch.tensor(background))
    return PosedPictures(torch.cat(images), torch.cat(alphas), cameras)


def recolor(
    layers: Float[Tensor, "B H W 6"], colors: Float[Tensor, "2 3"], background: Float[Tensor, " 3"]
) -> Float[Tensor, "B H W 3"]:
    """Pictures of layers, with the same colours in all views, in [0, 1]."""
    count = len(layers)
    return compose(layers, colors.expand(count, -1, -1), background.expand(count, -1)).clamp(0.0, 1.0)


def _layers(
    painted: PaintedMesh, paints: Paints, camera: Cameras, light: Sequence[float]
) -> Float[Tensor, "1 H W 6"]:
    seen, color, shades = _lit(painted, camera, light)
    owner = paints.owner[seen.face]
    bright, rest = _split(color, paints.colors[owner.clamp_min(0)])
    owned = torch.stack([owner == paint for paint in range(len(PAINTS))], dim=1).float() * bright[:, None]
    fixed = torch.where((owner >= 0)[:, None], rest, color)
    return _gather(torch.cat([owned * shades, fixed * shades, torch.ones_like(shades)], dim=1), seen, camera)


def _lit(
    painted: PaintedMesh, camera: Cameras, light: Sequence[float]
) -> tuple[Fragments, Float[Tensor, "n 3"], Float[Tensor, "n 1"]]:
    """The pieces that a camera sees in a finer picture, their colours, and their shades."""
    seen, normals = _facing(painted, camera)
    return seen, surface(painted, seen.face, seen.bary)[0], shade(normals, light)[seen.face]


def _facing(painted: PaintedMesh, camera: Cameras) -> tuple[Fragments, Float[Tensor, "F 3"]]:
    """The pieces that a camera sees in a finer picture, and the normals of all faces. Files disagree on which side
    of a face is the outer one, so each has the normal of the side that the camera sees."""
    mesh = painted.mesh
    fine = camera.resized(camera.height * SUPERSAMPLING, camera.width * SUPERSAMPLING)
    seen = fragments(painted, fine)
    normals = face_normals(mesh.vertices, mesh.faces)
    toward = ((camera.centers - mesh.vertices[mesh.faces[:, 0]]) * normals).sum(1, keepdim=True)
    return seen, torch.where(toward < 0.0, -normals, normals)


def _gather(values: Float[Tensor, "n C"], seen: Fragments, camera: Cameras) -> Float[Tensor, "1 h w C"]:
    """The picture of values of pieces, averaged over finer pixels."""
    height, width = camera.height * SUPERSAMPLING, camera.width * SUPERSAMPLING
    fine = torch.zeros(height * width, values.shape[1]).index_add_(
        0, seen.pixel, values * seen.weight[:, None]
    )
    return box_filter(fine.reshape(1, height, width, -1), SUPERSAMPLING)


def _split(
    color: Float[Tensor, "n 3"], paint: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
    """The greatest multiple of a paint that is in a colour, and the rest of the colour, which is not negative."""
    multiple = torch.where(paint > 1e-3, color / paint.clamp_min(1e-3), torch.inf).amin(1)
    multiple = torch.where(multiple.isinf(), 1.0, multiple)
    return multiple, (color - multiple[:, None] * paint).clamp_min(0.0)
