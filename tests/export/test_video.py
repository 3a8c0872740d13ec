"""Turntables, sheets and frames, read back with imageio."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from threedgen.cameras.orbit import spherical
from threedgen.core.errors import UserError
from threedgen.core.png import to_uint8
from threedgen.core.types import Cameras
from threedgen.export.video import orbit_frames, write_contact_sheet, write_frames, write_video


def flat(count: int, height: int, width: int) -> list[np.ndarray]:
    """Frames of one colour each, from red to blue."""
    frames = []
    for index in range(count):
        share = index / max(1, count - 1)
        color = np.array([200 * (1 - share), 60, 200 * share])
        frames.append(np.broadcast_to(color.astype(np.uint8), (height, width, 3)).copy())
    return frames


def test_orbit_asks_for_one_even_turn_from_the_front() -> None:
    asked: list[Cameras] = []

    def render(cameras: Cameras) -> torch.Tensor:
        asked.append(cameras)
        azimuth, *_ = spherical(cameras)
        shade = (azimuth % 360.0) / 360.0
        return shade.reshape(-1, 1, 1, 1).expand(-1, cameras.height, cameras.width, 3)

    frames = list(orbit_frames(render, 10, size=16, elevation=20.0, radius=2.5, batch=4))
    assert len(frames) == 10
    assert all(frame.shape == (16, 16, 3) for frame in frames)
    assert [len(cameras) for cameras in asked] == [4, 4, 2]
    shades = [int(frame[0, 0, 0]) for frame in frames]
    np.testing.assert_allclose(shades, np.round(np.arange(10) * 25.5), atol=1.0)
    _, elevation, radius = spherical(asked[2])
    torch.testing.assert_close(elevation, torch.full((2,), 20.0))
    torch.testing.assert_close(radius, torch.full((2,), 2.5))


def test_mp4_has_all_frames_even_sizes_and_the_right_colors(tmp_path: Path) -> None:
    frames = flat(11, 63, 50)
    path = write_video(tmp_path / "a.mp4", frames, fps=12)
    read = iio.imread(path, plugin="FFMPEG")
    assert read.shape == (11, 64, 50, 3)
    meta = iio.immeta(path, plugin="FFMPEG")
    assert meta["fps"] == 12
    assert "yuv420p" in meta["pix_fmt"]
    assert meta["codec"] == "h264"
    error = np.abs(read[:, 8:-8, 8:-8].astype(int) - np.stack(frames)[:, :48, :34].astype(int))
    assert error.max() <= 6
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_gif_has_all_frames_and_steady_delays(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.gif", flat(9, 40, 30), fps=20)
    read = iio.imread(path)
    assert read.shape == (9, 40, 30, 3)
    assert iio.immeta(path)["duration"] == 50
    assert iio.immeta(path)["loop"] == 0
    assert np.abs(read.astype(int) - np.stack(flat(9, 40, 30)).astype(int)).mean() < 6


def moving_picture(path: Path) -> tuple[np.ndarray, list[int], int | None]:
    """Frames, delays in milliseconds and the number of times it plays (0: for ever, None: not stated)."""
    frames, delays = [], []
    with Image.open(path) as picture:
        for frame in ImageSequence.Iterator(picture):
            frames.append(np.asarray(frame.convert("RGB")).astype(int))
            delays.append(round(frame.info["duration"]))
        return np.stack(frames), delays, picture.info.get("loop")


@pytest.mark.parametrize(("suffix", "unit"), [(".gif", 10), (".webp", 1)])
def test_animated_pictures_have_the_right_duration(tmp_path: Path, suffix: str, unit: int) -> None:
    _, delays, _ = moving_picture(write_video(tmp_path / f"a{suffix}", flat(48, 16, 16), fps=24))
    assert len(delays) == 48
    assert all(delay % unit == 0 and abs(delay - 1000 / 24) < unit for delay in delays)
    assert sum(delays) == 2000


def test_a_gif_leaves_out_frames_beyond_50_per_second(tmp_path: Path) -> None:
    _, delays, _ = moving_picture(write_video(tmp_path / "a.gif", flat(24, 16, 16), fps=120))
    assert len(delays) == 8
    assert min(delays) >= 20
    assert sum(delays) == 200


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_pictures_play_once_or_for_ever(tmp_path: Path, suffix: str) -> None:
    frames = flat(9, 41, 30)
    for loop, expected in ((True, 0), (False, {".gif": None, ".webp": 1}[suffix])):
        read, _, times = moving_picture(write_video(tmp_path / f"a{suffix}", frames, 20, loop))
        assert read.shape == (9, 41, 30, 3)
        assert times == expected
        assert np.abs(read - np.stack(frames)).mean() < 6


def test_folder_of_frames(tmp_path: Path) -> None:
    frames = flat(3, 8, 6)
    folder = write_video(tmp_path / "frames", frames)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["frame_00000.png", "frame_00001.png", "frame_00002.png"]
    np.testing.assert_array_equal(iio.imread(folder / names[1]), frames[1])
    write_frames(folder, frames[:1])


def test_contact_sheet_goes_row_by_row(tmp_path: Path) -> None:
    frames = flat(8, 10, 12)
    sheet = iio.imread(write_contact_sheet(tmp_path / "sheet.png", frames))
    assert sheet.shape == (20, 48, 3)
    for index, frame in enumerate(frames):
        row, column = divmod(index, 4)
        np.testing.assert_array_equal(sheet[10 * row : 10 * row + 10, 12 * column : 12 * column + 12], frame)
    seven = iio.imread(write_contact_sheet(tmp_path / "sheet.png", frames[:7]))
    assert (seven[10:, 36:] == 255).all()


def test_eight_bits_round_and_survive_bad_numbers() -> None:
    picture = torch.tensor([[[-1.0, 0.5, 2.0], [float("nan"), 0.25, 1.0]]])
    assert to_uint8(picture).tolist() == [[[0, 128, 255], [0, 64, 255]]]


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.mp4, \.gif"):
        write_video(tmp_path / "a.avi", flat(2, 8, 8))
    for name in ("a.mp4", "a.gif", "a.webp", "frames"):
        with pytest.raises(UserError, match="at least one"):
            write_video(tmp_path / name, [])
    with pytest.raises(UserError, match="at least one"):
        write_contact_sheet(tmp_path / "sheet.png", [])
    assert list(tmp_path.iterdir()) == []
