"""The compiled CPU kernels: one extension module, looked up once, absent without harm."""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType


@cache
def _probe() -> tuple[ModuleType | None, str | None]:
    try:
        return importlib.import_module("threedgen.kernels._native"), None
    except ImportError as error:
        return None, str(error)


def load_native() -> ModuleType | None:
    """The extension module, or None when it was not built (see `why_absent`)."""
    return _probe()[0]


def why_absent() -> str | None:
    """Why the kernels are not there, or None when they are."""
    return _probe()[1]
