"""threedgen: 3D assets by score distillation, with pluggable representations, renderers and priors.

Public names are imported when they are first used, so that `import threedgen` costs nothing. The loop is
`threedgen.loop.distill.distill`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Cameras": "threedgen.core.types",
    "GaussianCloud": "threedgen.core.types",
    "RenderOutput": "threedgen.core.types",
    "Signal": "threedgen.core.types",
    "TriMesh": "threedgen.core.types",
    "UserError": "threedgen.core.errors",
    "Gaussians": "threedgen.representations.gaussians",
    "OrbitSampler": "threedgen.cameras.orbit",
    "ScoreDistillation": "threedgen.guidance.score_distillation",
    "SplattingRenderer": "threedgen.renderers.splatting",
    "load_recipe": "threedgen.recipes.recipe",
    "orbit": "threedgen.cameras.orbit",
}

__all__ = ["__version__", *sorted(_PUBLIC)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'threedgen' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
