"""Files that do not fit: an earlier file stays, nothing is left beside it, and one line says why."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from clouds import ball
from movements import rising_ball
from test_gltf import icosphere

from threedgen.core.errors import UserError
from threedgen.core.png import write_png
from threedgen.datasets.splat_files import SplatParameters
from threedgen.export.gltf import write_glb
from threedgen.export.obj import write_obj
from threedgen.export.report import write_report
from threedgen.export.splat import write_splats
from threedgen.export.video import write_contact_sheet, write_video

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
NOISE = list(np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8))
WRITERS: dict[str, Callable[[Path], Any]] = {
    "a.mp4": lambda path: write_video(path, NOISE),
    "a.gif": lambda path: write_video(path, NOISE),
    "a.webp": lambda path: write_video(path, NOISE),
    "frame_00000.png": lambda path: write_video(path.parent, NOISE),
    "sheet.png": lambda path: write_contact_sheet(path, NOISE),
    "a.png": lambda path: write_png(path, NOISE[0]),
    "a.glb": lambda path: write_glb(path, icosphere()),
    "a.obj": lambda path: write_obj(path, icosphere(textured=True)),
    "a.ply": lambda path: write_splats(path, SplatParameters.from_cloud(ball())),
    "report.json": lambda path: write_report(path, {"text": "x" * 9000}),
    "anim.glb": lambda path: rising_ball().write(path),
    "anim.html": lambda path: rising_ball().write(path),
    "animation.json": lambda path: rising_ball().write(path.parent / "*.ply"),
    "anim.usdz": lambda path: rising_ball().write(path),
    "anim.usda": lambda path: rising_ball().write(path),
}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process, or of a program that it starts, can be larger: to both it is a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refused(write: Callable[[Path], Any], path: Path) -> str:
    """The one line that says why a file could not be written, which is all that the attempt leaves."""
    before = {item.name: item.read_bytes() for item in path.parent.iterdir()}
    with pytest.raises(UserError) as caught:
        write(path)
    assert {item.name: item.read_bytes() for item in path.parent.iterdir()} == before
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"cannot write {path.parent}")
    assert message.endswith("; choose another place or free some space")
    return message


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_does_not_fit_leaves_the_earlier_one(tmp_path: Path, name: str) -> None:
    if name.startswith("anim.usd"):
        pytest.importorskip("pxr")
    WRITERS[name](tmp_path / name)  # all of it fits
    with largest_file(400):
        refused(WRITERS[name], tmp_path / name)


@pytest.mark.parametrize("name", WRITERS)
def test_what_the_disk_did_not_keep_is_noticed(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.endswith(".mp4"):
        pytest.skip("written by the encoder, see below")
    if name.startswith("anim.usd"):
        pytest.importorskip("pxr")
    (tmp_path / name).write_text("old")
    whole = Path.write_bytes

    def half(path: Path, data: bytes) -> int:
        whole(path, data[: len(data) // 2])
        return len(data)

    monkeypatch.setattr(Path, "write_bytes", half)
    assert "what was written does not read back" in refused(WRITERS[name], tmp_path / name)


def test_no_folder_of_pictures_is_made_if_they_do_not_fit(tmp_path: Path) -> None:
    with largest_file(400), pytest.raises(UserError, match=r"cannot write .*new"):
        write_video(tmp_path / "new", NOISE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo '[mp4 @ 0x1] Error writing trailer: No space left on device' >&2; exit 228", "No space left"),
        ("exec cat >/dev/null", "the film that was written does not open"),
        (
            f'case "$*" in *null*) exec {FFMPEG} "$@";; esac; cat >/dev/null; cp SHORT "$last"',
            "has 2 of 6 frames",
        ),
    ],
)
def test_an_encoder_that_fails_is_noticed(
    tmp_path: Path, script: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = tmp_path / "films"
    path = write_video(films / "a.mp4", NOISE)
    short = write_video(tmp_path / "short.mp4", NOISE[:2])
    encoder = tmp_path / "encoder"
    encoder.write_text(f"#!/bin/sh\nfor last; do :; done\n{script.replace('SHORT', str(short))}\n")
    encoder.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(encoder))
    monkeypatch.setattr("imageio_ffmpeg._io.get_ffmpeg_exe", lambda: str(encoder))
    assert reason in refused(WRITERS["a.mp4"], path)


def test_a_film_whose_pictures_fail_is_not_written(tmp_path: Path) -> None:
    def frames() -> Iterator[np.ndarray]:
        yield NOISE[0]
        raise UserError("no more pictures")

    with pytest.raises(UserError, match="no more pictures"):
        write_video(tmp_path / "a.mp4", frames())
    assert list(tmp_path.iterdir()) == []
