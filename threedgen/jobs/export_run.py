"""`threedgen export` and `threedgen render`: writes files of a run that was made before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from threedgen import export
from threedgen.core.errors import UserError
from threedgen.core.roles import RepresentationRoles, declared
from threedgen.core.types import TriMesh
from threedgen.export import video
from threedgen.export.names import FILMS, check_suffix, holds_motion, needs_motion
from threedgen.export.packing import Packing
from threedgen.jobs.asset import asset_of, given_views, moving_asset, note_of, renderer_here, viewer_of
from threedgen.jobs.build import load_scene
from threedgen.jobs.look import look_of
from threedgen.jobs.run_directory import RunDirectory
from threedgen.recipes.load import read_resolved

_PLAIN = Packing()


def export_run(
    run: RunDirectory, path: Path, settings: Sequence[str] = (), packing: Packing = _PLAIN
) -> TriMesh | None:
    """Writes the asset of a run to `path`, in a format of `export.write`, or of `MovingAsset.write` if it moves.

    settings: key=value under the recipe's `export`. packing: how a .glb or .gltf is made smaller.
    Returns the mesh if the format holds one. Raises UserError.
    """
    if any(setting.endswith(".ply") for setting in settings):
        raise UserError(
            "the shell replaced the star by the names of existing files: write --to 'DIR/*.ply' in quotes"
        )
    check_suffix(path)  # before anything is loaded
    packing.check(path)
    recipe = read_resolved(run.recipe, [f"export.{setting}" for setting in settings])
    scene = load_scene(run, recipe)
    if declared(type(scene), RepresentationRoles).moves and holds_motion(path):
        return moving_asset(recipe, scene).write(path, packing)
    if needs_motion(path):
        raise UserError(
            f"cannot write '{path}': nothing moves in '{run.path}'; `threedgen render` makes a turntable of it"
        )
    primitive = asset_of(recipe, scene)
    config = recipe.fixed["export"].config
    return export.write(
        primitive,
        path,
        note=note_of(recipe),
        mesh=config.mesh,
        splats=config.splats,
        packing=packing,
        given=given_views(recipe),
        look=look_of(recipe),
    )


def summary(path: Path, mesh: TriMesh | None) -> str:
    """What was written to `path`, as "asset.glb: 12,000 triangles, 1.8 MB", and what its colours are and why. mesh:
    what the file holds, if any."""
    if path.is_file():
        files, counts = [path], []
    else:
        files = list(path.parent.glob(path.name) if "*" in path.name else path.iterdir())
        counts = [f"{len(files):,} files"]
    if mesh is not None:
        counts.append(f"{len(mesh.faces):,} triangles")
    size = sum(file.stat().st_size for file in files)
    counts.append(f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB")
    material = None if mesh is None else mesh.material
    colors = "" if material is None else f"\ncolours: {material.colors}, because {material.why}"
    return f"{path}: {', '.join(counts)}{colors}"


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
