"""The components of a recipe, built."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from threedgen.core import checkpoint, trust
from threedgen.core.errors import UserError
from threedgen.core.plugins import foreign_classes
from threedgen.guidance.priors.folder.memory import for_views
from threedgen.jobs.listeners.checkpoints import load_tensors, stage_of
from threedgen.jobs.run_directory import RunDirectory
from threedgen.recipes.checks import check_drawn
from threedgen.recipes.load import read_resolved
from threedgen.recipes.recipe import Recipe
from threedgen.representations.base import Representation


@dataclass(frozen=True)
class Components:
    """The components of a recipe, or of one of its stages, built."""

    scene: Any
    renderer: Any
    cameras: Any
    background: Any
    guidances: tuple[Any, ...]
    regularizers: Any


def build(recipe: Recipe, device: str, scene: Any = None) -> Components:
    """Every component of one stage of a recipe, or of a recipe without stages.

    The guidances, which load models, come last, so that an error in a cheaper component is reported at once.
    scene: one that exists already; None: the recipe makes it. Raises UserError.
    """
    if scene is None:
        scene = continue_earlier(recipe.representation.make(recipe.seed), foreign_classes(recipe.resolved))
    scene = _in_order(scene.to(device))
    with torch.no_grad():
        check_drawn(recipe, type(scene.at(None)))
    renderer, cameras, background = without_scene(recipe)
    regularizers = recipe.fixed["regularizers"].make(
        scene.penalty if isinstance(scene, Representation) else None
    )
    views = recipe.resolved["cameras"].get("batch", 1)
    with trust.loading(recipe.folder), for_views(views):
        guidances = tuple(choice.make(device) for choice in recipe.guidance)
    return Components(scene, renderer, cameras, background, guidances, regularizers)


def _in_order(scene: Any) -> Any:
    """The scene, with the numbers of each tensor in the order in which a loaded one has them: the last bits of sums
    depend on it, and a resumed run ends with the same bits. Columns of a table that was read lie otherwise."""
    if isinstance(scene, torch.nn.Module):
        for tensor in (*scene.parameters(), *scene.buffers()):
            tensor.data = tensor.data.contiguous()
    return scene


def without_scene(recipe: Recipe) -> tuple[Any, Any, Any]:
    """Renderer, cameras and background."""
    return recipe.renderer.make(), recipe.cameras.make(), recipe.fixed["background"].make()


def load_scene(run: RunDirectory, recipe: Recipe) -> Any:
    """The scene in the last checkpoint of a run, on the CPU; the guidances are not built.

    Raises UserError if there is no checkpoint yet, or if it belongs to a stage before the last.
    """
    if not checkpoint.exists(run.checkpoint):
        raise UserError(f"'{run.path}' has no checkpoint yet: `threedgen resume {run.path}` first")
    stage = stage_of(run.checkpoint, recipe)
    if stage != len(recipe.all_stages) - 1:
        raise UserError(
            f"'{run.path}' is in stage {stage + 1} of {len(recipe.all_stages)}: `threedgen resume {run.path}` first"
        )
    scene = blank_scene(recipe.all_stages[stage])
    load_tensors(run.checkpoint, scene)
    return scene


def continue_earlier(scene: Any, classes: Iterable[str] = ()) -> Any:
    """The scene; if it names an earlier run, it now starts from the end of that run. Raises UserError.

    classes: those that the earlier run may name because the recipe of the scene names them, too.
    """
    if isinstance(scene, Representation) and scene.earlier_run:
        run = RunDirectory.open(Path(scene.earlier_run).expanduser())
        with trust.typed(classes):
            scene.continue_from(load_scene(run, read_resolved(run.recipe)))
    return scene


def blank_scene(recipe: Recipe) -> Any:
    """A scene to load a state into."""
    choice = recipe.representation
    return choice.cls.blank(choice.config) if choice.is_a(Representation) else choice.make(recipe.seed)
