"""Films in H.264, encoded by the ffmpeg that belongs to imageio; its exit status and its frames are checked."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import UInt8

_COLORS = ("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709")
_CODEC = ("-an", "-vcodec", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-movflags", "+faststart")


def encode(place: Path, frames: Iterable[UInt8[np.ndarray, "H W 3"]], fps: float) -> None:
    """Writes the film into the file `place`. frames: at least one, all of one size with even sides.

    Raises OSError, with the encoder's own words, unless the encoder succeeds and the film holds all frames.
    """
    import imageio_ffmpeg

    stream = iter(frames)
    first = next(stream)
    height, width = first.shape[:2]
    rate = str(Fraction(fps).limit_denominator())
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *raw, "-i", "-", *_CODEC]
    command += ["-vf", "scale=out_color_matrix=bt709:out_range=tv", *_COLORS, str(place)]
    count = 0
    with _process(command) as entry:
        for frame in chain([first], stream):
            entry.write(np.ascontiguousarray(frame).data)
            count += 1
    try:
        found, _ = imageio_ffmpeg.count_frames_and_secs(str(place))
    except RuntimeError as error:  # its message is the whole output of ffmpeg
        raise OSError("the film that was written does not open") from error
    if found != count:
        raise OSError(f"the film that was written has {found} of {count} frames")


@contextmanager
def _process(command: list[str]) -> Iterator[IO[bytes]]:
    """The entry of a program, which is closed at the end of the block. Raises OSError unless the program then ends
    with status 0; if the block raises, the program is ended."""
    # Its messages go into a file, because it would wait for ever for somebody who reads a full pipe.
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=messages,
            start_new_session=True,  # Ctrl-C is for threedgen, which may want to finish the film
        )
        assert process.stdin is not None
        try:
            yield process.stdin
            process.stdin.close()
        except BrokenPipeError:
            pass  # the program has ended before: its status and its messages say why
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
            with suppress(BrokenPipeError):  # it holds on to what nobody took
                process.stdin.close()
        if process.returncode != 0:
            messages.seek(0)
            lines = messages.read().decode(errors="replace").split("\n")
            said = next((line.rpartition(": ")[2] for line in reversed(lines) if line.strip()), "")
            raise OSError(said or f"the encoder ended with status {process.returncode}")
