"""Picture files as users have them: any orientation, depth, palette or colour space, read in bounded memory.

What comes back is always the same: 8-bit RGB and, where the file has transparency, an 8-bit alpha. Colour profiles
are not applied. Pillow decodes; the sizes are known before it does, so nothing large is ever decoded by accident.
Beside pictures: masks and depth pictures, which must have the size of theirs.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from threedgen.core.errors import UserError
from threedgen.core.paths import existing

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SMALLEST = 16  # pixels a side: below it there is nothing to see in a picture
LARGEST = 1024  # pixels a side of what comes back: several times what any prior or render looks at
MOST_PIXELS = 40_000_000  # decoded at once: 160 MB as RGBA
_MOST_REDUCED = (
    170_000_000  # of a JPEG, which is reduced while it is decoded; Pillow itself opens 178 million
)
_LONG_EDGE = 65_500  # JPEG's own limit; others with such sides are made to break readers
_GREY = 8  # levels by which the channels of a grey picture may differ, as they do after JPEG
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # modes of 16-bit grey, in which Pillow's convert would clip


@dataclass(frozen=True)
class Picture:
    """rgb: [H, W, 3]. alpha: [H, W], or None where the file has no transparency or is opaque throughout.
    width, height: of the file's picture, turned upright, before it was reduced."""

    rgb: UInt8[np.ndarray, "H W 3"]
    alpha: UInt8[np.ndarray, "H W"] | None
    width: int
    height: int


def read_picture(path: str | Path, largest: int = LARGEST) -> Picture:
    """The picture of a file, upright, reduced so that no side is longer than `largest`.

    PNG, JPEG, WebP, BMP, TIFF or one-frame GIF; 1 to 16 bits, grey, RGB, palette, CMYK. JPEGs are reduced while
    they are decoded (progressive ones cannot be); anything else of more than MOST_PIXELS is refused before that.
    Raises UserError: nothing there, not a picture, broken or truncated, an animation, too large, smaller than
    SMALLEST.
    """
    picture, size = _decode(existing(path, "there is no picture '{path}'"), largest, _eight_bits)
    opaque = np.asarray(picture.getchannel("A")) if picture.mode == "RGBA" else None
    alpha = None if opaque is None or opaque.min() >= 250 else opaque
    return Picture(np.asarray(picture.convert("RGB")), alpha, *size)


def read_mask(path: str | Path, like: Picture) -> UInt8[np.ndarray, "H W"]:
    """The mask of a file for the picture `like`, at its size: 255 is object, 0 is not. Transparent is not.

    Raises UserError like `read_picture`, and for a mask whose size is not that of the picture's file.
    """
    picture = _beside(path, like, "mask", _eight_bits)
    from PIL import Image

    if picture.mode == "RGBA":
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture)
    return np.asarray(picture.convert("L").resize(like.rgb.shape[1::-1], Image.Resampling.BOX))


def read_depth(path: str | Path, like: Picture) -> Float[np.ndarray, "H W"]:
    """The depth picture of a file for the picture `like`, at its size: in [0, 1], nearer is brighter. 8 or 16
    bits of grey; its transparency is not looked at.

    Raises UserError like `read_picture`, for one whose size is not that of the picture's file, and for a coloured
    one.
    """
    return np.asarray(_beside(path, like, "depth picture", _nearness))


def _beside(path: str | Path, like: Picture, kind: str, convert: Callable[[Any], Any]) -> Any:
    """A further picture of what `like` shows. UserError where the files' sizes differ."""
    picture, size = _decode(
        existing(path, f"there is no {kind} '{{path}}'"), max(like.rgb.shape[:2]), convert
    )
    if size != (like.width, like.height):
        raise UserError(
            f"the {kind} '{path}' has {size[0]} x {size[1]} pixels and the picture {like.width} x {like.height}: "
            "they must be of one size"
        )
    return picture


