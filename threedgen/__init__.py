"""threedgen: 3D and 4D assets by score distillation, with pluggable representations, renderers and priors.

    from threedgen import text_to_3d

    run = text_to_3d("a red cube")
    run.mesh().show()

Public names are imported when they are first used, so that `import threedgen` costs nothing. docs/python.md
documents each of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threedgen.cameras.orbit import OrbitSampler, orbit
    from threedgen.core.errors import UserError
    from threedgen.core.types import Cameras, GaussianCloud, RenderOutput, Signal, TriMesh
    from threedgen.guidance.priors.kept import keep_priors
    from threedgen.guidance.score_distillation import ScoreDistillation
    from threedgen.loop.distill import distill
    from threedgen.pipelines.fit import fit
    from threedgen.pipelines.image_to_3d import image_to_3d
    from threedgen.pipelines.result import Run, load_run
    from threedgen.pipelines.text_to_3d import text_to_3d
    from threedgen.pipelines.text_to_4d import text_to_4d
    from threedgen.recipes.load import load_recipe
    from threedgen.renderers.splatting import SplattingRenderer
    from threedgen.representations.base import Representation
    from threedgen.representations.gaussians import Gaussians

__version__ = "0.1.0"

_PUBLIC = {
    "Cameras": "core.types",
    "GaussianCloud": "core.types",
    "Gaussians": "representations.gaussians",
    "OrbitSampler": "cameras.orbit",
    "RenderOutput": "core.types",
    "Representation": "representations.base",
    "Run": "pipelines.result",
    "ScoreDistillation": "guidance.score_distillation",
    "Signal": "core.types",
    "SplattingRenderer": "renderers.splatting",
    "TriMesh": "core.types",
    "UserError": "core.errors",
    "distill": "loop.distill",
    "fit": "pipelines.fit",
    "image_to_3d": "pipelines.image_to_3d",
    "keep_priors": "guidance.priors.kept",
    "load_recipe": "recipes.load",
    "load_run": "pipelines.result",
    "orbit": "cameras.orbit",
    "text_to_3d": "pipelines.text_to_3d",
    "text_to_4d": "pipelines.text_to_4d",
}

__all__ = [
    "Cameras",
    "GaussianCloud",
    "Gaussians",
    "OrbitSampler",
    "RenderOutput",
    "Representation",
    "Run",
    "ScoreDistillation",
    "Signal",
    "SplattingRenderer",
    "TriMesh",
    "UserError",
    "__version__",
    "distill",
    "fit",
    "image_to_3d",
    "keep_priors",
    "load_recipe",
    "load_run",
    "orbit",
    "text_to_3d",
    "text_to_4d",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'threedgen' has no attribute '{name}'")
    return getattr(import_module(f"threedgen.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__
