"""What a finished run leaves: mesh, splats, turntable, contact sheet, report; and `export` and `render`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from threedgen import export
from threedgen.core.roles import RepresentationRoles, declared
from threedgen.core.types import GaussianCloud, Primitive
from threedgen.export import report, video
from threedgen.export.mesh import NoSurface, is_watertight
from threedgen.jobs.asset import asset_of, moving_asset, note_of, viewer_of
from threedgen.jobs.build import Components
from threedgen.jobs.listeners import metrics
from threedgen.jobs.run_directory import RunDirectory
from threedgen.recipes.recipe import Recipe

_SHEET_VIEWS = 8
_ANIMATIONS = ("anim.mp4", "anim.glb", "player.html")


def write_assets(
    recipe: Recipe, run: RunDirectory, components: Components, begin: Callable[[str], None]
) -> dict[str, Any]:
    """asset.glb, asset.ply, turntable.mp4 and contact_sheet.png as far as the primitive has them; counts for
    the report. An asset without a surface is a warning: the other files are worth having."""
    settings = recipe.fixed["export"].config
    primitive = asset_of(recipe, components.scene)
    if not isinstance(primitive, Primitive):
        warnings.warn(f"no exporter for {type(primitive).__name__}: no asset files are written", stacklevel=1)
        return {}
    facts: dict[str, Any] = {}
    note = note_of(recipe)
    if isinstance(primitive, GaussianCloud):
        begin("writing splats")
        export.write(primitive, run.path / "asset.ply", note=note)
        facts["gaussians"] = len(primitive)
    begin("extracting the mesh")
    try:
        mesh = export.write(primitive, run.path / "asset.glb", note=note, mesh=settings.mesh)
        if mesh is not None:
            facts |= {
                "vertices": len(mesh.vertices),
                "faces": len(mesh.faces),
                "watertight": is_watertight(mesh),
            }
    except NoSurface as error:
        warnings.warn(str(error), stacklevel=1)
        facts["mesh"] = str(error)
    if declared(type(components.scene), RepresentationRoles).moves:
        begin("writing the animation")
        moving = moving_asset(recipe, components.scene)
        facts["motion"] = moving.distance
        for name in _ANIMATIONS[:1] if "mesh" in facts else _ANIMATIONS:  # where no surface is, a film is all
            moving.write(run.path / name)
    begin("rendering the turntable")
    table = settings.turntable
    view = viewer_of(components.renderer, primitive)
    frames = video.orbit_frames(view, table.frames, elevation=table.elevation, size=table.size)
    video.write_video(run.path / "turntable.mp4", frames, table.fps)
    sheet = video.orbit_frames(view, _SHEET_VIEWS, elevation=table.elevation, size=table.size)
    video.write_contact_sheet(run.path / "contact_sheet.png", list(sheet))
    return facts


def write_report(
    recipe: Recipe,
    run: RunDirectory,
    facts: dict[str, Any],
    scores: Mapping[str, float],
    seconds: dict[str, float],
) -> None:
    """report.json; its presence marks the run as finished, so it comes last."""
    rows = metrics.read(run.metrics)
    scores = {**({"loss": rows[-1]["loss"]} if rows else {}), **scores}
    scores |= {name: facts[name] for name in ("watertight", "faces", "vertices") if name in facts}
    document = report.build_report(
        prompt=recipe.prompt,
        seed=recipe.seed,
        seconds=seconds,
        scores=scores,
        steps=recipe.steps,
        threads=torch.get_num_threads(),
        guidance=[guide for part in recipe.all_stages for guide in part.resolved["guidance"]],
        asset=facts,
    )
    report.write_report(run.report, document)
