"""Picture files of any orientation, depth, palette or colour space, read in bounded memory.

The result is always 8-bit RGB and, if the file has transparency, an 8-bit alpha. Colour profiles are not applied.
Pillow decodes the files; their size is checked before that, so nothing too large is ever decoded. Masks and depth
pictures are read too; they must have the size of the picture that they belong to.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from threedgen.core.errors import UserError
from threedgen.core.paths import existing
from threedgen.datasets.decoding import decoding, reason
from threedgen.datasets.masks import GREY, levels_of_16_bits, object_of

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SMALLEST = 16  # pixels per side: below it there is nothing to see in a picture
LARGEST = 1024  # pixels per side of the result: several times what any prior or render has
MOST_PIXELS = 40_000_000  # decoded at once: 160 MB as RGBA
_MOST_REDUCED = (
    170_000_000  # pixels of a JPEG, which is reduced while it is decoded; Pillow refuses 178 million
)
_LONG_EDGE = 65_500  # pixels, the limit of JPEG; other files with such sides are made to break readers
# How files of phones and browsers begin that only some builds of Pillow read, whatever their suffix is.
_UNREAD = {b"ftypavif": "AVIF", b"ftypheic": "HEIC", b"ftypheix": "HEIC", b"ftypmif1": "HEIF"}
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # modes of 16-bit grey, which Pillow would clip to 8 bits


@dataclass(frozen=True)
class Picture:
    """A picture, upright and reduced.

    rgb: [H, W, 3]. alpha: [H, W], or None if the file has no transparency or is opaque throughout. width, height:
    of the picture in the file, in pixels, turned upright but not reduced.
    """

    rgb: UInt8[np.ndarray, "H W 3"]
    alpha: UInt8[np.ndarray, "H W"] | None
    width: int
    height: int


def read_picture(
    path: str | Path, largest: int = LARGEST, smallest: int = SMALLEST, upright: bool = True
) -> Picture:
    """The picture of a file, upright and reduced so that no side is longer than `largest` pixels.

    The file is a PNG, JPEG, WebP, BMP, TIFF or a GIF of one frame, of 1 to 16 bits, grey, RGB, palette or CMYK.
    JPEGs are reduced while they are decoded, which is not possible for progressive ones; anything else of more than
    MOST_PIXELS is refused before it is decoded. upright: turned as its EXIF data says. Raises UserError if the file
    is missing, not a picture, broken or truncated, an animation, too large, or has sides of less than `smallest`
    pixels.
    """
    file = existing(path, "there is no picture '{path}'")
    picture, size = _decode(file, largest, _eight_bits, smallest, upright)
    opaque = np.asarray(picture.getchannel("A")) if picture.mode == "RGBA" else None
    alpha = None if opaque is None or opaque.min() >= 250 else opaque
    return Picture(np.asarray(picture.convert("RGB")), alpha, *size)


def read_mask(path: str | Path, like: Picture) -> UInt8[np.ndarray, "H W"]:
    """The mask in a file for the picture `like`, at the size of that: 255 is object, 0 is not (see
    `threedgen.datasets.masks.object_of`).

    Raises UserError as `read_picture` and `object_of` do, and for a mask whose size is not that of the file of the
    picture.
    """
    from PIL import Image

    picture = _beside(path, like, "mask", _object)
    return np.asarray(picture.resize(like.rgb.shape[1::-1], Image.Resampling.BOX))


def read_depth(path: str | Path, like: Picture) -> Float[np.ndarray, "H W"]:
    """The depth picture in a file for the picture `like`, at the size of that: in [0, 1], nearer is brighter.

    The file has 8 or 16 bits of grey; transparency is ignored. Raises UserError as `read_picture` does, for one
    whose size is not that of the file of the picture, and for one with colours.
    """
    return np.asarray(_beside(path, like, "depth picture", _nearness))


def read_levels(path: str | Path) -> np.ndarray:
    """The numbers [H, W] of a grey picture as they are in its file, of 16 or 32 bits or of floating point.

    Raises UserError as `read_picture` does, and for a picture with colours or of 8 bits, which has no more than 256
    steps.
    """
    file = existing(path, "there is no picture '{path}'")
    with _opened(file) as (picture, frames):
        _check_header(file, picture, frames, smallest=1, whole=True)
        if picture.mode not in (*_DEEP, "F"):
            fault = "has 8 bits" if picture.mode == "L" else "is not grey"
            raise UserError(f"'{path}' {fault}: a depth picture has one number for each pixel, of 16 bits")
        with decoding(file, partial(_unreadable, file)):
            return np.array(picture)


def _beside(path: str | Path, like: Picture, kind: str, convert: Callable[[Any], Any]) -> Any:
    """A mask or depth picture of what `like` shows. Raises UserError if the sizes of the files differ."""
    file = existing(path, f"there is no {kind} '{{path}}'")
    picture, size = _decode(file, max(like.rgb.shape[:2]), convert, smallest=1)
    if size != (like.width, like.height):
        raise UserError(
            f"the {kind} '{path}' has {size[0]} x {size[1]} pixels and the picture {like.width} x {like.height}: "
            "they must be of one size"
        )
    return picture


def size_of(path: Path, smallest: int = SMALLEST, upright: bool = False) -> tuple[int, int]:
    """Width and height, in pixels, of the picture of a file that is decoded whole, from its header.

    upright: after it is turned as its EXIF data says. Raises UserError if it is not a picture, an animation,
    smaller than `smallest`, or above MOST_PIXELS.
    """
    with _opened(path) as (file, frames):
        _check_header(path, file, frames, smallest, whole=True)
        width, height = file.size
        return (height, width) if upright and _on_its_side(path, file) else (width, height)


def _on_its_side(path: Path, file: Any) -> bool:
    """Whether the EXIF data of an open file turn it by a quarter."""
    with decoding(path, partial(_unreadable, path)):
        return file.getexif().get(0x0112, 1) in (5, 6, 7, 8)


def _decode(
    path: Path,
    largest: int,
    convert: Callable[[Any], Any],
    smallest: int = SMALLEST,
    upright: bool = True,
) -> tuple[Any, tuple[int, int]]:
    """The picture that `convert` makes of the open file, reduced and, if wanted, upright; and its own size."""
    with _opened(path) as (file, frames):
        _check_header(path, file, frames, smallest)
        return _reduced(path, file, largest, convert, upright)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, int]]:
    """The picture of a file, of which only the header has been read, and its number of frames."""
    from PIL import Image

    if path.is_dir():
        raise UserError(f"'{path}' is a folder: name a picture file")
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")  # Pillow warns of large sizes and odd EXIF, which are checked here
        with decoding(path, partial(_unreadable, path)):
            file = stack.enter_context(Image.open(path, formats=FORMATS))
            frames = 1 if file.format in ("MPO", "TIFF") else getattr(file, "n_frames", 1)
        yield file, frames


def _check_header(path: Path, file: Any, frames: int, smallest: int = SMALLEST, whole: bool = False) -> None:
    """Raises UserError for what the header shows to be unusable, before any pixel is decoded.

    whole: a JPEG is not reduced while it is decoded.
    """
    width, height = file.size
    if frames > 1:  # an MPO, the JPEG of a phone with a depth map or a second view behind it, counts as one
        raise UserError(f"'{path}' is an animation of {frames} frames: save one of them as a PNG")
    if min(width, height) < smallest:
        raise UserError(
            f"'{path}' has {width} x {height} pixels: a picture needs at least {smallest} on each side"
        )
    # A progressive JPEG is decoded at its full size until its last byte, whatever size is asked for.
    reducible = not whole and file.format in ("JPEG", "MPO") and not file.info.get("progressive")
    most = _MOST_REDUCED if reducible else MOST_PIXELS
    if max(width, height) > _LONG_EDGE or width * height > most:
        raise UserError(
            f"'{path}' has {width} x {height} pixels, at most {most // 1_000_000} million are read: make it "
            f"smaller, {LARGEST} on each side are enough"
        )


def _reduced(
    path: Path, file: Any, largest: int, convert: Callable[[Any], Any], upright: bool
) -> tuple[Any, tuple[int, int]]:
    from PIL import Image, ImageOps

    size = file.size
    with decoding(path, partial(_unreadable, path)):
        if file.format in (
            "JPEG",
            "MPO",
        ):  # decodes at 1/2, 1/4 or 1/8, never below the size that is asked for
            file.draft(None, (largest, largest))
            if file.size[0] * file.size[1] > MOST_PIXELS:  # a long and thin picture
                raise UserError(f"'{path}' has {size[0]} x {size[1]} pixels: make it smaller")
        file.load()
    swapped = _on_its_side(path, file)
    picture = convert(file)
    if max(picture.size) > largest:
        ratio = largest / max(picture.size)
        sides = [max(1, round(side * ratio)) for side in picture.size]
        picture = picture.resize(sides, Image.Resampling.BOX)
    if not upright:
        return picture, size
    picture.info.update({key: file.info[key] for key in ("exif",) if key in file.info})
    with decoding(path, partial(_unreadable, path)):
        turned = ImageOps.exif_transpose(picture)
    return turned, (size[1], size[0]) if swapped else size


def _eight_bits(file: Any) -> Any:
    """RGB or RGBA of a loaded file of any mode that Pillow can convert."""
    from PIL import Image

    transparent = file.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in file.info
    if file.mode in _DEEP:
        # By a table, so that no array of floats as large as the picture is needed.
        levels = np.round(np.arange(65536) / 257.0).astype(np.uint8)
        values = np.asarray(file)
        picture = Image.fromarray(levels[np.clip(values, 0, 65535)]).convert("RGB")
        if transparent:
            picture.putalpha(
                Image.fromarray(np.where(values == file.info["transparency"], 0, 255).astype(np.uint8))
            )
        return picture
    if file.mode == "F":
        raise UserError(f"'{file.filename}' has floating-point pixels: save it with 8 or 16 bits")
    with decoding(Path(file.filename), partial(_unreadable, Path(file.filename))):
        return file.convert("RGBA" if transparent else "RGB")


def _object(file: Any) -> Any:
    """A loaded mask as mode L, white where the object is."""
    from PIL import Image

    deep = levels_of_16_bits(np.asarray(file)) if file.mode in _DEEP else None
    return Image.fromarray(object_of(np.asarray(_eight_bits(file).convert("RGBA")), deep, file.filename))


def _nearness(file: Any) -> Any:
    """A loaded grey file as mode F in [0, 1]."""
    from PIL import Image

    if file.mode in _DEEP:
        values, most = np.clip(np.asarray(file), 0, 65535), 65535.0
    else:
        rgb = np.asarray(_eight_bits(file).convert("RGB"))
        if int((rgb.max(axis=2) - rgb.min(axis=2)).max()) > GREY:
            raise UserError(f"'{file.filename}' is coloured: a depth picture is grey, nearer is brighter")
        values, most = rgb[..., 1], 255.0
    return Image.fromarray(np.multiply(values, 1.0 / most, dtype=np.float32))


def _unreadable(path: Path, error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if not isinstance(error, UnidentifiedImageError):
        return f"the picture '{path}' is broken or truncated ({reason(error)}): copy it again"
    if path.stat().st_size == 0:
        return f"'{path}' is empty (0 bytes): copy it again"
    with path.open("rb") as file:
        kind = _UNREAD.get(file.read(12)[4:])
    hint = f": it is in the format {kind}, so save it as a JPEG or PNG" if kind else ""
    return f"'{path}' is not a PNG, JPEG or WebP picture{hint}"
