"""Textures as the files of meshes hold them: pictures with 8 bits per channel, as PNG or WebP, inside or beside."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.png import to_uint8

_QUALITY = 90  # of WebP, of 100: the loss is hardly visible, and the file is a few times as small as a PNG
_MARK = ("Software", "threedgen")  # a PNG that has it may be overwritten
_HEAD = 100  # bytes of a PNG in which the mark is


def encoded(texture: Float[Tensor, "H W 3"], kind: str = "png") -> bytes:
    """A display-referred picture in [0, 1] as the content of a file. kind: "png", without loss, or "webp"."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    mark = PngInfo()
    mark.add_text(*_MARK)
    content = io.BytesIO()
    options = {"pnginfo": mark} if kind == "png" else {"quality": _QUALITY}
    Image.fromarray(to_uint8(texture)).save(content, format=kind, **options)
    return content.getvalue()


def is_ours(path: Path) -> bool:
    """Whether a file is a PNG of `encoded`. Raises OSError if it cannot be read."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b"\0".join(word.encode() for word in _MARK) in file.read(_HEAD)


def beside(path: Path, suffixes: tuple[str, ...], written_here: Callable[[Path], bool]) -> Path:
    """The first of NAME, NAME-2, ... beside `path` with the first suffix that is free with all of them, or ours.

    NAME is the stem of `path`. written_here: whether the file with the first suffix, which exists, may be
    overwritten together with the others. Raises UserError if the folder cannot be read.
    """
    # The name is written into text files: characters that are not printable could end a line, or are no UTF-8.
    stem = "".join(letter if letter.isprintable() else "_" for letter in path.stem)
    for number in itertools.count(1):
        names = [
            path.with_name(f"{stem}{'' if number == 1 else f'-{number}'}{suffix}") for suffix in suffixes
        ]
        try:
            if not any(map(os.path.lexists, names)) or written_here(names[0]):
                return names[0]
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; choose another place") from error
    raise AssertionError("numbers do not end")
