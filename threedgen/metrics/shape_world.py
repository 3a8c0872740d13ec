"""An asset compared with the true objects of the shape world: yaw, silhouettes, colours, retrieval, Janus faces.

All measures see the asset from VIEWS cameras on a ring around it, and true objects from a finer ring of TURNS
cameras, so that a difference in yaw is a shift along the ring. The background is always white.

A caption names a class and a colour, but not the parameters of the class: every member is a true "red chair".
So an asset is compared with the member that it resembles most, of MEMBERS random ones and the canonical one.
The IoU against the canonical member alone is reported as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import DISTANCE, FOV, orbit
from threedgen.core.pictures import psnr, silhouette_iou, ssim
from threedgen.core.random import derive_seed
from threedgen.core.types import Cameras
from threedgen.datasets import world
from threedgen.datasets.shapes import CLASSES, COLORS

VIEWS = 8
TURNS = 72
ELEVATION = 20.0
RESOLUTION = 128
RETRIEVAL_RESOLUTION = 32
RETRIEVAL_TURNS = 24

MEMBERS = 96
MEMBER_RESOLUTION = 64

# Classes that look different from every side. The two sides of a car are mirror images, but never equal.
CLASSES_WITH_A_FRONT = ("chair", "mug", "car")
JANUS_DEGREES = 60.0


def ring(count: int, resolution: int) -> Cameras:
    """`count` cameras evenly around the origin, the first in front of it."""
    azimuth = torch.arange(count) * (360.0 / count)
    full = torch.ones(count)
    return orbit(azimuth, ELEVATION * full, DISTANCE * full, FOV, resolution, resolution)


@dataclass(frozen=True)
class AssetScores:
    """Scores of an asset, means over its views.

    psnr (dB), ssim and iou ([0, 1]): against the nearest member. canonical_iou: against the canonical member.
    yaw: degrees by which the truth was turned. retrieved: share of the views whose nearest true picture has the
    right colour and class. janus: whether some view shows another side than its camera should see; worst_turn:
    the error of that view in degrees; both are None for classes without a front.
    """

    psnr: float
    ssim: float
    iou: float
    canonical_iou: float
    yaw: float
    retrieved: float
    janus: bool | None
    worst_turn: float | None


@cache
def _layers(shape: str, count: int, resolution: int) -> Float[Tensor, "B H W L"]:
    """Layers (see `world.render_layers`) of the canonical member of a class on a ring of `count` cameras."""
    scene = world.canonical(shape, "gray")
    return world.render_layers(world.build(scene), ring(count, resolution), objects=1)


def truth(shape: str, color: str, count: int, resolution: int) -> tuple[Tensor, Tensor]:
    """Pictures [count, R, R, 3] on white and alphas [count, R, R, 1] of the canonical member of a class."""
    layers = _layers(shape, count, resolution)
    palette = torch.tensor(COLORS[color]).expand(count, 1, 3)
    return world.compose(layers, palette, torch.ones(count, 3)), layers[..., -1:]


@cache
def _member_layers(shape: str, shift: int) -> tuple[tuple[world.Scene, ...], Float[Tensor, "M V H W L"]]:
    """Members of a class, the canonical one first, and their layers on the ring of VIEWS turned by `shift`."""
    rng = np.random.default_rng(derive_seed(0, f"members/{shape}", 0))
    scenes = [world.canonical(shape, "gray")]
    for _ in range(MEMBERS):
        scenes.append(world.Scene((world.WorldObject(shape, "gray", CLASSES[shape].sample(rng)),)))
    cameras = _turned_ring(shift, MEMBER_RESOLUTION)
    layers = [world.render_layers(world.build(scene), cameras, objects=1) for scene in scenes]
    return tuple(scenes), torch.stack(layers)


def _turned_ring(shift: int, resolution: int) -> Cameras:
    """The ring of VIEWS cameras, turned by `shift` steps of 360 / TURNS degrees."""
    index = (torch.arange(VIEWS) * (TURNS // VIEWS) + shift) % TURNS
    return ring(TURNS, resolution)[index]


def nearest_member(rgb: Float[Tensor, "V H W 3"], shape: str, color: str, shift: int) -> world.Scene:
    """The member of the class, in its colour, whose pictures are nearest to those of the asset."""
    scenes, layers = _member_layers(shape, shift)
    small = world.box_filter(rgb, rgb.shape[1] // MEMBER_RESOLUTION)
    palette, white = torch.tensor(COLORS[color]).expand(VIEWS, 1, 3), torch.ones(VIEWS, 3)
    errors = [(world.compose(one, palette, white) - small).square().mean() for one in layers]
    best = scenes[int(torch.stack(errors).argmin())].objects[0]
    return world.Scene((replace(best, color=color),))


def distances(rgb: Float[Tensor, "V H W 3"], truth_rgb: Float[Tensor, "T H W 3"]) -> Float[Tensor, "V T"]:
    """The squared distance of each view from every true view."""
    return torch.cdist(rgb.flatten(1)[None], truth_rgb.flatten(1)[None])[0].square()


def best_yaw(distance: Float[Tensor, "V T"]) -> int:
    """The shift of the ring of the truth, in steps, with the smallest total error of the views."""
    views, turns = distance.shape
    place = torch.arange(views) * (turns // views)
    shifts = torch.arange(turns)
    index = (place[None, :] + shifts[:, None]) % turns
    total = distance[torch.arange(views)[None, :], index].sum(dim=1)
    return int(total.argmin())


def worst_turn(distance: Float[Tensor, "V T"], shift: int) -> float:
    """The largest angle in degrees, over the views, between the true view that a view should show at the yaw of the
    asset and the true view that it resembles most; 180 if a back looks like a front."""
    views, turns = distance.shape
    expected = (torch.arange(views) * (turns // views) + shift) % turns
    error = (distance.argmin(dim=1) - expected).abs()
    return float(torch.minimum(error, turns - error).max()) * 360.0 / turns


def retrieve(rgb: Float[Tensor, "V H W 3"]) -> list[tuple[str, str]]:
    """The (colour, class) of the nearest true picture of each view, over all colours, classes and yaws."""
    factor = rgb.shape[1] // RETRIEVAL_RESOLUTION
    small = world.box_filter(rgb, factor).flatten(1)
    labels, nearest_of = [], []
    for shape in CLASSES:
        for color in COLORS:
            pictures, _ = truth(shape, color, RETRIEVAL_TURNS, RETRIEVAL_RESOLUTION)
            labels.append((color, shape))
            nearest_of.append(torch.cdist(small[None], pictures.flatten(1)[None])[0].amin(dim=1))
    nearest = torch.stack(nearest_of).argmin(dim=0)
    return [labels[i] for i in nearest.tolist()]


@torch.no_grad()
def score_asset(render: Callable[[Cameras], tuple[Tensor, Tensor]], shape: str, color: str) -> AssetScores:
    """Scores an asset against the true object.

    render: cameras -> (rgb on white [B, H, W, 3], alpha [B, H, W, 1]).
    """
    rgb, alpha = render(ring(VIEWS, RESOLUTION))
    turned_rgb, turned_alpha = truth(shape, color, TURNS, RESOLUTION)
    shift = best_yaw(distances(rgb, turned_rgb))
    index = (torch.arange(VIEWS) * (TURNS // VIEWS) + shift) % TURNS
    member_rgb, member_alpha = world.render(nearest_member(rgb, shape, color, shift), ring(TURNS, RESOLUTION))
    true_rgb, true_alpha = member_rgb[index], member_alpha[index]
    turn = None
    if shape in CLASSES_WITH_A_FRONT:
        turn = worst_turn(distances(rgb, member_rgb), shift)
    yaw = shift * 360.0 / TURNS
    return AssetScores(
        psnr=float(psnr(rgb, true_rgb).mean()),
        ssim=float(ssim(rgb, true_rgb).mean()),
        iou=float(silhouette_iou(alpha, true_alpha).mean()),
        canonical_iou=float(silhouette_iou(alpha, turned_alpha[index]).mean()),
        yaw=yaw if yaw <= 180.0 else yaw - 360.0,
        retrieved=sum(label == (color, shape) for label in retrieve(rgb)) / VIEWS,
        janus=None if turn is None else turn > JANUS_DEGREES,
        worst_turn=turn,
    )
