"""Maps of normals, which must be in one agreed frame: that of the object, in which the cameras are given.

In it the front is seen from azimuth 0: +X is to the right of that view, +Y is up, and +Z points at its camera. Maps
in the frame of a camera, or mirrored ones, would inflate or flatten what is made of them without an error, so they
are found by what every object obeys: a visible surface faces its camera, and at an outline it faces away from the
object. Only mirroring each picture of all of an object, normals included, goes unseen.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from threedgen.core.errors import UserError
from threedgen.core.types import Cameras
from threedgen.reconstruction.rays import pixel_rays

_LEAST = 0.65  # share of the pixels, weighted, that must agree: exact maps of five meshes reach 0.88
_STEEP = 0.4  # part of a unit normal across the view, above which it tells something at an outline
_LENGTH = 0.5  # of a vector, below which it is no normal

Maps = Float[Tensor, "V H W 3"]


def renormalised(maps: Maps) -> tuple[Maps, Float[Tensor, "V H W 1"]]:
    """Unit normals (zero on the background) and coverages of vectors that a model drew, which are seldom of unit
    length: those of nearly none are background."""
    length = maps.norm(dim=-1, keepdim=True)
    alpha = (length / _LENGTH - 0.5).clamp(0.0, 1.0)
    return torch.where(alpha > 0.0, F.normalize(maps, dim=-1), 0.0), alpha


def checked_frame(normals: Maps, alpha: Float[Tensor, "V H W 1"], cameras: Cameras) -> None:
    """Raises UserError unless maps of unit normals are in the frame of the cameras' world; it names the frame that
    they are in, if that is one that is often mistaken for it. alpha: coverages in [0, 1]."""
    if _agreement(normals, alpha, cameras) >= _LEAST:
        return
    scores = {name: _agreement(read, alpha, cameras) for name, read in _readings(normals, cameras).items()}
    mirrored = _agreement(normals.flip(2) * _axis(normals, 0), alpha.flip(2), cameras)
    scores["pictures that are mirrored left to right"] = max(
        mirrored, _agreement(normals.flip(2), alpha.flip(2), cameras)
    )
    name = max(scores, key=lambda reading: scores[reading])
    if scores[name] >= _LEAST:
        raise UserError(
            f"the normals do not face their cameras, but they would as {name}: turn them into the frame of the "
            "object (+X right, +Y up, +Z towards the camera at azimuth 0)"
        )
    raise UserError(
        "the normals do not face their cameras in any known frame: check that the maps and the cameras belong "
        "together"
    )


def _axis(like: Tensor, axis: int) -> Float[Tensor, " 3"]:
    signs = like.new_ones(3)
    signs[axis] = -1.0
    return signs


def _readings(normals: Maps, cameras: Cameras) -> dict[str, Maps]:
    """What maps would be in the frame of the object, had they been written in each of the frames of its name."""
    rotations = cameras.world_from_camera[:, :3, :3].to(normals)
    opengl = normals.new_tensor([1.0, -1.0, -1.0])

    def turned(maps: Maps, matrices: Tensor) -> Maps:
        return torch.einsum("vij,vhwj->vhwi", matrices.expand(len(maps), 3, 3), maps)

    found = {
        "normals of each camera's own frame (x right, y up, z backward)": turned(normals * opengl, rotations),
        "normals of each camera's own frame (x right, y down, z forward)": turned(normals, rotations),
        "normals of the first camera's frame (x right, y up, z backward)": turned(
            normals * opengl, rotations[:1]
        ),
        "normals of the first camera's frame (x right, y down, z forward)": turned(normals, rotations[:1]),
        "normals that point inwards": -normals,
    }
    for axis, letter in enumerate("xyz"):
        found[f"normals that are mirrored along {letter}"] = normals * _axis(normals, axis)
    return found


def _agreement(normals: Maps, alpha: Float[Tensor, "V H W 1"], cameras: Cameras) -> float:
    """How far maps obey both rules: the least of the share of the pixels that face their camera, in the worst view,
    and of the shares of the outlines whose normals point away from the object, along the rows and the columns."""
    _, directions, _ = pixel_rays(cameras.to(normals.device, normals.dtype), normals.shape[1])
    towards = -directions.unflatten(1, normals.shape[1:3])
    visible = (alpha[..., 0] > 0.9).to(normals)
    facing = ((normals * towards).sum(-1) > -0.05).to(normals) * visible
    shares = [(facing.sum((1, 2)) / visible.sum((1, 2)).clamp_min(1.0)).min()]
    own = torch.einsum("vji,vhwj->vhwi", cameras.world_from_camera[:, :3, :3].to(normals), normals)
    blurred = F.avg_pool2d(F.pad(alpha.permute(0, 3, 1, 2), (2, 2, 2, 2)), 5, stride=1)[:, 0]
    down, right = torch.gradient(blurred, dim=(1, 2))
    for axis, slope in ((0, right), (1, down)):
        # Only where the surface is steep: a flat face that leans a little ends at outlines on all of its sides.
        steep = own[..., axis] * (own[..., axis].abs() > _STEEP) * visible
        outwards = -slope * steep
        weight = outwards.abs().sum()
        if weight > 1e-3 * visible.sum():  # faces that are seen squarely say nothing at their outlines
            shares.append(outwards.clamp_min(0.0).sum() / weight)
    return float(torch.stack(shares).min())
