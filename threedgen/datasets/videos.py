"""The frames of video files, and when each of them begins, decoded by the ffmpeg that belongs to imageio."""

from __future__ import annotations

import itertools
import logging
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from threedgen.core.errors import UserError

# ffmpeg's own decoders of these formats leave the transparency out.
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_RAW = ["-pix_fmt", "rgba", "-c:v", "rawvideo"]
# Otherwise ffmpeg repeats frames of a changing rate to make it even.
_AS_THEY_ARE = ["-fps_mode", "passthrough"]


@dataclass(frozen=True)
class Video:
    """A video that is being decoded. size: width and height of its frames in pixels, turned upright. frames: all of
    them in their order, [H, W, 4] with straight alpha. starts: when each begins, in seconds, increasing; it may be
    called when the frames are read."""

    size: tuple[int, int]
    frames: Iterator[UInt8[np.ndarray, "H W 4"]]
    starts: Callable[[], list[float]]


@contextmanager
def video_frames(path: Path, unreadable: str) -> Iterator[Video]:
    """Decodes a video file inside the block. unreadable: what the UserError says for a file that is none, or
    that is broken. It may be raised while the frames are read."""
    codec = _decoder(path, unreadable)
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times"
        # The first output is a list of the times, the second, whose place imageio adds, the frames themselves.
        listed = ["-an", *_AS_THEY_ARE, "-enc_time_base", "demux", "-f", "framecrc", str(times)]
        stream = _read(path, codec, [*listed, *_RAW, *_AS_THEY_ARE, "-f", "image2pipe"])
        try:
            header = _next(stream, unreadable)
            width, height = header["size"]

            def frames() -> Iterator[UInt8[np.ndarray, "H W 4"]]:
                while (data := _next(stream, unreadable)) is not None:
                    yield np.frombuffer(data, np.uint8).reshape(height, width, 4)

            yield Video((width, height), frames(), lambda: _starts(times, float(header["fps"]), unreadable))
        finally:
            stream.close()


def _decoder(path: Path, unreadable: str) -> list[str]:
    """Options that choose the decoder of a file."""
    stream = _read(path, [], ["-t", "0"])
    try:
        name = _WITH_ALPHA.get(_next(stream, unreadable)["codec"])
        return ["-c:v", name] if name else []
    finally:
        stream.close()


def _read(path: Path, before: list[str], after: list[str]) -> Any:
    import imageio_ffmpeg

    logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # it warns of films that are turned upright
    return imageio_ffmpeg.read_frames(
        str(path), pix_fmt="rgba", bits_per_pixel=32, input_params=before, output_params=after
    )


def _next(stream: Iterator[Any], unreadable: str) -> Any:
    """The next item of imageio's reader, None at its end."""
    try:
        return next(stream, None)
    except (OSError, RuntimeError, ValueError, LookupError, AttributeError) as error:
        # It parses what ffmpeg prints, and fails in any of these ways for a file without pictures.
        raise UserError(unreadable) from error


def _starts(listed: Path, rate: float, unreadable: str) -> list[float]:
    """When each frame begins, by ffmpeg's list. Files without times, such as plain streams of a codec, are as fast
    as their header says. rate: that in frames a second."""
    unit, ticks = math.nan, []
    for line in listed.read_text().splitlines():
        if line.startswith("#tb 0:"):
            above, below = line.partition(":")[2].split("/")
            unit = float(above) / float(below)
        elif not line.startswith("#"):
            ticks.append(int(line.split(",")[2]))
    if all(one < two for one, two in itertools.pairwise(ticks)) and unit > 0.0:
        return [tick * unit for tick in ticks]
    if not 0.0 < rate < math.inf:
        raise UserError(unreadable)
    return [number / rate for number in range(len(ticks))]
