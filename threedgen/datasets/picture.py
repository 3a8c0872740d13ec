"""Picture files as users have them: any orientation, depth, palette or colour space, read in bounded memory.

What comes back is always the same: 8-bit RGB and, where the file has transparency, an 8-bit alpha. Colour profiles
are not applied. Pillow decodes; the sizes are known before it does, so nothing large is ever decoded by accident.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from threedgen.datasets.paths import existing
from threedgen.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SMALLEST = 16  # pixels a side: below it there is nothing to see in a picture
LARGEST = 1024  # pixels a side of what comes back: several times what any prior or render looks at
MOST_PIXELS = 40_000_000  # decoded at once: 160 MB as RGBA
_LONG_EDGE = 65_500  # JPEG's own limit; others with such sides are made to break readers
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
    they are decoded; anything else of more than MOST_PIXELS is refused before that. Raises UserError: nothing
    there, not a picture, broken or truncated, an animation, too large, smaller than SMALLEST.
    """
    picture, size = _decode(existing(path, "there is no picture '{path}'"), largest)
    opaque = np.asarray(picture.getchannel("A")) if picture.mode == "RGBA" else None
    alpha = None if opaque is None or opaque.min() >= 250 else opaque
    return Picture(np.asarray(picture.convert("RGB")), alpha, *size)


def read_mask(path: str | Path, like: Picture) -> UInt8[np.ndarray, "H W"]:
    """The mask of a file for the picture `like`, at its size: 255 is object, 0 is not. Transparent is not.

    Raises UserError like `read_picture`, and for a mask whose size is not that of the picture's file.
    """
    height, width = like.rgb.shape[:2]
    picture, size = _decode(existing(path, "there is no mask '{path}'"), max(height, width))
    if size != (like.width, like.height):
        raise UserError(
            f"the mask '{path}' has {size[0]} x {size[1]} pixels and the picture {like.width} x {like.height}: "
            "they must be of one size"
        )
    from PIL import Image

    if picture.mode == "RGBA":
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture)
    return np.asarray(picture.convert("L").resize((width, height), Image.Resampling.BOX))


def _decode(path: Path, largest: int) -> tuple[Any, tuple[int, int]]:
    """The picture in mode RGB or RGBA, upright and reduced, and the size of the file's, upright."""
    from PIL import Image, UnidentifiedImageError

    if path.is_dir():
        raise UserError(f"'{path}' is a folder: name a picture file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large sizes and of odd EXIF: both are looked at here
            with Image.open(path, formats=FORMATS) as file:
                _check_header(path, file)
                return _upright(path, file, largest)
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
    reducible = file.format in ("JPEG", "MPO")
    if max(width, height) > _LONG_EDGE or (width * height > MOST_PIXELS and not reducible):
        raise UserError(
            f"'{path}' has {width} x {height} pixels, at most {MOST_PIXELS // 1_000_000} million are read: make it "
            f"smaller, {LARGEST} a side will do"
        )


def _upright(path: Path, file: Any, largest: int) -> tuple[Any, tuple[int, int]]:
    from PIL import Image, ImageOps

    size = file.size
    if file.format in ("JPEG", "MPO"):  # decodes at 1/2, 1/4 or 1/8, never below what is wanted
        file.draft(None, (largest, largest))
        if file.size[0] * file.size[1] > MOST_PIXELS:
            raise UserError(f"'{path}' has {size[0]} x {size[1]} pixels: make it smaller")
    picture = _eight_bits(file)
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
    if file.mode in _DEEP:
        values = np.asarray(file).astype(np.float64)
        grey = np.round(np.clip(values, 0.0, 65535.0) / 257.0).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if file.mode == "F":
        raise ValueError("floating-point pixels")
    transparent = file.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in file.info
    return file.convert("RGBA" if transparent else "RGB")


def _not_a_picture(path: Path) -> str:
    if path.stat().st_size == 0:
        return f"'{path}' is empty (0 bytes): copy it again"
    hint = (
        " (HEIC pictures of phones: export them as JPEG)" if path.suffix.lower() in (".heic", ".heif") else ""
    )
    return f"'{path}' is not a PNG, JPEG or WebP picture{hint}"
