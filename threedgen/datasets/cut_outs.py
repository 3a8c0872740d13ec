"""Cut-outs: the object of a picture without its background, centred and scaled as the cameras here frame it.

A cut-out is a square RGBA picture, seen by a camera with a field of view of FOV degrees at DISTANCE from the
origin. The smallest circle that holds the object, about the centre of its bounding box, has FILL times the side of
the picture as its diameter. The object therefore fits a ball of radius RADIUS around the origin.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from threedgen.cameras.orbit import DISTANCE, FOV
from threedgen.core.errors import UserError
from threedgen.core.types import Cameras
from threedgen.datasets.background_removal import remove_background
from threedgen.datasets.masks import require_object
from threedgen.datasets.picture import Picture, read_depth, read_mask, read_picture

FILL = 0.9
RADIUS = DISTANCE * math.sin(math.atan(FILL * math.tan(math.radians(FOV / 2.0))))  # 0.89 world units
SIZE = 512  # pixels per side: the most that any prior or render has
_LEAST_OBJECT = 16  # pixels of the diameter of that circle
_SOLID = 128  # alpha from which on a pixel belongs to the object
_SPECK = 0.001  # of the area of the largest part of the object: smaller ones are stray pixels
_HALO = 2  # pixels around a speck that are half transparent because of it


@dataclass(frozen=True)
class CutOut:
    """The object of a picture.

    rgba: [SIZE, SIZE, 4]. source: what separated object and background: alpha, mask, isnet,
    rembg or border. about: one line for
    the user. nearness: [SIZE, SIZE] in [0, 1] if a depth picture was given, 1 at the nearest point of the object
    and 0 at its farthest; it extends a little beyond the outline and is 0 outside.
    """

    rgba: UInt8[np.ndarray, "S S 4"]
    source: str
    about: str
    nearness: Float[np.ndarray, "S S"] | None = None


def cut_out_of(
    path: str | Path, mask: str | Path | None = None, depth: str | Path | None = None, size: int = SIZE
) -> CutOut:
    """The object of a picture file, in `size` x `size` pixels.

    The object is what `mask` shows if one is given, else what the alpha of the picture shows, else what
    `remove_background` finds. depth: a depth picture of the same size, see `read_depth`. Raises UserError as these
    do, and if there is no object, one of less than _LEAST_OBJECT pixels, or one of the same depth everywhere.
    """
    picture = read_picture(path)
    alpha, source, specks = alpha_of(picture, path, mask)
    rgb = picture.rgb if source == "alpha" else without_bleeding(picture.rgb, alpha)
    circle = bounding_circle(alpha >= _SOLID)
    if circle is None:
        raise UserError("nothing of the object is left after cutting it out: give a --mask")
    center, radius = circle[:2], circle[2]
    if 2.0 * radius < _LEAST_OBJECT:
        raise UserError(
            f"the object in '{path}' is {2.0 * radius:.0f} pixels large, {_LEAST_OBJECT} are needed: crop the "
            "picture closer to it and save it larger"
        )
    side = 2.0 * radius / FILL
    rgba = framed(np.dstack([rgb, alpha]), center, side, size)
    nearness = None
    if depth is not None:
        nearness = _nearness(read_depth(depth, picture), alpha, center, side, size, depth)
    how = {
        "alpha": "the object is what is not transparent",
        "mask": "the object is what the mask shows",
        "border": "no transparency and no mask, so what the border shows was taken for background",
        "isnet": "no transparency and no mask, so ISNet told it from the background",
        "rembg": "no transparency and no mask, so rembg told it from the background",
    }[source]
    share = 100.0 * float((alpha >= _SOLID).mean())
    about = (
        f"{Path(path).name}: {picture.width} x {picture.height} pixels, {how}; the object covers {share:.0f}%"
    )
    if specks:
        about += f"; {specks} {'speck was' if specks == 1 else 'specks were'} left out"
    return CutOut(rgba, source, about, nearness)


def write_cut_out(path: Path, cut_out: CutOut) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(cut_out.rgba).save(path)


def write_nearness(path: Path, nearness: Float[np.ndarray, "S S"]) -> None:
    """Writes the depth picture of a cut-out as 16 bits of grey."""
    from PIL import Image

    Image.fromarray(np.round(65535.0 * nearness).astype(np.uint16)).save(path)


def read_nearness(path: str | Path, like: str | Path) -> Float[Tensor, "S S 1"]:
    """The depth picture of the cut-out in the file `like`, in [0, 1]. Raises UserError as `read_depth` does."""
    return torch.from_numpy(read_depth(path, read_picture(like)).copy())[..., None]


def read_cut_out(path: str | Path) -> tuple[Float[Tensor, "S S 3"], Float[Tensor, "S S 1"]]:
    """The colours on white and the alpha of the cut-out in a file, in [0, 1]. Raises UserError as `read_picture`
    does, and for a picture that is not square or has no transparency."""
    picture = read_picture(path)
    if picture.width != picture.height or picture.alpha is None:
        raise UserError(
            f"'{path}' is no cut-out, a square picture with transparency: `threedgen image-to-3d` makes one"
        )
    rgb, alpha = (
        torch.from_numpy(channels.astype(np.float32) / 255.0) for channels in (picture.rgb, picture.alpha)
    )
    alpha = alpha[..., None]
    return rgb * alpha + (1.0 - alpha), alpha


def alpha_of(
    picture: Picture, path: str | Path, mask: str | Path | None = None
) -> tuple[UInt8[np.ndarray, "H W"], str, int]:
    """The alpha of the object; its source, as of a CutOut; and how many specks were left out, parts that are far
    smaller than the largest. Raises UserError if there is no object."""
    if mask is not None:
        alpha, source = read_mask(mask, picture), "mask"
        require_object(alpha, mask)
    elif picture.alpha is not None:
        alpha, source = picture.alpha, "alpha"
        if alpha.max() == 0:
            raise UserError(f"'{path}' is transparent all over: there is nothing to see")
        if alpha.max() < _SOLID:
            raise UserError(
                f"'{path}' is at most {100.0 * alpha.max() / 255.0:.0f}% opaque: make the object opaque, or give a "
                "mask (--mask MASK.png, white where the object is)"
            )
    else:
        alpha, source = remove_background(picture.rgb)
    kept, specks = _without_specks(alpha)
    return kept, source, specks


def _without_specks(alpha: UInt8[np.ndarray, "H W"]) -> tuple[UInt8[np.ndarray, "H W"], int]:
    """The alpha without stray pixels, which would move and shrink the frame of the object; and their number."""
    from scipy import ndimage

    labels, count = ndimage.label(alpha >= _SOLID, structure=np.ones((3, 3)))  # type: ignore[misc]
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    small = (areas < _SPECK * areas.max()) & (areas > 0)
    if not small.any():
        return alpha, 0
    kept = (labels > 0) & ~small[labels]
    near = ndimage.binary_dilation(small[labels], iterations=_HALO) & ~kept
    return np.where(near, 0, alpha).astype(np.uint8), int(small.sum())


def without_bleeding(
    rgb: UInt8[np.ndarray, "H W 3"], alpha: UInt8[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in which every pixel that is not solid has the colour of the nearest solid one, because pixels on
    the outline of the object show some of the background."""
    from scipy import ndimage

    solid = alpha >= 250
    if not solid.any():
        return rgb
    _, (rows, columns) = ndimage.distance_transform_edt(~solid, return_indices=True)  # type: ignore[misc]
    return rgb[rows, columns]


