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
from threedgen.export.views import View
from threedgen.jobs.asset import Turntable, asset_of, given_views, moving_asset, note_of, viewer_of
from threedgen.jobs.build import Components
from threedgen.jobs.listeners import metrics
from threedgen.jobs.look import look_of
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
    facts: dict[str, Any] = {}
    if isinstance(primitive, GaussianCloud):
        begin("writing splats")
        splats = recipe.fixed["export"].config.splats
        export.write(primitive, run.path / "asset.ply", note=note_of(recipe), splats=splats)
        facts["gaussians"] = len(primitive)
    begin("extracting the mesh")
    given = given_views(recipe)
    written = _write_mesh(recipe, run, primitive, given)
    if isinstance(written, str):
        facts["mesh"], mesh = written, None
    else:
        facts |= _facts_of(written)
        mesh = read_back(run.path / "asset.glb", None if written.material is None else written.material.light)
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
        _write_pictures(run, viewer_of(MeshRenderer(), mesh), table, view)
    return facts, scores


def _write_mesh(
    recipe: Recipe, run: RunDirectory, primitive: Primitive, given: Sequence[View]
) -> TriMesh | str:
    """Writes asset.glb; returns what it holds, or why there is none."""
    try:
        mesh = export.write(
            primitive,
            run.path / "asset.glb",
            note=note_of(recipe),
            mesh=recipe.fixed["export"].config.mesh,
            given=given,
            look=look_of(recipe),
        )
    except NoSurface as error:
        warnings.warn(str(error), stacklevel=1)
        return str(error)
    assert mesh is not None  # a .glb holds one
    return mesh


def _facts_of(mesh: TriMesh) -> dict[str, Any]:
    """Counts for the report, and what the colours mean."""
    counts = {"vertices": len(mesh.vertices), "faces": len(mesh.faces), "watertight": is_watertight(mesh)}
    return counts if mesh.material is None else {**counts, "material": facts_of(mesh.material)}


def _write_pictures(
    run: RunDirectory, view: video.Render, table: Turntable, beside: video.Render | None = None
) -> None:
    """A film of one turn and a sheet of eight views, and below them those of `beside`, the asset as optimised."""
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
        others = list(video.orbit_frames(beside, _SHEET_VIEWS, elevation=table.elevation, size=table.size))
        sheet += [video.labelled(others[0], "as optimised"), *others[1:]]
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
) -> None:
    """Writes report.json. A run that has it is finished, so it is the last file to be written.

    facts: counts of the asset. scores: named measures. seconds: duration of each phase. executors: how the priors
    were computed.
    """
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
    )
    report.write_report(run.report, document)
