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
from threedgen.core.pictures import resize
from threedgen.core.random import generator
from threedgen.core.types import TriMesh
from threedgen.datasets.gauge import centred, in_box
from threedgen.datasets.given import SMALLEST, held_out, read_pictures, require_something_seen
from threedgen.datasets.multiview import PosedPictures

HELD_OUT = 8  # at most, of pictures whose files set none apart
BACKGROUNDS = ("cut", "keep")
_WHITE = 0.97  # mean of a border of pictures above which there is nothing behind the object
_SCENERY = 2000  # points of the background at the start
_FARTHEST = 3.0  # times the distance of the cameras, of these points
_OF_CLOUD, _OF_SCENERY = 0.75, 0.125  # largest shares of the Gaussians at the start
_IN_BALL = 1.2  # world units: points of the cloud beyond it are not of the object

Points = tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]


def _nothing() -> Points:
    return torch.zeros(0, 3), torch.zeros(0, 3)


@dataclass(frozen=True)
class Target:
    """What an asset is fitted to.

    holdout: number of the views that score instead of train. about: one line for the user. shape: the mesh, if the
    pictures are renders of one. points: of the capture's cloud, where Gaussians start, with their colours. scenery:
    as many of a background that is fitted, too; none if there is no such background. box: [2, 3], lower and upper
    corner of what is the asset, in world units; None is everything.
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
) -> Target:
    """The pictures of a data set at the height `size`, in a world with the object in the unit ball.

    up: see `read_pictures`. background: "cut" needs masks or transparency, "keep" ignores masks; None cuts what
    there is. box: lower and upper corner of the object in the coordinates of the files; what is outside is fitted,
    and left out of the asset. Raises UserError.
    """
    pictures = read_pictures(path, up, size, masked=background != "keep")
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
    pictures, holdout = _tests_apart(pictures)
    edge = pictures.images[:, [0, -1]].mean()
    scenery = not outlined and float(edge) < _WHITE
    height, width = pictures.images.shape[1:3]
    count = len(pictures.images) - holdout
    said = [f"{path}: {count} views to train on and {holdout} held out, {width} x {height} pixels"]
    said += [done] if done else []
    points = _of_object(pictures, scenery)
    if len(points[0]):
        said.append(f"its cloud has {len(points[0])} points, where Gaussians start")
    if outlined:
        said.append("its background is cut by masks or transparency")
    elif box is not None:
        said.append("its background is fitted, and cut by the box")
    elif scenery:
        said.append("its background is kept, because it has no masks")
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
    return replace(
        pictures,
        images=resize(pictures.images, size, width),
        alpha=resize(pictures.alpha, size, width),
        cameras=cameras.resized(size, width),
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
        ),
        len(apart),
    )


def _of_object(pictures: PosedPictures, scenery: bool) -> Points:
    """The points of the cloud that may be seen: all if there is a background, else those in the ball."""
    points, colors = pictures.origin.points, pictures.origin.colors
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