def bounding_circle(solid: Bool[np.ndarray, "H W"]) -> tuple[float, float, float] | None:
    """The centre (x, y) of the bounding box of what is solid, and the distance from there to the farthest corner of
    a pixel, in pixels; None if nothing is."""
    rows, columns = np.nonzero(solid)
    if len(rows) == 0:
        return None
    x, y = (0.5 * (places.min() + places.max() + 1) for places in (columns, rows))
    corners = np.hypot(np.abs(columns + 0.5 - x) + 0.5, np.abs(rows + 0.5 - y) + 0.5)
    return float(x), float(y), float(corners.max())


def framing(
    camera: Cameras, alpha: Callable[[Cameras], Float[Tensor, "H W"]], largest: float = math.inf
) -> tuple[Float[Tensor, " 3"], float]:
    """The shift and the scale after which an object, moved by p -> scale (p - shift), is where `camera` sees a
    cut-out of its picture.

    camera: one at DISTANCE with FOV. alpha: the opacity in [0, 1] that a camera of this kind sees of the object.
    largest: the scale at most.
    """
    shift, scale, half = torch.zeros(3), 1.0, 0.5 * camera.height
    pixel = DISTANCE * math.tan(math.radians(FOV / 2.0)) / half  # world units, at the origin's depth
    right, down = camera.world_from_camera[0, :3, :2].unbind(1)
    for _ in range(2):  # perspective: the second time corrects what the first moved
        circle = bounding_circle(alpha(moved(camera, shift, scale)).numpy() >= 0.5)
        if circle is None:
            break
        x, y, radius = circle
        shift = shift + (right * (x - half) + down * (y - half)) * pixel / scale
        scale = min(scale * FILL * half / radius, largest)
    return shift, scale


