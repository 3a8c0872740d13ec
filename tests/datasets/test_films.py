"""Films of any kind become cut-outs of the object that moves; anything else is reported in one line."""

from __future__ import annotations

import subprocess
import wave

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from threedgen.core.errors import UserError
from threedgen.datasets import films
from threedgen.datasets.films import film_of, read_film, write_film
from threedgen.export.video import write_frames, write_gif, write_mp4
from threedgen.pipelines.film import seconds_of, view_of

RED = (200, 40, 30)


def disc(x: float, y: float, width: int = 61, height: int = 45, radius: float = 7.5):
    """[H, W, 4]: a red disc, transparent around it."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    cover = np.clip(radius + 0.5 - np.hypot(rows - y, columns - x), 0, 1)
    color = np.broadcast_to(np.array(RED), (height, width, 3))
    return np.round(np.dstack([color, 255 * cover])).astype(np.uint8)


def on_white(rgba):
    alpha = rgba[..., 3:] / 255.0
    return np.round(alpha * rgba[..., :3] + 255 * (1 - alpha)).astype(np.uint8)


PLACES = [(14.0, 15.0), (24.0, 25.0), (34.0, 30.0)]
FRAMES = [disc(*place) for place in PLACES]


def middles(film):
    """The position of the disc in each picture by its alpha, relative to the first, in diameters of the disc."""
    alpha = film.rgba[..., 3].astype(float)
    rows, columns = np.mgrid[: alpha.shape[1], : alpha.shape[2]] + 0.5
    total = alpha.sum((1, 2))
    places = np.stack([(alpha * columns).sum((1, 2)) / total, (alpha * rows).sum((1, 2)) / total], axis=1)
    return (places - places[0]) / (2 * np.sqrt(total.mean() / 255 / np.pi))


@pytest.mark.parametrize("kind", ["mp4", "gif", "webp", "folder"])
def test_every_kind_of_film_shows_the_path(kind, tmp_path):
    """The path of the disc in its own diameters, whatever the window, for frames of odd sizes that are not
    square."""
    path = tmp_path / f"clip.{kind}"
    if kind == "mp4":  # it stores colours at half the resolution, so its frames are larger
        large = [disc(3 * x, 3 * y, 183, 135, 22.5) for x, y in PLACES]
        write_mp4(path, [on_white(frame) for frame in large], fps=10)
    elif kind == "gif":
        write_gif(path, [on_white(frame) for frame in FRAMES], fps=10)
    elif kind == "webp":
        first, *others = [Image.fromarray(frame) for frame in FRAMES]
        first.save(path, save_all=True, append_images=others, duration=100, lossless=True)
    else:
        path.mkdir()
        for number, frame in enumerate(FRAMES):
            Image.fromarray(frame).save(path / f"{number}.png")
    film = film_of(path, size=64)
    assert film.rgba.shape == (3, 64, 64, 4)
    truth = (np.array(PLACES) - PLACES[0]) / 15.0
    np.testing.assert_allclose(middles(film), truth, atol=0.06)
    solid = film.rgba[film.rgba[..., 3] == 255]
    assert np.abs(solid[:, :3].mean(0) - RED).max() < 12
    if kind == "folder":
        assert film.seconds is None
    else:
        assert film.seconds == pytest.approx(0.2, rel=0.02)
    assert "3 are compared" in film.about


def test_long_films_are_thinned_evenly(tmp_path):
    frames = [disc(12.0 + 2.0 * number, 20.0) for number in range(16)]
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(tmp_path / "a.webp", save_all=True, append_images=others, duration=50, lossless=True)
    film = film_of(tmp_path / "a.webp", size=32, most=6)
    assert len(film) == 6
    assert film.count == 16
    assert film.seconds == pytest.approx(0.75)
    np.testing.assert_allclose(middles(film)[:, 0], np.linspace(0, 2, 6), atol=0.05)


def _ffmpeg(*arguments):
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *map(str, arguments)], check=True
    )


def _numbered(folder, frames=FRAMES):
    folder.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).resize((122, 90)).save(folder / f"{number}.png")
    return folder / "%d.png"


def test_a_film_of_a_changing_rate_keeps_its_duration(tmp_path):
    """The disc rests for a second between two quick moves: the frames are shown when they were taken."""
    _numbered(tmp_path / "raw")
    shown = [(0, 0.1), (1, 1.0), (2, 0.1)]
    lines = [f"file 'raw/{number}.png'\nduration {seconds}\n" for number, seconds in shown]
    (tmp_path / "list.txt").write_text("".join(lines))
    made = ["-fps_mode", "vfr", "-pix_fmt", "yuv444p", "-qp", 0, tmp_path / "a.mp4"]
    _ffmpeg("-f", "concat", "-safe", 0, "-i", tmp_path / "list.txt", *made)
    first, *others = [Image.fromarray(FRAMES[number]) for number, _ in shown]
    durations = [round(1000 * seconds) for _, seconds in shown]
    first.save(tmp_path / "a.webp", save_all=True, append_images=others, duration=durations, lossless=True)
    for name in ("a.mp4", "a.webp"):
        film = film_of(tmp_path / name, size=32)
        assert film.seconds == pytest.approx(1.1, abs=0.05), name
        assert film.count == 3
        assert "on average" in film.about
        middle = middles(film)[:, 0]
        np.testing.assert_allclose(
            middle, np.select([middle < 0.3, middle < 1.0], [0.0, 0.63], 1.26), atol=0.1
        )
        assert 0.6 < (np.abs(middle - 0.63) < 0.1).mean() < 0.95, "it rests for most of the time"


def test_a_film_of_a_phone_held_upright_is_turned(tmp_path):
    frames = _numbered(tmp_path / "raw")
    _ffmpeg("-framerate", 10, "-i", frames, "-pix_fmt", "yuv444p", tmp_path / "a.mp4")
    _ffmpeg("-display_rotation", 90, "-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "b.mp4")
    film = film_of(tmp_path / "b.mp4", size=32)
    assert "of 90 x 122 pixels, 10 a second" in film.about
    turned = middles(film_of(tmp_path / "a.mp4", size=32))[:, ::-1] * [1, -1]
    np.testing.assert_allclose(middles(film), turned, atol=0.1)


def test_the_transparency_of_a_film_is_read(tmp_path):
    """A black disc on hidden black, which no border tells apart, and sound beside it."""
    frames = _numbered(tmp_path / "raw", [np.dstack([0 * frame[..., :3], frame[..., 3]]) for frame in FRAMES])
    sound = ["-f", "lavfi", "-i", "sine=d=0.3"]
    _ffmpeg(
        "-framerate",
        10,
        "-i",
        frames,
        *sound,
        "-c:v",
        "libvpx-vp9",
        "-pix_fmt",
        "yuva420p",
        tmp_path / "a.webm",
    )
    _ffmpeg("-framerate", 10, "-i", frames, *sound, "-c:v", "qtrle", "-pix_fmt", "argb", tmp_path / "a.mov")
    for name in ("a.webm", "a.mov"):
        film = film_of(tmp_path / name, size=32)
        assert film.seconds == pytest.approx(0.2, rel=0.02)
        np.testing.assert_allclose(middles(film)[:, 0], [0, 0.63, 1.26], atol=0.1)


def test_a_folder_is_in_the_order_of_its_numbers(tmp_path):
    names = ["frame_9.png", "frame_10.png", "frame_100.PNG"]
    for name, frame in zip(names, FRAMES, strict=True):
        Image.fromarray(frame).save(tmp_path / name)
        (tmp_path / f"._{name}").write_bytes(b"\0\5\x16\7" + bytes(99))
    film = film_of(tmp_path, size=32)
    assert film.count == 3
    assert (np.diff(middles(film)[:, 0]) > 0.3).all()


def test_what_was_written_is_read(tmp_path):
    write_frames(tmp_path / "clip", [on_white(frame) for frame in FRAMES])
    film = film_of(tmp_path / "clip", size=32)
    write_film(tmp_path / "film", film)
    frames = read_film(tmp_path / "film").numpy()
    alpha = film.rgba[..., 3:] / 255.0
    np.testing.assert_allclose(frames[..., 3:], alpha, atol=1e-6)
    np.testing.assert_allclose(frames[..., :3], alpha * film.rgba[..., :3] / 255.0, atol=1e-6)


def _write(folder, *frames):
    folder.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number}.png")
    return folder


def _file(path, content):
    path.write_bytes(content)
    return path


def _sound(path):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(8000))
    return path


WHITE = np.full((45, 61, 3), 255, np.uint8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda at: at / "none.mp4", "there is no film"),
        (lambda at: _write(at / "a"), "has no frames: name an mp4"),
        (lambda at: _write(at / "a", FRAMES[0]), "has one frame: nothing moves in it"),
        (lambda at: write_gif(at / "a.gif", [on_white(FRAMES[0])]), "has one frame"),
        (lambda at: _file(at / "a.mp4", b""), r"is empty \(0 bytes\)"),
        (lambda at: _file(at / "a.mp4", b"no film" * 99), "cannot be read as a film"),
        (lambda at: _file(at / "a.gif", b"GIF89a" + bytes(99)), "cannot be read as a film"),
        (lambda at: _sound(at / "a.mp4"), "cannot be read as a film"),
        (
            lambda at: _write(at / "a", FRAMES[0], FRAMES[1][:-3]),
            "frame 2 of .* has 61 x 42 pixels and the first",
        ),
        (
            lambda at: _write(at / "a", on_white(FRAMES[0]), WHITE),
            "frame 2 of .* shows no object that stands out",
        ),
        (lambda at: _write(at / "a", disc(5, 5, 12, 12, 3.0)), "at least 16 on each side"),
        (lambda at: write_gif(at / "a.gif", [WHITE[:12, :12]] * 2), "12 x 12 pixels: at least 16"),
    ],
)
def test_what_is_no_film_is_reported(make, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        film_of(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_films_that_are_too_long_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(films, "MOST", 2)
    with pytest.raises(UserError, match="more than 2 frames: cut it"):
        film_of(_write(tmp_path / "a", *FRAMES))
    write_mp4(tmp_path / "a.mp4", [on_white(frame) for frame in FRAMES], fps=10)
    with pytest.raises(UserError, match="more than 2 frames: cut it"):
        film_of(tmp_path / "a.mp4")


def test_how_long_a_film_is_and_where_it_was_taken_from():
    film = films.Film(np.zeros((2, 8, 8, 4), np.uint8), 11, 0.1, "")
    assert seconds_of(film, None, 24.0) == pytest.approx(1.0)
    assert seconds_of(film, 1.05, None) == pytest.approx(1.0)
    with pytest.raises(UserError, match="lasts 1 seconds, not 3: leave --seconds out"):
        seconds_of(film, 3.0, None)
    pictures = films.Film(film.rgba, 11, None, "")
    assert seconds_of(pictures, None, 5.0) == pytest.approx(2.0)
    assert seconds_of(pictures, 3.0, 5.0) == 3.0
    assert view_of(None) == {}
    assert view_of("30,-5") == {"azimuth": 30.0, "elevation": -5.0}
    assert view_of("0,0,3.5")["distance"] == 3.5
    for wrong in ("", "left", "1,2,3,4", "0,100", "0,0,0.5"):
        with pytest.raises(UserError):
            view_of(wrong)


def test_a_header_of_an_enormous_picture_is_reported(tmp_path):
    path, side = tmp_path / "bomb.gif", (60000).to_bytes(2, "little")
    # A header without a table of colours, and a frame of that size with nothing in it.
    path.write_bytes(b"GIF89a" + 2 * side + bytes(3) + b"," + bytes(4) + 2 * side + b"\0\2\0;")
    with pytest.raises(UserError, match="too many pixels"):
        film_of(path)
