"""`threedgen export` and `threedgen render`: files of a run that was made before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from threedgen import export
from threedgen.core.errors import UserError
from threedgen.core.roles import RepresentationRoles, declared
from threedgen.export import video
from threedgen.export.moving import MOTION_SUFFIXES, holds_motion
from threedgen.jobs.asset import asset_of, moving_asset, note_of, renderer_here, viewer_of
from threedgen.jobs.build import load_scene
from threedgen.jobs.run_directory import RunDirectory
from threedgen.recipes.load import read_resolved


def export_run(run: RunDirectory, path: Path, settings: Sequence[str] = ()) -> None:
    """Writes a run's asset to `path`: .glb, .obj, .ply, and where it moves what `MovingAsset.write` knows.

    settings: key=value under the recipe's `export`.
    """
    if any(setting.endswith(".ply") for setting in settings):
        raise UserError(
            "the shell put the files that are there for the star: write --to 'DIR/*.ply' in quotes"
        )
    if not holds_motion(path):  # a wrong suffix is said before anything is loaded
        try:
            export.exporter_of(path)
        except UserError as error:
            raise UserError(f"{error}; for what moves also {', '.join(MOTION_SUFFIXES)}, DIR/*.ply") from None
    recipe = read_resolved(run.recipe, [f"export.{setting}" for setting in settings])
    scene = load_scene(run, recipe)
    if declared(type(scene), RepresentationRoles).moves and holds_motion(path):
        moving_asset(recipe, scene).write(path)
        return
    if path.suffix.lower() in MOTION_SUFFIXES or "*" in path.name:
        raise UserError(
            f"cannot write '{path}': nothing moves in '{run.path}'; `threedgen render` makes a turntable of it"
        )
    primitive = asset_of(recipe, scene)
    export.write(primitive, path, note=note_of(recipe), mesh=recipe.fixed["export"].config.mesh)


def render_run(run: RunDirectory, path: Path, settings: Sequence[str] = (), backend: str = "auto") -> None:
    """Renders one turn of a run's asset to .mp4, .gif, .webp, or PNG frames in a folder.

    settings: key=value under the recipe's `export.turntable`. backend: of the renderer, on this machine.
    """
    if path.suffix:
        _check_suffix(path, video.SUFFIXES)
    recipe = read_resolved(run.recipe, [f"export.turntable.{setting}" for setting in settings])
    table = recipe.fixed["export"].config.turntable
    primitive = asset_of(recipe, load_scene(run, recipe))
    view = viewer_of(renderer_here(recipe, backend), primitive)
    frames = video.orbit_frames(view, table.frames, elevation=table.elevation, size=table.size)
    video.write_video(path, frames, table.fps)


def _check_suffix(path: Path, allowed: tuple[str, ...]) -> None:
    if path.suffix.lower() not in allowed:
        raise UserError(f"cannot write '{path.name}': use one of {', '.join(allowed)}")