def moved(cameras: Cameras, shift: Float[Tensor, " 3"], scale: float) -> Cameras:
    """Cameras that see an object as `cameras` see it after p -> scale (p - shift)."""
    pose = cameras.world_from_camera.clone()
    pose[:, :3, 3] = pose[:, :3, 3] / scale + shift
    return replace(cameras, world_from_camera=pose)


def framed(
    rgba: UInt8[np.ndarray, "H W 4"], center: tuple[float, float], side: float, size: int
) -> UInt8[np.ndarray, "S S 4"]:
    """The square of `side` pixels around `center`, transparent outside the picture, resized to `size` pixels.
    Colours are weighted with alpha, so that the colours of transparent pixels do not mix in."""
    from PIL import Image

    padded, box = _window(rgba, center, side)
    picture = Image.fromarray(padded).convert("RGBa")  # premultiplied
    filter_ = Image.Resampling.LANCZOS if side > size else Image.Resampling.BICUBIC
    return np.asarray(picture.resize((size, size), filter_, box=box).convert("RGBA"))


def _nearness(
    depth: Float[np.ndarray, "H W"],
    alpha: UInt8[np.ndarray, "H W"],
    center: tuple[float, float],
    side: float,
    size: int,
    path: str | Path,
) -> Float[np.ndarray, "S S"]:
    """The same square of a depth picture, scaled to the range of the object, so that no depth of the background
    mixes in."""
    from PIL import Image

    solid = alpha >= _SOLID
    low, high = float(depth[solid].min()), float(depth[solid].max())
    if high <= low:
        raise UserError(
            f"the depth picture '{path}' has one depth for all of the object: give one that shows its shape"
        )
    filter_ = Image.Resampling.BOX if side > size else Image.Resampling.BILINEAR

    def seen(values: np.ndarray) -> np.ndarray:
        padded, box = _window(values.astype(np.float32), center, side)
        return np.asarray(Image.fromarray(padded).resize((size, size), filter_, box=box))

    weight = seen(solid)
    scaled = seen(solid * (depth - low) / (high - low))
    return np.where(weight > 0.0, scaled / np.maximum(weight, 1e-6), 0.0).clip(0.0, 1.0)


def _window(
    picture: np.ndarray, center: tuple[float, float], side: float
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """`picture` with as many zeros around it as the square of `side` pixels around `center` needs, and that square
    in it: left, top, right, bottom."""
    left, top = center[0] - 0.5 * side, center[1] - 0.5 * side
    height, width = picture.shape[:2]
    before = (max(0, math.ceil(-top)) + 1, max(0, math.ceil(-left)) + 1)
    after = (max(0, math.ceil(top + side - height)) + 1, max(0, math.ceil(left + side - width)) + 1)
    pads = [(before[0], after[0]), (before[1], after[1]), (0, 0)]
    corner = (left + before[1], top + before[0])
    return np.pad(picture, pads[: picture.ndim]), (*corner, corner[0] + side, corner[1] + side)