def _decode(path: Path, largest: int, convert: Callable[[Any], Any]) -> tuple[Any, tuple[int, int]]:
    """The picture as `convert` makes it of the open file, upright and reduced; the size of the file's, upright."""
    from PIL import Image, UnidentifiedImageError

    if path.is_dir():
        raise UserError(f"'{path}' is a folder: name a picture file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large sizes and of odd EXIF: both are looked at here
            with Image.open(path, formats=FORMATS) as file:
                _check_header(path, file)
                return _upright(file, largest, convert)
    except UnidentifiedImageError:
        raise UserError(_not_a_picture(path)) from None
    except Image.DecompressionBombError:
        raise UserError(
            f"'{path}' has far too many pixels: make it smaller, {LARGEST} a side will do"
        ) from None
    except MemoryError:
        raise UserError(f"'{path}' does not fit into memory: make it smaller") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"the picture '{path}' is broken or truncated ({reason}): copy it again") from error


def _check_header(path: Path, file: Any) -> None:
    """UserError for what the header says without any pixel being decoded."""
    width, height = file.size
    frames = 1 if file.format in ("MPO", "TIFF") else getattr(file, "n_frames", 1)
    if frames > 1:  # an MPO is a phone's JPEG with a depth map or a second eye behind it
        raise UserError(f"'{path}' is an animation of {frames} frames: save one of them as a PNG")
    if min(width, height) < SMALLEST:
        raise UserError(
            f"'{path}' has {width} x {height} pixels: a picture needs at least {SMALLEST} on each side"
        )
    # A progressive JPEG is held whole until its last byte is there, however small it is wanted.
    reducible = file.format in ("JPEG", "MPO") and not file.info.get("progressive")
    most = _MOST_REDUCED if reducible else MOST_PIXELS
    if max(width, height) > _LONG_EDGE or width * height > most:
        raise UserError(
            f"'{path}' has {width} x {height} pixels, at most {most // 1_000_000} million are read: make it "
            f"smaller, {LARGEST} a side will do"
        )


def _upright(file: Any, largest: int, convert: Callable[[Any], Any]) -> tuple[Any, tuple[int, int]]:
    from PIL import Image, ImageOps

    size = file.size
    if file.format in ("JPEG", "MPO"):  # decodes at 1/2, 1/4 or 1/8, never below what is wanted
        file.draft(None, (largest, largest))
        if file.size[0] * file.size[1] > MOST_PIXELS:  # of a long and thin one
            raise UserError(f"'{file.filename}' has {size[0]} x {size[1]} pixels: make it smaller")
    picture = convert(file)
    if max(picture.size) > largest:
        ratio = largest / max(picture.size)
        sides = [max(1, round(side * ratio)) for side in picture.size]
        picture = picture.resize(sides, Image.Resampling.BOX)
    picture.info.update({key: file.info[key] for key in ("exif",) if key in file.info})
    turned = ImageOps.exif_transpose(picture)
    swapped = file.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return turned, (size[1], size[0]) if swapped else size


def _eight_bits(file: Any) -> Any:
    """RGB or RGBA of any mode that Pillow decodes."""
    from PIL import Image

    file.load()
    transparent = file.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in file.info
    if file.mode in _DEEP:
        levels = np.round(np.arange(65536) / 257.0).astype(
            np.uint8
        )  # a table: nothing as large as the picture
        values = np.asarray(file)
        picture = Image.fromarray(levels[np.clip(values, 0, 65535)]).convert("RGB")
        if transparent:
            picture.putalpha(
                Image.fromarray(np.where(values == file.info["transparency"], 0, 255).astype(np.uint8))
            )
        return picture
    if file.mode == "F":
        raise ValueError("floating-point pixels")
    return file.convert("RGBA" if transparent else "RGB")


def _nearness(file: Any) -> Any:
    """Mode F in [0, 1] of a grey picture."""
    from PIL import Image

    if file.mode in _DEEP:
        file.load()
        values, most = np.clip(np.asarray(file), 0, 65535), 65535.0
    else:
        rgb = np.asarray(_eight_bits(file).convert("RGB"))
        if int((rgb.max(axis=2) - rgb.min(axis=2)).max()) > _GREY:
            raise UserError(f"'{file.filename}' is coloured: a depth picture is grey, nearer is brighter")
        values, most = rgb[..., 1], 255.0
    return Image.fromarray(np.multiply(values, 1.0 / most, dtype=np.float32))


def _not_a_picture(path: Path) -> str:
    if path.stat().st_size == 0:
        return f"'{path}' is empty (0 bytes): copy it again"
    hint = (
        " (HEIC pictures of phones: export them as JPEG)" if path.suffix.lower() in (".heic", ".heif") else ""
    )
    return f"'{path}' is not a PNG, JPEG or WebP picture{hint}"
