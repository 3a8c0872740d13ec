"""Importing many modules at once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """While it is entered, Python does not look for garbage: of the quarter of a million objects of torch's modules
    none is, and looking through them again and again takes a sixth of the time of the import. Afterwards they are
    not looked at any more."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()
