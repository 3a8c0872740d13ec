"""The compiled CPU kernels: one extension module, which is optional and looked up once."""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType

# One function of each source file: an editable install keeps an old build if the sources change.
_FUNCTIONS = (
    *("splat_forward", "zbuffer", "sample_planes", "march_count", "interpolate_forward", "render_fields"),
    *("train_fields", "neighbour_distances", "gaussian_density", "surface_light", "carve", "mesh_pieces"),
    "rigidity",
)


@cache
def _probe() -> tuple[ModuleType | None, str | None]:
    try:
        module = importlib.import_module("threedgen.kernels._native")
    except ImportError as error:
        return None, str(error)
    if not all(hasattr(module, name) for name in _FUNCTIONS):
        return None, "they were built from older sources"
    return module, None


def load_native() -> ModuleType | None:
    """The extension module, or None if it was not built (see `why_absent`)."""
    return _probe()[0]


def why_absent() -> str | None:
    """Why the kernels are missing, or None if they are not."""
    return _probe()[1]
