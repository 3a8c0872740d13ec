"""How the asset of a run looks to cameras: the mesh that people carry away, and beside it what was optimised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from threedgen.core.types import Cameras
from threedgen.datasets.splat_files import read_splats
from threedgen.jobs.asset import asset_of, renderer_here
from threedgen.jobs.build import load_scene
from threedgen.jobs.run_directory import RunDirectory
from threedgen.jobs.scores.exported import read_back
from threedgen.recipes.load import read_resolved
from threedgen.recipes.recipe import Recipe
from threedgen.renderers.base import on_white
from threedgen.renderers.mesh import MeshRenderer

Looks = Callable[[Cameras], tuple[Tensor, Tensor]]
"""Cameras -> rgb on white [B, H, W, 3] and alpha [B, H, W, 1]."""


def optimised(recipe: Recipe, scene: Any) -> Looks:
    """What was optimised, in the pictures of any size: Gaussians, before they are settled, a field or a mesh."""
    return looks_of(renderer_here(recipe, "auto"), asset_of(recipe, scene))


def both(folder: Path) -> tuple[Looks, Looks]:
    """The mesh of asset.glb, read back from the file, and beside it the Gaussians of asset.ply, or the field or the
    mesh that was optimised. A run that found no surface has no mesh: then both are the latter (see `has_mesh`)."""
    run = RunDirectory.open(folder)
    recipe = read_resolved(run.recipe)
    splats = folder / "asset.ply"
    if splats.is_file():
        own = looks_of(renderer_here(recipe, "auto"), read_splats(splats).cloud())
    else:
        own = optimised(recipe, load_scene(run, recipe))
    if not has_mesh(folder):
        return own, own
    return looks_of(MeshRenderer(MeshRenderer.Config(supersampling=2)), read_back(folder / "asset.glb")), own


def has_mesh(folder: Path) -> bool:
    """Whether a run wrote a mesh."""
    return (folder / "asset.glb").is_file()


def looks_of(renderer: Any, primitive: Any) -> Looks:
    """What a renderer shows of a primitive."""

    def look(cameras: Cameras) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            output = on_white(renderer, primitive, cameras)
        return output.rgb, output.alpha

    return look
