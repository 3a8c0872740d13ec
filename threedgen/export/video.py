"""Pictures of a finished asset: videos as MP4, GIF or WebP, contact sheets, folders of frames.

The functions take any function from cameras to pictures, and know no renderer.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from threedgen.cameras.orbit import orbit
from threedgen.core import png
from threedgen.core.atomic import replacing, replacing_all, store, write_checked
from threedgen.core.errors import UserError
from threedgen.core.types import Cameras
from threedgen.export.h264 import encode
from threedgen.export.targets import FILMS

Frame = UInt8[np.ndarray, "H W 3"]
Render = Callable[[Cameras], Float[torch.Tensor, "B H W 3"]]

_GIF_FPS = 50.0


def orbit_frames(
    render: Render,
    count: int = 72,
    *,
    elevation: float = 15.0,
    radius: float = 3.2,
    fov_y: float = 40.0,
    size: int = 256,
    batch: int = 4,
) -> Iterator[Frame]:
    """`count` square frames of one turn around the origin, evenly spaced, starting at the front.

    render: Cameras -> rgb [B, size, size, 3] in [0, 1]. elevation, fov_y: degrees. radius: world units; with the
    defaults the whole unit sphere is visible. size: pixels. batch: largest number of views in one call of `render`.
    """
    azimuths = torch.arange(count) * (360.0 / count)
    for group in azimuths.split(batch):
        same = torch.ones_like(group)
        cameras = orbit(group, elevation * same, radius * same, fov_y, size, size)
        with torch.no_grad():
            pictures = render(cameras)
        yield from (png.to_uint8(picture) for picture in pictures)


def write_video(path: str | Path, frames: Iterable[Frame], fps: float = 24.0, loop: bool = True) -> Path:
    """Writes MP4, GIF or WebP by the suffix; a path without a suffix is a folder of PNG frames.

    loop: whether a GIF or WebP plays for ever or once; the other formats leave that to the player. Raises UserError
    for another suffix, without frames, and if the place cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".mp4":
        return write_mp4(path, frames, fps)
    if suffix == ".gif":
        return write_gif(path, frames, fps, loop)
    if suffix == ".webp":
        return write_webp(path, frames, fps, loop)
    if suffix == "":
        return write_frames(path, frames)
    raise UserError(
        f"cannot write {path.name}: use one of {', '.join(FILMS)}, or the name of a folder for PNG frames"
    )


def write_mp4(path: str | Path, frames: Iterable[Frame], fps: float = 24.0) -> Path:
    """Writes H.264, yuv420p, crf 18 with bt709 flags, which every player supports.

    An odd side gets one more row or column. Raises UserError without frames, and if the place cannot be written or
    the film there does not hold all frames.
    """
    path = Path(path)
    even = (np.pad(f, ((0, f.shape[0] % 2), (0, f.shape[1] % 2), (0, 0)), mode="edge") for f in frames)
    stream = _at_least_one(even, path)
    first = next(stream)
    with replacing(path) as temporary:
        encode(temporary, itertools.chain([first], stream), fps)
    return path


def write_gif(path: str | Path, frames: Iterable[Frame], fps: float = 24.0, loop: bool = True) -> Path:
    """A GIF with one palette for all frames, so that it does not flicker.

    Delays are whole hundredths of a second, chosen so that the total duration is right. A GIF has at most 50
    frames per second: further frames are left out, which may make it one frame longer.
    """
    from PIL import Image

    path = Path(path)
    step = math.ceil(fps / _GIF_FPS)  # browsers slow down if a delay is below 2 hundredths
    kept = itertools.islice(_at_least_one(frames, path), 0, None, step)
    pictures = [Image.fromarray(frame) for frame in kept]
    # The palette is made from a strip of small copies of all frames, which is cheap.
    strip = np.concatenate([np.asarray(picture.reduce(max(1, picture.width // 64))) for picture in pictures])
    palette = Image.fromarray(strip).quantize(256)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for picture in pictures]
    delays = _delays(len(indexed), fps / step, 10)
    forever: dict[str, Any] = {"loop": 0} if loop else {}  # without this entry a GIF plays once
    return _store_animation(path, "GIF", indexed, duration=delays, **forever)


def write_webp(path: str | Path, frames: Iterable[Frame], fps: float = 24.0, loop: bool = True) -> Path:
    """An animated WebP of quality 85. Delays are whole milliseconds, chosen so that the total duration is right."""
    from PIL import Image

    path = Path(path)
    pictures = [Image.fromarray(frame) for frame in _at_least_one(frames, path)]
    delays = _delays(len(pictures), fps, 1)
    return _store_animation(
        path, "WEBP", pictures, duration=delays, loop=0 if loop else 1, quality=85, method=4
    )


def _store_animation(path: Path, kind: str, pictures: Sequence[Any], **options: Any) -> Path:
    """Encoded in memory: Pillow does not notice when a full disk takes only a part of what it writes to a file."""
    encoded = io.BytesIO()
    pictures[0].save(encoded, kind, save_all=True, append_images=pictures[1:], **options)
    store(path, encoded.getvalue())
    return path


def _delays(count: int, fps: float, unit: int) -> list[int]:
    """Durations of `count` frames in milliseconds, multiples of `unit`, which add up to count / fps seconds."""
    ends = [unit * round(1000.0 * (frame + 1) / (fps * unit)) for frame in range(count)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def write_frames(folder: str | Path, frames: Iterable[Frame]) -> Path:
    """Writes frame_00000.png, frame_00001.png and so on into `folder`, which is made if it is missing.

    Earlier pictures stay as they are until all new ones are written.
    """
    folder = Path(folder)
    with replacing_all(folder) as temporary:
        for index, frame in enumerate(_at_least_one(frames, folder)):
            write_checked(temporary / f"frame_{index:05d}.png", png.encoded(frame))
    return folder


def write_contact_sheet(path: str | Path, frames: Sequence[Frame], columns: int = 4) -> Path:
    """Writes all frames into one PNG, row by row. Cells after the last frame are white."""
    tiles = list(_at_least_one(frames, Path(path)))
    height, width, channels = tiles[0].shape
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows, columns, height, width, channels), 255, dtype=np.uint8)
    for index, tile in enumerate(tiles):
        sheet[index // columns, index % columns] = tile
    return png.write_png(
        path, sheet.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    )


def _at_least_one(frames: Iterable[Frame], path: Path) -> Iterator[Frame]:
    empty = True
    for frame in frames:
        empty = False
        yield frame
    if empty:
        raise UserError(f"cannot write {path}: there are no frames, ask for at least one")
