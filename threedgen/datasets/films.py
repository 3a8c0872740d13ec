"""Films (mp4, gif, webp or a folder of pictures) as pictures of the object that moves in them.

Every frame is cut out as in `threedgen.datasets.cut_outs`, and all frames are cropped to one square window, the
smallest that holds the object at every moment with a margin. Frames are read one after the other and reduced at
once, so the memory is bounded whatever the size of the film.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.paths import entries, existing
from threedgen.datasets.cut_outs import alpha_of, framed, without_bleeding
from threedgen.datasets.decoding import decoding
from threedgen.datasets.picture import FORMATS, SMALLEST, Picture, read_picture
from threedgen.datasets.videos import video_frames

SIZE = 256  # pixels per side of the frames that are kept
KEPT = 32  # frames that are kept: more than a motion of a few seconds needs
MOST = 900  # frames that are read
_LARGEST = 384  # pixels of the longer side of a frame before it is cut out
_MARGIN = 1.15  # of the side of the window to that of the object
_SOLID = 128  # alpha from which on a pixel belongs to the object
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_ANIMATIONS = (".gif", ".webp", ".png", ".apng")


@dataclass(frozen=True)
class Film:
    """The object of a film at F >= 2 evenly spaced moments, the first and the last frame among them.

    rgba: [F, SIZE, SIZE, 4]; the moments are evenly spaced in time to within half a frame. If the rate changes,
    they are what a player shows, and a frame that lasts long comes several times. count: number of frames in the
    file. interval: seconds between two of these, their mean if it changes; None for a folder of pictures, in which
    it is not known. about: one line for the user.
    """

    rgba: UInt8[np.ndarray, "F S S 4"]
    count: int
    interval: float | None
    about: str

    def __len__(self) -> int:
        return len(self.rgba)

    @property
    def seconds(self) -> float | None:
        """The time from the first frame to the last; None if it is not known."""
        return None if self.interval is None else self.interval * (self.count - 1)


def film_of(path: str | Path, size: int = SIZE, most: int = KEPT) -> Film:
    """The object that moves in a film, in at most `most` of its frames.

    Raises UserError if the film is missing, not a film, broken, or has less than two frames or more than MOST; and,
    with the number of the frame, if frames differ in size or one shows no object that stands out.
    """
    place = existing(path, "there is no film '{path}'")
    pictures, starts = _pictures(place)
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
    count, first = len(pictures), pictures[0]
    chosen, even = _even_moments(np.arange(count) if starts is None else np.array(starts), most)
    cut = {number: _cut_out(pictures[number], number, path) for number in dict.fromkeys(chosen)}
    interval = None if starts is None else (starts[-1] - starts[0]) / (count - 1)
    rate = "" if interval is None else f", {1.0 / interval:.3g} a second{'' if even else ' on average'}"
    about = f"{Path(path).name}: {count} frames of {first.width} x {first.height} pixels{rate}"
    about += f"; {len(cut)} are compared"
    rgba = np.stack([cut[number] for number in chosen])
    return Film(_through_one_window(rgba, size), count, interval, about)


def _even_moments(starts: Float[np.ndarray, " N"], most: int) -> tuple[list[int], bool]:
    """The numbers of the frames that are shown at evenly spaced moments, at most `most`; and whether the frames are
    evenly spaced themselves. starts: when each of N >= 2 frames begins, in any unit, increasing.

    There are as many moments as frames that are evenly spaced, else so many that few short frames are missed.
    """
    count, length = len(starts), float(starts[-1] - starts[0])
    half = 0.5 * length / (count - 1)
    if np.abs(starts - np.linspace(starts[0], starts[-1], count)).max() <= half:
        return np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist(), True
    moments = round(length / float(np.quantile(np.diff(starts), 0.1))) + 1
    wanted = np.linspace(starts[0], starts[-1], max(2, min(most, moments)))
    # The last digits of times differ from those of the moments.
    shown = np.searchsorted(starts, wanted + 1e-3 * half, side="right") - 1
    return shown.tolist(), False


def write_film(folder: Path, film: Film) -> None:
    """Writes the frames as 00000.png and so on, with transparency."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, rgba in enumerate(film.rgba):
        Image.fromarray(rgba).save(folder / f"{number:05d}.png")


