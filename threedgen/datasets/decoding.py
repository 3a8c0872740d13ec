"""Exceptions about damaged pictures and documents as one-line errors for users."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from threedgen.core.errors import UserError

# What the decoders of Pillow raise for a broken or truncated file; each format has its own habits.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


@contextlib.contextmanager
def decoding(path: Path, message: Callable[[Exception], str]) -> Iterator[None]:
    """For calls of Pillow, and nothing else, that read the file `path`: what they raise becomes a UserError.

    message: the text of the error for a file that is broken or not of the right kind, given what Pillow raised.
    """
    from PIL import Image

    try:
        yield
    except Image.DecompressionBombError as error:
        raise UserError(f"'{path}' has far too many pixels: make it smaller") from error
    except MemoryError as error:
        raise UserError(f"'{path}' does not fit into memory: make it smaller") from error
    except _BROKEN as error:
        raise UserError(message(error)) from error


def reason(error: Exception) -> str:
    """What an exception says, on one line of bounded length; its name if it says nothing."""
    return " ".join(str(error).split())[:120] or type(error).__name__


@contextlib.contextmanager
def damaged(path: Path) -> Iterator[None]:
    """For code that follows the numbers of the document `path`: those that lead nowhere become a UserError."""
    try:
        yield
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        struct.error,
    ) as error:
        said = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else reason(error)
        raise UserError(f"cannot read {path}: {said}") from error
