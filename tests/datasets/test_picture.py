"""Picture files: what users have comes back upright and in colour; what cannot be read is one line."""

from __future__ import annotations

import contextlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from threedgen.datasets.picture import LARGEST, read_mask, read_picture
from threedgen.errors import UserError

# Left half red, right half blue, green in the upper left corner: shows turns and mirrorings.
WIDTH, HEIGHT = 48, 32


def sample() -> np.ndarray:
    picture = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    picture[:, : WIDTH // 2] = (200, 30, 20)
    picture[:, WIDTH // 2 :] = (20, 40, 210)
    picture[:12, :12] = (20, 190, 40)
    return picture


def near(found: np.ndarray, expected: np.ndarray, mean: float = 1.0) -> bool:
    return bool(found.shape == expected.shape and np.abs(found.astype(float) - expected).mean() <= mean)


@pytest.mark.parametrize(
    ("name", "options", "mean"),
    [
        ("a.png", {}, 0.0),
        ("ä b.jpg", {"quality": 95}, 4.0),
        ("a.webp", {"lossless": True}, 0.0),
        ("a.bmp", {}, 0.0),
    ],
)
def test_formats(tmp_path, name, options, mean):
    Image.fromarray(sample()).save(tmp_path / name, **options)
    picture = read_picture(tmp_path / name)
    assert near(picture.rgb, sample(), mean)
    assert picture.alpha is None
    assert (picture.width, picture.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("mode", ["P", "CMYK", "L", "1", "LA", "RGBA"])
def test_modes(tmp_path, mode):
    if mode == "CMYK":
        Image.fromarray(sample()).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
        assert near(read_picture(tmp_path / "a.jpg").rgb, sample(), 8.0)
        return
    Image.fromarray(sample()).convert(mode).save(tmp_path / "a.png")
    expected = np.asarray(Image.fromarray(sample()).convert(mode).convert("RGB"))
    assert near(read_picture(tmp_path / "a.png").rgb, expected, 0.0)


def test_sixteen_bits_of_grey_are_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png").rgb[..., 0]
    assert np.abs(found - ramp / 257.0).max() <= 0.51


def test_transparency_of_a_palette_and_of_one_colour(tmp_path):
    picture = Image.fromarray(sample()).convert("P", palette=Image.Palette.ADAPTIVE, colors=3)
    blue = picture.getpixel((WIDTH - 1, HEIGHT - 1))
    picture.save(tmp_path / "p.png", transparency=blue)
    Image.fromarray(sample()).save(tmp_path / "c.png", transparency=(20, 40, 210))
    for name in ("p.png", "c.png"):
        alpha = read_picture(tmp_path / name).alpha
        assert alpha is not None
        assert (alpha[:, WIDTH // 2 :] == 0).all()
        assert (alpha[:, : WIDTH // 2] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, orientation):
    """A camera stores what it saw and says how to turn it: all eight come back the same way up."""
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the inverse of each, as Pillow numbers its turns
    stored = Image.fromarray(sample())
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    picture = read_picture(tmp_path / "a.png")
    assert near(picture.rgb, sample(), 0.0)
    assert (picture.width, picture.height) == (WIDTH, HEIGHT)


def test_a_large_jpeg_is_reduced_while_it_is_decoded(tmp_path):
    """It has more pixels than are ever decoded at once."""
    Image.new("RGB", (7000, 6000), (200, 30, 20)).save(tmp_path / "a.jpg")
    picture = read_picture(tmp_path / "a.jpg")
    assert picture.rgb.shape == (round(6000 * LARGEST / 7000), LARGEST, 3)
    assert (picture.width, picture.height) == (7000, 6000)


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims to be that large: 20000 x 20000 pixels of nothing compress to little."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(3 * width + 1) * 8)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_what_cannot_be_read_is_one_line(tmp_path):
    Image.fromarray(sample()).save(tmp_path / "good.png")
    good = (tmp_path / "good.png").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.jpg")
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "green")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    files = {
        "text.png": (b"hello, I am text", "is not a PNG, JPEG or WebP picture"),
        "phone.heic": (b"\x00\x00\x00\x18ftypheic", "export them as JPEG"),
        "empty.png": (b"", "is empty"),
        "cut.png": (good[: len(good) // 2], "is broken or truncated"),
        "cut.jpg": ((tmp_path / "noise.jpg").read_bytes()[:900], "is broken or truncated"),
        "damaged.png": (good[:60] + b"\xff" * 20 + good[80:], "is broken or truncated"),
        "bomb.png": (bomb(20000, 20000), "pixels"),
        "large.png": (bomb(9000, 9000), "at most 40 million"),
        "long.png": (bomb(100000, 20), "at most 40 million"),
    }
    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    expected = {name: message for name, (_, message) in files.items()}
    expected |= {
        "dot.png": "has 1 x 1 pixels",
        "moving.gif": "an animation of 2 frames",
        "nowhere.png": "there is no picture",
        ".": "is a folder",
    }
    for name, message in expected.items():
        with pytest.raises(UserError) as caught:
            read_picture(tmp_path / name)
        assert message in str(caught.value), name
        assert "\n" not in str(caught.value)


def test_any_damage_is_one_line_or_a_picture(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 4), dtype=np.uint8)
    rng = np.random.default_rng(1)
    for suffix in ("png", "webp", "tiff", "gif", "jpg"):
        Image.fromarray(noise[..., :3] if suffix == "jpg" else noise).save(tmp_path / f"a.{suffix}")
        good = np.frombuffer((tmp_path / f"a.{suffix}").read_bytes(), dtype=np.uint8)
        for _ in range(40):
            bad = good.copy()
            bad[rng.integers(0, min(len(bad), 300), 3)] = rng.integers(0, 256, 3)
            (tmp_path / "bad").write_bytes(bad[: rng.integers(len(bad) // 2, len(bad) + 1)].tobytes())
            with contextlib.suppress(UserError):
                assert read_picture(tmp_path / "bad").rgb.dtype == np.uint8


def test_a_mask_has_the_pictures_size(tmp_path):
    Image.new("RGB", (2048, 1024)).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    mask = np.zeros((1024, 2048), dtype=np.uint8)
    mask[:, 1024:] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    found = read_mask(tmp_path / "m.png", picture)
    assert found.shape == picture.rgb.shape[:2]
    assert (found[:, : LARGEST // 2] == 0).all()
    assert (found[:, LARGEST // 2 :] == 255).all()
    Image.fromarray(mask[:, :-1]).save(tmp_path / "m.png")
    with pytest.raises(UserError, match="2047 x 1024 pixels and the picture 2048 x 1024"):
        read_mask(tmp_path / "m.png", picture)