def read_film(folder: str | Path) -> Float[Tensor, "F S S 4"]:
    """The frames that `write_film` wrote: colours times alpha, and alpha, in [0, 1]. Raises UserError if there are
    less than two."""
    files = sorted(existing(folder, "there is no film '{path}': text-to-4d --video makes one").glob("*.png"))
    pictures = [read_picture(file) for file in files]
    if len(pictures) < 2 or len({picture.rgb.shape for picture in pictures}) > 1:
        raise UserError(
            f"'{folder}' holds no film of at least two frames of one size: text-to-4d --video makes one"
        )
    frames = []
    for picture in pictures:
        solid = np.full(picture.rgb.shape[:2], 255, np.uint8) if picture.alpha is None else picture.alpha
        frames.append(np.dstack([picture.rgb, solid]))
    rgba = torch.from_numpy(np.stack(frames).astype(np.float32) / 255.0)
    return torch.cat([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], dim=3)


def _pictures(path: Path) -> tuple[list[Picture], list[float] | None]:
    """All frames, reduced, and when each of them begins, in seconds; None for a folder."""
    if path.is_dir():
        files = [file for file in entries(path) if file.suffix.lower() in _PICTURES]
        if len(files) > MOST:
            raise _too_long(path)
        return [read_picture(file, _LARGEST) for file in files], None
    if path.stat().st_size == 0:
        raise UserError(f"'{path}' is empty (0 bytes): copy it again")
    if path.suffix.lower() in _ANIMATIONS:
        return _animation(path)
    return _video(path)


def _animation(path: Path) -> tuple[list[Picture], list[float]]:
    from PIL import Image

    pictures, starts, now = [], [], 0.0
    with decoding(path, partial(_unreadable, path)):
        file = Image.open(path, formats=FORMATS)
    with file:
        _check_size(path, *file.size)
        for rgba, milliseconds in _frames(path, file):
            if len(pictures) == MOST:
                raise _too_long(path)
            pictures.append(_picture(rgba))
            starts.append(now)
            # Browsers show a frame without a duration for a tenth of a second.
            now += (milliseconds or 100.0) / 1000.0
    return pictures, starts


def _frames(path: Path, file: Any) -> Iterator[tuple[UInt8[np.ndarray, "H W 4"], float | None]]:
    """The frames of an animation that Pillow has opened, and for how many milliseconds each is shown."""
    from PIL import ImageSequence

    frames = ImageSequence.Iterator(file)
    while True:
        with decoding(path, partial(_unreadable, path)):
            frame = next(frames, None)
            if frame is None:
                return
            rgba, milliseconds = np.asarray(frame.convert("RGBA")), frame.info.get("duration")
        yield rgba, milliseconds


def _video(path: Path) -> tuple[list[Picture], list[float]]:
    pictures: list[Picture] = []
    with video_frames(path, _unreadable(path)) as video:
        _check_size(path, *video.size)
        for rgba in video.frames:
            if len(pictures) == MOST:
                raise _too_long(path)
            pictures.append(_picture(rgba))
        return pictures, video.starts()


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
        alpha, source, _ = alpha_of(picture, path)
    except UserError as error:
        raise UserError(
            f"frame {number + 1} of '{path}' shows no object that stands out ({str(error).partition(':')[0]}): cut "
            "the film to frames that show all of it before a plain background, or give frames with transparency"
        ) from error
    return np.dstack([picture.rgb if source == "alpha" else without_bleeding(picture.rgb, alpha), alpha])


def _through_one_window(rgba: UInt8[np.ndarray, "F H W 4"], size: int) -> UInt8[np.ndarray, "F S S 4"]:
    """The frames cropped to the smallest square that holds the object of all of them, with a margin; transparent
    beyond the edges of the frames."""
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
        raise UserError(
            f"'{path}' has frames of {width} x {height} pixels: make it smaller, {SIZE} on each side are enough"
        )


def _too_long(path: Path) -> UserError:
    return UserError(f"'{path}' has more than {MOST} frames: cut it to one motion of a few seconds")


def _unreadable(path: Path, error: Exception | None = None) -> str:
    return f"'{path}' cannot be read as a film: name an mp4, a gif, a webp or a folder of pictures"
