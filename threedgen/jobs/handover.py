"""What a stage of a recipe hands over to the next stage."""

from __future__ import annotations

from typing import Any

import torch

from threedgen.core.plugins import foreign_classes
from threedgen.core.random import derive_seed
from threedgen.export import as_mesh
from threedgen.jobs.asset import asset_of
from threedgen.jobs.build import continue_earlier
from threedgen.recipes.checks import needs_mesh, take_over
from threedgen.recipes.recipe import Recipe


@torch.no_grad()
def next_scene(recipe: Recipe, stage: int, scene: Any) -> Any:
    """The scene with which stage `stage` (0-based, not the first) begins.

    scene: the scene at the end of the stage before. Its asset becomes the start of the new one, as a mesh if
    the new representation asks for a mesh. Raises UserError if the new representation cannot start from it.
    """
    choice = recipe.all_stages[stage].representation
    from_asset = take_over(choice)
    asset = asset_of(recipe.all_stages[stage - 1], scene.to("cpu"))
    if needs_mesh(choice, type(asset)):
        asset = as_mesh(asset, recipe.fixed["export"].config.mesh.plain())
    seed = derive_seed(recipe.seed, "stage", stage)
    return continue_earlier(from_asset(choice.config, seed, asset), foreign_classes(recipe.resolved))
