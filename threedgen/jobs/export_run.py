"""`threedgen export` and `threedgen render`: writes files of a run that was made before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from threedgen import export
from threedgen.core.errors import UserError
from threedgen.core.roles import RepresentationRoles, declared
from threedgen.export import video
from threedgen.export.targets import FILMS, MOTION_SUFFIXES, check_target, holds_motion
from threedgen.jobs.asset import asset_of, moving_asset, note_of, renderer_here, viewer_of
from threedgen.jobs.build import load_scene
from threedgen.jobs.run_directory import RunDirectory
from threedgen.recipes.load import read_resolved


def export_run(run: RunDirectory, path: Path, settings: Sequence[str] = ()) -> None:
    """Writes the asset of a run to `path` in a format of `export.write`, or of `MovingAsset.write` if it moves.

    settings: key=value under the recipe's `export`. Raises UserError.
    """
    if any(setting.endswith(".ply") for setting in settings):
        raise UserError(
            "the shell replaced the star by the names of existing files: write --to 'DIR/*.ply' in quotes"
        )
    check_target(path)  # before anything is loaded
    recipe = read_resolved(run.recipe, [f"export.{setting}" for setting in settings])
    scene = load_scene(run, recipe)
    if declared(type(scene), RepresentationRoles).moves and holds_motion(path):
        moving_asset(recipe, scene).write(path)
        return
    if export.suffix_of(path) in MOTION_SUFFIXES or "*" in path.name:
        raise UserError(
            f"cannot write '{path}': nothing moves in '{run.path}'; `threedgen render` makes a turntable of it"
        )
    primitive = asset_of(recipe, scene)
    config = recipe.fixed["export"].config
    export.write(primitive, path, note=note_of(recipe), mesh=config.mesh, splats=config.splats)


def render_run(run: RunDirectory, path: Path, settings: Sequence[str] = (), backend: str = "auto") -> None:
    """Renders one turn around the asset of a run to .mp4, .gif or .webp, or to PNG frames in a folder.

    settings: key=value under the recipe's `export.turntable`. backend: of the renderer, on this machine.
    Raises UserError.
    """
    if path.suffix and path.suffix.lower() not in FILMS:
        raise UserError(f"cannot write '{path.name}': use one of {', '.join(FILMS)}")
    recipe = read_resolved(run.recipe, [f"export.turntable.{setting}" for setting in settings])
    table = recipe.fixed["export"].config.turntable
    primitive = asset_of(recipe, load_scene(run, recipe))
    view = viewer_of(renderer_here(recipe, backend), primitive)
    frames = video.orbit_frames(view, table.frames, elevation=table.elevation, size=table.size)
    video.write_video(path, frames, table.fps)
