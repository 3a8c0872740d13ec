"""Picture files: any that users have are read upright and in colour; those that cannot be read give one line."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from threedgen.core.errors import UserError
from threedgen.datasets.picture import LARGEST, read_depth, read_picture

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


def png(depth: int, color: int, rows: np.ndarray) -> bytes:
    """A PNG of `rows` [H, W, C], big-endian, of any colour type: Pillow reads more types than it writes."""
    height, width = rows.shape[:2]
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, body)
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_of_grey_are_scaled_not_clipped(tmp_path, suffix):
    ramp = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / f"a.{suffix}")
    found = read_picture(tmp_path / f"a.{suffix}").rgb[..., 0]
    assert np.abs(found - ramp / 257.0).max() <= 0.51


@pytest.mark.parametrize(("color", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_of_every_kind(tmp_path, color, channels):
    """Grey, RGB, grey with alpha and RGBA are rounded to eight bits."""
    deep = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, channels)).astype(">u2")
    (tmp_path / "a.png").write_bytes(png(16, color, deep))
    picture = read_picture(tmp_path / "a.png")
    expected = deep[..., : 3 if channels > 2 else 1].astype(float) / 257.0
    assert np.abs(picture.rgb - expected).max() <= 1.0
    assert (picture.alpha is None) == (channels in (1, 3))
    if picture.alpha is not None:
        assert np.abs(picture.alpha - deep[..., -1] / 257.0).max() <= 1.0


def test_one_of_sixteen_bit_greys_may_be_transparent(tmp_path):
    deep = np.full((HEIGHT, WIDTH, 1), 40000, dtype=">u2")
    deep[:, :20] = 1234
    made = png(16, 0, deep)
    place = made.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(made[:place] + chunk(b"tRNS", struct.pack(">H", 1234)) + made[place:])
    alpha = read_picture(tmp_path / "a.png").alpha
    assert alpha is not None
    assert (alpha[:, :20] == 0).all()
    assert (alpha[:, 20:] == 255).all()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["png", "webp", "tiff", "bmp", "gif"]),
    st.sampled_from(["L", "RGB", "RGBA", "P", "1"]),
    st.integers(16, 40),
    st.integers(16, 40),
    st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs", "Cc"]), max_size=20),
    st.integers(0, 2**16),
)
def test_what_loses_nothing_comes_back_as_it_was(tmp_path_factory, suffix, mode, width, height, name, seed):
    """Formats that keep every pixel, with any name and of any size."""
    rgba = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    rgba[..., 3] = np.where(rgba[..., 3] > 99, 255, 0)  # GIF has no more
    if suffix in ("gif", "bmp"):
        rgba[..., :3] = np.array([[0, 0, 0], [255, 0, 0], [0, 90, 250]])[rgba[..., 0] % 3]
        mode = {"RGB": "P", "RGBA": "P"}.get(mode, mode)
    file = Image.fromarray(rgba).convert("RGB" if mode != "RGBA" else "RGBA").convert(mode)
    path = tmp_path_factory.mktemp("any") / f"a{name}.{suffix}"
    options: dict[str, Any] = {"lossless": True, "exact": True} if suffix == "webp" else {}
    file.save(path, **options)
    picture = read_picture(path)
    assert (picture.width, picture.height) == (width, height)
    kept = file.convert("RGBA") if suffix == "webp" and mode == "RGBA" else file
    np.testing.assert_array_equal(picture.rgb, np.asarray(kept.convert("RGB")))
    if mode == "RGBA":
        np.testing.assert_array_equal(picture.alpha, rgba[..., 3])
    else:
        assert picture.alpha is None


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
    """All eight orientations that a camera can store are read as the same upright picture."""
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


def test_posed_pictures_may_be_read_as_they_are_stored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(sample()).save(tmp_path / "a.png", exif=exif)
    assert read_picture(tmp_path / "a.png").rgb.shape == (WIDTH, HEIGHT, 3)
    assert near(read_picture(tmp_path / "a.png", upright=False).rgb, sample(), 0.0)


def test_a_large_jpeg_is_reduced_while_it_is_decoded(tmp_path):
    """It has more pixels than are ever decoded at once."""
    Image.new("RGB", (7000, 6000), (200, 30, 20)).save(tmp_path / "a.jpg")
    picture = read_picture(tmp_path / "a.jpg")
    assert picture.rgb.shape == (round(6000 * LARGEST / 7000), LARGEST, 3)
    assert (picture.width, picture.height) == (7000, 6000)


def test_a_large_progressive_jpeg_is_refused(tmp_path):
    """It is decoded at its full size even if it is reduced."""
    large = Image.new("L", (7000, 6000))
    large.save(tmp_path / "a.jpg", progressive=True)
    with pytest.raises(UserError, match="7000 x 6000 pixels, at most 40 million"):
        read_picture(tmp_path / "a.jpg")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads its memory from /proc")
def test_memory_is_bounded(tmp_path):
    """Whole files: 20000 x 20000 pixels are refused, what is read takes a few times its pixels."""
    bits = zlib.compress(bytes((20000 // 8 + 1) * 20000), 1)
    header = struct.pack(">IIBBBBB", 20000, 20000, 1, 0, 0, 0, 0)
    body = ((b"IHDR", header), (b"IDAT", bits), (b"IEND", b""))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*item) for item in body))
    Image.new("L", (9000, 9000)).save(tmp_path / "huge.jpg", quality=10)
    Image.new("I;16", (4000, 4000), 9999).save(tmp_path / "deep.png", compress_level=1)
    code = """
