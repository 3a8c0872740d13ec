"""Films as users have them, as pictures of what moves in them: mp4, gif, webp or a folder of pictures.

Every frame is cut out as `datasets.cut_outs` does it, and all are shown through one square window, the smallest
that holds what moves at every moment with a margin. Frames are read one after the other and reduced at once, so
memory is bounded whatever the film's size.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.paths import existing
from threedgen.datasets.cut_outs import alpha_of, framed, without_bleeding
from threedgen.datasets.picture import FORMATS, SMALLEST, Picture, read_picture

SIZE = 256  # pixels a side of what is kept
KEPT = 32  # frames: more than a motion of a few seconds needs
MOST = 900  # frames that are read
_LARGEST = 384  # pixels of a frame's longer side before it is cut out
_MARGIN = 1.15  # of the window, over what moves
_SOLID = 128
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_ANIMATIONS = (".gif", ".webp", ".png", ".apng")


@dataclass(frozen=True)
class Film:
    """rgba: [F, SIZE, SIZE, 4], F >= 2 moments at equal distances (to half a frame; of frames that are shown for
    unequal times the mean), the first and the last included. count: frames of the file. interval: seconds between
    two of them, None for a folder of pictures, which does not say. about: one line for the user."""

    rgba: UInt8[np.ndarray, "F S S 4"]
    count: int
    interval: float | None
    about: str

    def __len__(self) -> int:
        return len(self.rgba)

    @property
    def seconds(self) -> float | None:
        """From the first frame to the last."""
        return None if self.interval is None else self.interval * (self.count - 1)


def film_of(path: str | Path, size: int = SIZE, most: int = KEPT) -> Film:
    """What moves in a film, at most `most` of its frames.

    Raises UserError, with the frame's number where it is one frame's fault: nothing there, not a film, broken, less
    than two frames, more than MOST, frames of different sizes, no object that stands out of a frame.
    """
    place = existing(path, "there is no film '{path}'")
    pictures, interval = _pictures(place)
    if not pictures:
        raise UserError(f"'{path}' has no frames: name an mp4, a gif, a webp or a folder of pictures")
    if len(pictures) == 1:
        raise UserError(f"'{path}' has one frame: nothing moves in it; image-to-3d takes single pictures")
    shape = pictures[0].rgb.shape
    for number, picture in enumerate(pictures):
        if picture.rgb.shape != shape:
            raise UserError(
                f"frame {number + 1} of '{path}' has {picture.width} x {picture.height} pixels and the first "
                f"{pictures[0].width} x {pictures[0].height}: they must be of one size"
            )
    chosen = np.unique(np.linspace(0, len(pictures) - 1, min(most, len(pictures))).round().astype(int))
    cut = [_cut_out(pictures[number], int(number), path) for number in chosen]
    count, first = len(pictures), pictures[0]
    rate = "" if interval is None else f", {1.0 / interval:.3g} a second"
    about = f"{Path(path).name}: {count} frames of {first.width} x {first.height} pixels{rate}"
    about += f"; {len(cut)} are compared"
    return Film(_through_one_window(np.stack(cut), size), count, interval, about)


def write_film(folder: Path, film: Film) -> None:
    """As 00000.png and so on, with transparency."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, rgba in enumerate(film.rgba):
        Image.fromarray(rgba).save(folder / f"{number:05d}.png")


def read_film(folder: str | Path) -> Float[Tensor, "F S S 4"]:
    """What `write_film` wrote, colours times alpha and alpha, in [0, 1]. Raises UserError where it is not there."""
    files = sorted(existing(folder, "there is no film '{path}': text-to-4d --video makes one").glob("*.png"))
    pictures = [read_picture(file) for file in files]
    if len(pictures) < 2 or len({picture.rgb.shape for picture in pictures}) > 1:
        raise UserError(f"'{folder}' holds no film of equal frames: text-to-4d --video makes one")
    frames = []
    for picture in pictures:
        solid = np.full(picture.rgb.shape[:2], 255, np.uint8) if picture.alpha is None else picture.alpha
        frames.append(np.dstack([picture.rgb, solid]))
    rgba = torch.from_numpy(np.stack(frames).astype(np.float32) / 255.0)
    return torch.cat([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], dim=3)


