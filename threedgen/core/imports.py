"""Importing many modules at once."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """While it is entered, Python does not look for garbage: of the quarter of a million objects of torch's modules
    none is, and looking through them again and again takes a sixth of the time of the import. Afterwards they are
    not looked at any more. A block that imports nothing new leaves everything as it was: what is garbage then could
    never be found again."""
    enabled, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
        if len(sys.modules) > before:
            gc.freeze()
    finally:
        if enabled:
            gc.enable()
