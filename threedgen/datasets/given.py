"""Views of given pictures as training cameras: shuffled epochs over a folder, with some views held out.

The folder has one of the layouts that `open_capture` knows. Views that are held out are
spread evenly over the order of the pictures, so that they lie between the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Int
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.paths import existing
from threedgen.core.random import generator
from threedgen.core.roles import CameraRoles
from threedgen.core.schedule import Schedule, value_at
from threedgen.core.settings import at_least, settings
from threedgen.core.types import Cameras
from threedgen.datasets.colmap import is_colmap, open_colmap
from threedgen.datasets.multiview import Capture, PosedPictures, open_srn
from threedgen.datasets.transforms_file import is_transforms, open_transforms

SMALLEST = 8  # pixels per side: scores and losses compare windows of a few pixels
_ONE_COLOR = 2.5 / 255.0  # difference between pixels that JPEG makes of one colour
_FARTHEST = 1e5  # world units: beyond it positions of float32 are too coarse
_FOCAL = (1e-2, 1e4)  # times the side of the picture: fields of view of 179 and 0.006 degrees
_OFF_CENTER = 100.0  # sides of the picture
_RIGID = 1e-3  # largest difference of R R^T of a rotation from 1: poses are often written with four digits


def read_pictures(
    path: str | Path,
    up: str | None = None,
    height: int | None = None,
    masked: bool = True,
    depths: bool = False,
) -> PosedPictures:
    """The posed pictures of a folder or a transforms .json file, their cameras checked, in a world with +Y up.

    up: "y" or "z", the axis of the folder's world that points up; None is what a transforms file says or its
    cameras show, and y for SRN. height, masked, depths: see `Capture.read`. Raises UserError as `open_capture`
    does, and for fewer than two pictures, pictures that cannot be read, are too large or below SMALLEST pixels, a
    pose that is not a rotation and a position, or a position, focal length or principal point that no camera has.
    """
    folder = Path(path)
    pictures = open_capture(folder, up).read(height, masked, depths)
    if len(pictures.images) < 2:
        raise UserError(f"'{folder}' holds one picture: a shape needs at least two, from different sides")
    tall, width = pictures.images.shape[1:3]
    if min(tall, width) < SMALLEST:
        raise UserError(
            f"'{folder}': pictures of {width} x {tall} pixels are too small, {SMALLEST} are needed on each side"
        )
    check_cameras(pictures, folder)
    return pictures


def is_capture(folder: Path) -> bool:
    """Whether a folder has one of the layouts that `open_capture` reads."""
    return is_transforms(folder) or (folder / "intrinsics.txt").is_file() or is_colmap(folder)


def open_capture(path: str | Path, up: str | None = None) -> Capture:
    """The pictures of a folder or a transforms .json file, of which none has been read yet.

    up: see `read_pictures`. Raises UserError if the folder is missing, has no known layout, or has broken files.
    """
    folder = existing(path, "there are no pictures at '{path}': the folder is missing")
    if is_transforms(folder):
        return open_transforms(folder, up)
    if (folder / "intrinsics.txt").is_file():
        return open_srn(folder, up or "y")
    if is_colmap(folder):
        return open_colmap(folder, up)
    if folder.is_dir():
        raise UserError(
            f"'{folder}' holds no posed pictures: it needs a transforms.json, intrinsics.txt with rgb/ and "
            "pose/, or images/ and a COLMAP model in sparse/0"
        )
    raise UserError(f"'{folder}' is not a folder of pictures, nor a transforms .json file")


def require_something_seen(pictures: PosedPictures, source: str | Path) -> None:
    """Raises UserError if all pixels of all pictures of `source` have one colour."""
    pixels = pictures.images.flatten(0, 2)
    if len(pixels) > 1 and bool((pixels.amax(0) - pixels.amin(0) <= _ONE_COLOR).all()):
        raise UserError(
            f"'{source}': all {len(pictures.images)} pictures show nothing but background, one colour everywhere"
        )


def check_cameras(pictures: PosedPictures, source: str | Path) -> None:
    """Raises UserError, with its number and name, for the first picture of `source` whose camera is impossible."""
    cameras = pictures.cameras
    poses, intrinsics = cameras.world_from_camera.double(), cameras.intrinsics.double()
    rotation = poses[:, :3, :3]
    rigid = (rotation @ rotation.transpose(1, 2) - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2))
    last = (poses[:, 3] - poses.new_tensor([0.0, 0.0, 0.0, 1.0])).abs().amax(1)
    size = intrinsics.new_tensor([cameras.width, cameras.height])
    focal = torch.stack([intrinsics[:, 0, 0], intrinsics[:, 1, 1]], dim=1) / size
    center = (intrinsics[:, :2, 2] / size - 0.5).abs().amax(1)
    away = poses[:, :3, 3].norm(dim=1)
    problems = (
        ("has a pose with NaN or infinite numbers", poses.isfinite().flatten(1).all(1)),
        ("has intrinsics with NaN or infinite numbers", intrinsics.isfinite().flatten(1).all(1)),
        ("has a pose that is not a rotation and a position (it may be scaled or mirrored)",
         (rigid < _RIGID) & (torch.linalg.det(rotation.nan_to_num()) > 0.0) & (last < _RIGID)),
        (f"is more than {_FARTHEST:g} world units away from the origin", away <= _FARTHEST),
        ("has no positive focal length", focal.amin(1) > 0.0),
        (f"has a focal length below {_FOCAL[0]:g} or above {_FOCAL[1]:g} times the size of its picture",
         (focal.amin(1) >= _FOCAL[0]) & (focal.amax(1) <= _FOCAL[1])),
        (f"has a principal point more than {_OFF_CENTER:g} times its size away from its middle",
         center <= _OFF_CENTER),
    )  # fmt: skip
    for problem, good in problems:
        if not good.all():
            index = int((~good).nonzero()[0])
            name = f" ({pictures.names[index]})" if pictures.names else ""
            raise UserError(
                f"'{source}': picture {index}{name} {problem}: correct it, or leave the picture out"
            )


def held_out(total: int, holdout: int) -> Int[Tensor, " H"]:
    """The indices of `holdout` of `total` pictures, evenly spread over their order."""
    return torch.div((2 * torch.arange(holdout) + 1) * total, 2 * max(holdout, 1), rounding_mode="floor")


class GivenViews(CameraRoles):
    """The views of given pictures for training, each equally often, in a new order every epoch.

    cameras: all views of the folder. train, held_out: indices into them.
    """

    @settings
    class Config:
        """Views of given pictures.

        Attributes:
            path: Folder of the pictures and their poses.
            batch: Number of views in a step.
            resolution (pixels): Height of the views, a number or a schedule; null is that of the pictures.
            holdout: Number of views that are kept out of the training.
        """

        path: str = ""
        batch: Annotated[int, at_least(1)] = 4
        resolution: Annotated[Schedule, at_least(1.0)] | None = None
        holdout: Annotated[int, at_least(0)] = 0

    def __init__(self, config: Config) -> None:
        """Raises UserError if the folder cannot be read, or if no picture would be left to train on."""
        if not config.path:
            raise UserError("the cameras name no folder of pictures: `threedgen fit FOLDER` sets their path")
        self.config = config
        cameras = read_pictures(config.path).cameras
        count = len(cameras)
        if config.holdout > count - 1:
            raise UserError(
                f"{config.holdout} pictures are to be held out, but there are {count}: at least one must be left"
            )
        self.cameras = Cameras(
            cameras.world_from_camera,
            cameras.intrinsics,
            cameras.height,
            cameras.width,
            cameras.time,
            index=torch.arange(count),
        )
        self.held_out = held_out(count, config.holdout)
        kept = torch.ones(count, dtype=torch.bool)
        kept[self.held_out] = False
        self.train = kept.nonzero().squeeze(1)

    def __call__(self, seed: int, step: int, total: int) -> Cameras:
        """The views of one step of `total`, with their `index`; they depend on the arguments alone."""
        count, first = len(self.train), step * self.config.batch
        chosen = []
        for position in range(first, first + self.config.batch):
            epoch, place = divmod(position, count)
            if place == 0 or not chosen:
                order = torch.randperm(count, generator=generator(seed, "views", epoch))
            chosen.append(self.train[order[place]])
        views = self.cameras[torch.stack(chosen)]
        if self.config.resolution is None:
            return views
        height = round(value_at(self.config.resolution, step, total))
        return views.resized(height, max(1, round(views.width * height / views.height)))
