"""The files that a finished run leaves: mesh, splats, animation, turntable, contact sheet and report."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from threedgen import export
from threedgen.core import threads
from threedgen.core.roles import RepresentationRoles, declared
from threedgen.core.types import GaussianCloud, Primitive, TriMesh
from threedgen.export import report, video
from threedgen.export.materials import facts_of
from threedgen.export.mesh import NoSurface, is_watertight
from threedgen.export.settling import settle
from threedgen.export.views import View
from threedgen.jobs.asset import (
    Turntable,
    asset_of,
    given_views,
    moving_asset,
    note_of,
    settling_steps,
    viewer_of,
)
from threedgen.jobs.build import Components
from threedgen.jobs.listeners import metrics, notes
from threedgen.jobs.look import look_of
from threedgen.jobs.pages.page import write_run_page
from threedgen.jobs.run_directory import RunDirectory
from threedgen.jobs.scores.exported import exported_scores, read_back
from threedgen.recipes.recipe import Recipe
from threedgen.renderers.mesh import MeshRenderer

_SHEET_VIEWS = 8
_FILM = "anim.mp4"
_MESH_ANIMATIONS = ("anim.glb", "player.html")


def write_assets(
    recipe: Recipe, run: RunDirectory, components: Components, begin: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Writes the asset in every format that holds it, a turntable and a contact sheet, which show the mesh.

    Returns counts for the report, and the scores of the mesh. begin: called with the name of each phase. An asset
    without a surface is a warning, because the other files are still useful. Raises UserError if a place cannot be
    written.
    """
    primitive = asset_of(recipe, components.scene)
    if not isinstance(primitive, Primitive):
        warnings.warn(f"no exporter for {type(primitive).__name__}: no asset files are written", stacklevel=1)
        return {}, {}
    begin("extracting the mesh")
    given = given_views(recipe)
    surface, facts = _write_mesh(recipe, run, primitive, given)
    mesh = None if surface is None else read_back(run.path / "asset.glb")
    if isinstance(primitive, GaussianCloud):
        begin("writing splats")
        if surface is not None:
            primitive = settle(primitive, surface, settling_steps(recipe, components.scene))
        splats = recipe.fixed["export"].config.splats
        export.write(primitive, run.path / "asset.ply", note=note_of(recipe), splats=splats)
        facts["gaussians"] = len(primitive)
    scores = {} if mesh is None or isinstance(primitive, TriMesh) else exported_scores(mesh, primitive, given)
    if declared(type(components.scene), RepresentationRoles).moves:
        begin("writing the animation")
        moving = moving_asset(recipe, components.scene)
        facts["motion"] = moving.distance
        for name in (_FILM,) if "mesh" in facts else (_FILM, *_MESH_ANIMATIONS):
            moving.write(run.path / name)
    begin("rendering the turntable")
    table = recipe.fixed["export"].config.turntable
    view = viewer_of(components.renderer, primitive)
    if mesh is None:
        _write_pictures(run, view, table)
    else:
        name = "splats" if isinstance(primitive, GaussianCloud) else "as optimised"
        _write_pictures(run, viewer_of(MeshRenderer(), mesh), table, (name, view))
    return facts, scores


def _write_mesh(
    recipe: Recipe, run: RunDirectory, primitive: Primitive, given: Sequence[View]
) -> tuple[TriMesh | None, dict[str, Any]]:
    """Writes asset.glb; returns the surface in the colours of the asset, and counts and material of what the file
    holds. Without a surface: None, and under "mesh" why there is none."""
    config, note = recipe.fixed["export"].config.mesh, note_of(recipe)
    try:
        surface = export.as_mesh(primitive, config, given)
    except NoSurface as error:
        warnings.warn(str(error), stacklevel=1)
        return None, {"mesh": str(error)}
    mesh = export.write(surface, run.path / "asset.glb", note=note, mesh=config, look=look_of(recipe))
    assert mesh is not None  # a .glb holds one
    facts = {"vertices": len(mesh.vertices), "faces": len(mesh.faces), "watertight": is_watertight(mesh)}
    return surface, facts if mesh.material is None else {**facts, "material": facts_of(mesh.material)}


def _write_pictures(
    run: RunDirectory, view: video.Render, table: Turntable, beside: tuple[str, video.Render] | None = None
) -> None:
    """A film of one turn and a sheet of eight views, and below them those of `beside`, with its name."""
    sheet: list[video.Frame] = []
    shared = table.frames % _SHEET_VIEWS == 0  # then every view of the sheet is a frame of the turn
    frames = video.orbit_frames(view, table.frames, elevation=table.elevation, size=table.size)
    if shared:
        frames = _kept(frames, table.frames // _SHEET_VIEWS, sheet)
    video.write_video(run.path / "turntable.mp4", frames, table.fps)
    if not shared:
        sheet += video.orbit_frames(view, _SHEET_VIEWS, elevation=table.elevation, size=table.size)
    if beside is not None:
        sheet[0] = video.labelled(sheet[0], "mesh")
        name, other = beside
        others = list(video.orbit_frames(other, _SHEET_VIEWS, elevation=table.elevation, size=table.size))
        sheet += [video.labelled(others[0], name), *others[1:]]
    video.write_contact_sheet(run.path / "contact_sheet.png", sheet)


def _kept(frames: Iterable[video.Frame], step: int, some: list[video.Frame]) -> Iterator[video.Frame]:
    """The frames, every `step`th of which is added to `some` as well."""
    for index, frame in enumerate(frames):
        if index % step == 0:
            some.append(frame)
        yield frame


def write_report(
    recipe: Recipe,
    run: RunDirectory,
    facts: dict[str, Any],
    scores: Mapping[str, float],
    seconds: Mapping[str, float],
    executors: Sequence[Mapping[str, Any]],
    **more: Any,
) -> None:
    """Writes report.html and report.json. A run that has the latter is finished, so it is written last.

    facts: counts of the asset. scores: named measures. seconds: duration of each phase. executors: how the priors
    were computed. more: further entries.
    """
    noted = notes.read(run.notes)
    rows = metrics.read(run.metrics)
    scores = {**({"loss": rows[-1]["loss"]} if rows and "loss" in rows[-1] else {}), **scores}
    scores |= {name: facts[name] for name in ("watertight", "faces", "vertices") if name in facts}
    document = report.build_report(
        prompt=recipe.prompt,
        seed=recipe.seed,
        seconds=seconds,
        scores=scores,
        steps=recipe.steps,
        threads=torch.get_num_threads(),
        threads_why=threads.chosen().why,
        executors=list({str(facts): facts for facts in executors}.values()),
        guidance=[guide for stage in recipe.all_stages for guide in stage.resolved["guidance"]],
        asset=facts,
        warnings=[note["text"] for note in noted],
        verdicts=[note for note in noted if "reason" in note],
        **more,
    )
    write_run_page(run, document)
    report.write_report(run.report, document)