def _pictures(path: Path) -> tuple[list[Picture], float | None]:
    """All frames, reduced, and the seconds between two of them."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _PICTURES)
        if len(files) > MOST:
            raise _too_long(path)
        return [read_picture(file, _LARGEST) for file in files], None
    if path.stat().st_size == 0:
        raise UserError(f"'{path}' is empty (0 bytes): copy it again")
    if path.suffix.lower() in _ANIMATIONS:
        return _animation(path)
    return _video(path)


def _animation(path: Path) -> tuple[list[Picture], float]:
    from PIL import Image, ImageSequence, UnidentifiedImageError

    pictures, seconds = [], []
    try:
        with Image.open(path, formats=FORMATS) as file:
            _check_size(path, *file.size)
            for frame in ImageSequence.Iterator(file):
                if len(pictures) == MOST:
                    raise _too_long(path)
                pictures.append(_picture(np.asarray(frame.convert("RGBA"))))
                # Browsers show frames that say no time for a tenth of a second.
                seconds.append((frame.info.get("duration") or 100.0) / 1000.0)
    except Image.DecompressionBombError:
        raise UserError(f"'{path}' has far too many pixels: make it smaller") from None
    except MemoryError:
        raise UserError(f"'{path}' does not fit into memory: make it shorter or smaller") from None
    except (
        UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error,
    ) as error:  # fmt: skip
        raise _unreadable(path) from error
    return pictures, float(np.mean(seconds[:-1] or seconds))


def _video(path: Path) -> tuple[list[Picture], float]:
    """By ffmpeg, which imageio brings."""
    import imageio_ffmpeg

    pictures: list[Picture] = []
    try:
        stream: Iterator[Any] = imageio_ffmpeg.read_frames(str(path), pix_fmt="rgb24")
        told = next(stream)
        width, height = told["size"]
        _check_size(path, width, height)
        for data in stream:
            if len(pictures) == MOST:
                raise _too_long(path)
            pictures.append(_picture(np.frombuffer(data, np.uint8).reshape(height, width, 3)))
        fps = float(told["fps"])
    except (OSError, RuntimeError, StopIteration, KeyError, ValueError) as error:
        raise _unreadable(path) from error
    if not 0.0 < fps < math.inf:
        raise _unreadable(path)
    return pictures, 1.0 / fps


def _picture(pixels: UInt8[np.ndarray, "H W C"]) -> Picture:
    from PIL import Image

    height, width = pixels.shape[:2]
    ratio = min(1.0, _LARGEST / max(height, width))
    image = Image.fromarray(pixels).resize(
        (max(1, round(width * ratio)), max(1, round(height * ratio))), Image.Resampling.BOX
    )
    small = np.asarray(image)
    seen_through = small.shape[2] == 4 and small[..., 3].min() < 250
    return Picture(small[..., :3], small[..., 3] if seen_through else None, width, height)


def _cut_out(picture: Picture, number: int, path: str | Path) -> UInt8[np.ndarray, "H W 4"]:
    try:
        alpha, source = alpha_of(picture, path)
    except UserError as error:
        raise UserError(
            f"frame {number + 1} of '{path}' shows no object that stands out ({str(error).partition(':')[0]}): cut "
            "the film to where all of it is seen, before a plain background, or give frames with transparency"
        ) from error
    return np.dstack([picture.rgb if source == "alpha" else without_bleeding(picture.rgb, alpha), alpha])


def _through_one_window(rgba: UInt8[np.ndarray, "F H W 4"], size: int) -> UInt8[np.ndarray, "F S S 4"]:
    """The smallest square around what is solid in any frame, with a margin; transparent beyond the frames."""
    _, rows, columns = np.nonzero(rgba[..., 3] >= _SOLID)
    low = np.array([columns.min(), rows.min()])
    high = np.array([columns.max(), rows.max()]) + 1
    middle = 0.5 * (low + high)
    side = _MARGIN * float((high - low).max())
    return np.stack([framed(frame, (float(middle[0]), float(middle[1])), side, size) for frame in rgba])


def _check_size(path: Path, width: int, height: int) -> None:
    if min(width, height) < SMALLEST:
        raise UserError(
            f"'{path}' has frames of {width} x {height} pixels: at least {SMALLEST} on each side are needed"
        )
    if max(width, height) > 8192:
        raise UserError(f"'{path}' has frames of {width} x {height} pixels: make it smaller, {SIZE} will do")


def _too_long(path: Path) -> UserError:
    return UserError(f"'{path}' has more than {MOST} frames: cut it to one motion of a few seconds")


def _unreadable(path: Path) -> UserError:
    return UserError(f"'{path}' cannot be read as a film: name an mp4, a gif, a webp or a folder of pictures")
