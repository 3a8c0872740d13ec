"""What `threedgen fit` makes of a capture: its pictures at their size, its world, its background and its tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.pictures import nearest, resize
from threedgen.core.random import generator
from threedgen.core.types import TriMesh
from threedgen.datasets.gauge import centred, in_box
from threedgen.datasets.given import SMALLEST, held_out, read_pictures, require_something_seen
from threedgen.datasets.multiview import PosedPictures, solid_depths

HELD_OUT = 8  # at most, of pictures whose files set none apart
BACKGROUNDS = ("cut", "keep")
_WHITE = 0.97  # mean of a border of pictures above which there is nothing behind the object
_SCENERY = 2000  # points of the background at the start
_FARTHEST = 3.0  # times the distance of the cameras, of these points
_OF_CLOUD, _OF_SCENERY = 0.75, 0.125  # largest shares of the Gaussians at the start
_OTHER_UNIT = 30.0  # largest ratio of a depth to the distance of its camera from the object, or the other way
_IN_BALL = 1.2  # world units: points of the cloud beyond it are not of the object
_LEAST_INSIDE = 0.5  # share of what the depths of an object show that is in that ball, if their unit is right

Points = tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]


def _nothing() -> Points:
    return torch.zeros(0, 3), torch.zeros(0, 3)


@dataclass(frozen=True)
class Target:
    """What an asset is fitted to.

    holdout: number of the views that score instead of train. about: one line for the user. shape: the mesh, if the
    pictures are renders of one. points: of the capture's cloud, else of its depths, where Gaussians start, with
    their colours. scenery: as many of a background that is fitted, too; none if there is no such background. box:
    [2, 3], lower and upper corner of what is the asset, in world units; None is everything.
    """

    pictures: PosedPictures
    holdout: int
    about: str
    shape: TriMesh | None = None
    points: Points = field(default_factory=_nothing)
    scenery: Points = field(default_factory=_nothing)
    box: Float[Tensor, "2 3"] | None = None


def of_folder(
    path: Path,
    size: int,
    up: str | None = None,
    background: str | None = None,
    box: Sequence[float] | None = None,
    holdout: int | None = None,
) -> Target:
    """The pictures of a data set at the height `size`, in a world with the object in the unit ball.

    holdout: how many pictures are held out; None: those that the files set apart, or some. up: see
    `read_pictures`. background: "cut" needs masks or transparency, "keep" ignores masks; None cuts what there is.
    box: lower and upper corner of the object in the coordinates of the files; what is outside is fitted, and left
    out of the asset. Raises UserError.
    """
    pictures = read_pictures(path, up, size, masked=background != "keep", depths=True)
    require_something_seen(pictures, path)
    outlined = bool((pictures.alpha < 0.5).any())
    if background == "cut" and not outlined and box is None:
        raise UserError(
            f"'{path}' has neither masks nor transparency to cut its background by: add mask_path to its frames or "
            "a folder masks/, or give the object's --box"
        )
    bounds = None
    if box is None:
        pictures, done = centred(pictures)
    else:
        pictures, done, bounds = in_box(pictures, box)
    pictures = _sized(pictures, path, size)
    pictures, apart = _tests_apart(pictures)
    holdout = apart if holdout is None or not 0 <= holdout < len(pictures.images) else holdout
    _require_unit(pictures, path)
    edge = pictures.images[:, [0, -1]].mean()
    scenery = not outlined and float(edge) < _WHITE
    height, width = pictures.images.shape[1:3]
    count = len(pictures.images) - holdout
    said = [f"{path}: {count} views to train on and {holdout} held out, {width} x {height} pixels"]
    said += [done] if done else []
    depths = _to_train_on(pictures, holdout)
    if depths is not None:
        deep = int(depths.isfinite().flatten(1).any(1).sum())
        said.append(f"the depths of {deep} of the {count} are used")
    elif pictures.depths is not None:
        said.append("none of its depths is known")
    cloud = pictures.origin.points, pictures.origin.colors
    if depths is not None:
        shown = _seen_points(pictures, depths)
        if not scenery:
            _require_inside(shown[0], path)
        cloud = cloud if len(cloud[0]) else shown
    points = _of_object(pictures, cloud, scenery)
    if len(points[0]):
        source = "its cloud has" if len(pictures.origin.points) else "they show"
        said.append(f"{source} {len(points[0])} points, where Gaussians start")
    if outlined:
        said.append("its background is cut by masks or transparency")
    elif box is not None:
        said.append("its background is fitted, and cut by the box")
    elif scenery:
        said.append(
            "its background is kept, because it has no masks: masks or --box would leave the object alone"
        )
    around = _scenery(pictures) if scenery else _nothing()
    return Target(pictures, holdout, "; ".join(said), None, points, around, bounds)


def _sized(pictures: PosedPictures, path: Path, size: int) -> PosedPictures:
    cameras = pictures.cameras
    if cameras.height <= size:
        return pictures
    width = round(cameras.width * size / cameras.height)
    if width < SMALLEST:
        raise UserError(
            f"'{path}': pictures of {cameras.width} x {cameras.height} pixels would be {width} pixels wide "
            f"at --resolution {size}, but {SMALLEST} are needed: raise --resolution"
        )
    alpha, depths = resize(pictures.alpha, size, width), pictures.depths
    return replace(
        pictures,
        images=resize(pictures.images, size, width),
        alpha=alpha,
        cameras=cameras.resized(size, width),
        depths=None if depths is None else solid_depths(nearest(depths, size, width), alpha),
    )


def _tests_apart(pictures: PosedPictures) -> tuple[PosedPictures, int]:
    """The pictures in an order in which `held_out` finds those that the files set apart, and the number of
    these."""
    total, apart = len(pictures.images), list(pictures.origin.held_out)
    if not apart or len(apart) == total:
        return pictures, min(total // HELD_OUT, HELD_OUT)
    order = torch.empty(total, dtype=torch.int64)
    places = torch.zeros(total, dtype=torch.bool)
    places[held_out(total, len(apart))] = True
    order[places] = torch.tensor(apart)
    order[~places] = torch.tensor([index for index in range(total) if index not in set(apart)])
    return (
        replace(
            pictures,
            images=pictures.images[order],
            alpha=pictures.alpha[order],
            cameras=pictures.cameras[order],
            names=tuple(pictures.names[index] for index in order.tolist()),
            origin=replace(pictures.origin, held_out=()),
            depths=None if pictures.depths is None else pictures.depths[order],
        ),
        len(apart),
    )


def _require_unit(pictures: PosedPictures, path: Path) -> None:
    """Raises UserError for depths in another unit than the positions of the cameras, as far as that can be told."""
    if pictures.depths is None or not bool(pictures.depths.isfinite().any()):
        return
    ratio = float(pictures.depths.nanmedian() / pictures.cameras.centers.norm(dim=1).median().clamp_min(1e-9))
    if not 1.0 / _OTHER_UNIT < ratio < _OTHER_UNIT:
        raise UserError(
            f"'{path}': its depths are {ratio:.2g} times the distances of its cameras from what they look at, so "
            "their unit is not that of the cameras: correct depth_unit_scale_factor"
        )


def _require_inside(points: Float[Tensor, "P 3"], path: Path) -> None:
    """Raises UserError for what depths show of an object if it is not where the object is: their unit is wrong."""
    inside = float((points.norm(dim=1) <= _IN_BALL).float().mean())
    if inside < _LEAST_INSIDE:
        raise UserError(
            f"'{path}': {100.0 * (1.0 - inside):.0f}% of what its depths show is outside of the object, so their "
            "unit is not that of the cameras: correct depth_unit_scale_factor, or leave the depths out"
        )


def _to_train_on(pictures: PosedPictures, holdout: int) -> Float[Tensor, "B H W"] | None:
    """The depths of the pictures without those that are held out; None if none of the others is known."""
    if pictures.depths is None:
        return None
    depths = pictures.depths.clone()
    depths[held_out(len(depths), holdout)] = torch.nan
    return depths if bool(depths.isfinite().any()) else None


def _seen_points(pictures: PosedPictures, depths: Float[Tensor, "B H W"]) -> Points:
    """What these depths of the pictures show, in world units, and its colours."""
    view, row, column = depths.isfinite().nonzero(as_tuple=True)
    pixels = torch.stack([column + 0.5, row + 0.5, torch.ones(len(view))], dim=1)
    cameras = pictures.cameras
    rays = torch.einsum("nij,nj->ni", torch.linalg.inv(cameras.intrinsics)[view], pixels)
    poses = cameras.world_from_camera[view]
    points = (
        torch.einsum("nij,nj->ni", poses[:, :3, :3], rays * depths[view, row, column, None]) + poses[:, :3, 3]
    )
    alpha = pictures.alpha[view, row, column]
    straight = (pictures.images[view, row, column] - (1.0 - alpha)) / alpha
    return points, straight.clamp(0.0, 1.0)


def _of_object(pictures: PosedPictures, cloud: Points, scenery: bool) -> Points:
    """The points of the cloud that may be seen: all if there is a background, else those in the ball."""
    points, colors = cloud
    far = _FARTHEST * float(pictures.cameras.centers.norm(dim=1).max()) if scenery else _IN_BALL
    good = points.norm(dim=1) <= far
    return points[good], colors[good]


def _scenery(pictures: PosedPictures) -> Points:
    """Points on a sphere behind the cameras, in the mean colour of the edges of the pictures."""
    draw = generator(0, "scenery", 0)
    far = _FARTHEST * float(pictures.cameras.centers.norm(dim=1).max())
    around = far * F.normalize(torch.randn(_SCENERY, 3, generator=draw), dim=1)
    return around, pictures.images[:, [0, -1]].mean((0, 1, 2)).expand(_SCENERY, 3)


def starting_points(target: Target, count: int) -> Points:
    """Points for the start of `count` Gaussians: of the cloud and of the background, at most the shares of each."""
    draw = generator(0, "starting points", 0)
    chosen = []
    for (places, colors), share in ((target.points, _OF_CLOUD), (target.scenery, _OF_SCENERY)):
        kept = torch.randperm(len(places), generator=draw)[: max(1, round(share * count))]
        chosen.append((places[kept], colors[kept]))
    return torch.cat([places for places, _ in chosen]), torch.cat([colors for _, colors in chosen])