import sys
from pathlib import Path
from PIL import Image
from threedgen.datasets.picture import read_picture
from threedgen.core.errors import UserError

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))

read_picture(sys.argv[1])
for path in sys.argv[2:]:
    before = peak()
    try:
        read_picture(path)
    except UserError as error:
        print(error, file=sys.stderr)
    print(peak() - before)
"""
    Image.fromarray(sample()).save(tmp_path / "small.png")
    files = [str(tmp_path / name) for name in ("small.png", "huge.png", "huge.jpg", "deep.png")]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    refused, reduced, deep = map(int, done.stdout.split())
    assert "far too many pixels" in done.stderr
    assert refused <= 5, "megabytes"
    assert reduced <= 60
    assert deep <= 200


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims to be that large: 20000 x 20000 pixels of nothing compress to little."""
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
        "phone.heic": (b"\x00\x00\x00\x18ftypheic", "format HEIC, so save it as a JPEG"),
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
    Image.new("F", (32, 32)).save(tmp_path / "floats.tiff")
    expected = {name: message for name, (_, message) in files.items()}
    expected |= {
        "dot.png": "has 1 x 1 pixels",
        "floats.tiff": "has floating-point pixels: save it with 8 or 16 bits",
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


def test_a_depth_picture(tmp_path):
    """8 and 16 bits of grey become numbers in [0, 1], turned and reduced like the picture; colours are refused."""
    Image.new("RGB", (2048, 64)).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    ramp = np.linspace(0.0, 1.0, 2048)[None].repeat(64, axis=0)
    expected = ramp.reshape(32, 2, LARGEST, 2).mean((1, 3))
    for name, levels, kind in (
        ("8.png", 255, np.uint8),
        ("16.png", 65535, np.uint16),
        ("8.jpg", 255, np.uint8),
    ):
        Image.fromarray(np.round(levels * ramp).astype(kind)).save(tmp_path / name)
        found = read_depth(tmp_path / name, picture)
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < (0.02 if name == "8.jpg" else 0.6 / levels), name
    turned = Image.fromarray(np.round(255 * ramp).astype(np.uint8)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise
    turned.save(tmp_path / "t.png", exif=exif)
    assert np.abs(read_depth(tmp_path / "t.png", picture) - expected).max() < 0.01
    Image.fromarray(np.round(255 * ramp).astype(np.uint8)).convert("RGB").save(tmp_path / "g.png")
    assert np.abs(read_depth(tmp_path / "g.png", picture) - expected).max() < 0.01
    Image.new("RGB", (2048, 64), (200, 30, 20)).save(tmp_path / "c.png")
    Image.new("L", (64, 2048)).save(tmp_path / "s.png")
    for name, message in (
        ("c.png", "is coloured"),
        ("s.png", "must be of one size"),
        ("n.png", "no depth pic"),
    ):
        with pytest.raises(UserError, match=message):
            read_depth(tmp_path / name, picture)


@pytest.mark.parametrize(("brand", "kind"), [(b"avif", "AVIF"), (b"heic", "HEIC")])
def test_pictures_of_phones_are_named(tmp_path, brand, kind):
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x1cftyp" + brand + bytes(99))
    with pytest.raises(UserError, match=f"it is in the format {kind}, so save it as a JPEG or PNG"):
        read_picture(tmp_path / "a.jpg")
