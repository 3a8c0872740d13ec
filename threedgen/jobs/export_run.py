"""`threedgen export` and `threedgen render`: writes files of a run that was made before."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen import export
from threedgen.core.errors import UserError
from threedgen.core.roles import RepresentationRoles, declared
from threedgen.core.transforms import transform, transform_mesh
from threedgen.core.types import GaussianCloud, TriMesh
from threedgen.datasets.given import GivenViews
from threedgen.datasets.transforms_file import kept_place
from threedgen.export import video
from threedgen.export.mesh import NoSurface
from threedgen.export.names import (
    FILMS,
    check_suffix,
    holds_motion,
    holds_splats,
    level_of,
    needs_motion,
)
from threedgen.export.packing import Packing
from threedgen.export.settling import settle
from threedgen.jobs.asset import (
    asset_of,
    given_views,
    moving_asset,
    note_of,
    renderer_here,
    settling_steps,
    viewer_of,
)
from threedgen.jobs.build import load_scene
from threedgen.jobs.look import look_of
from threedgen.jobs.run_directory import RunDirectory
from threedgen.jobs.scores.exported import read_back
from threedgen.recipes.load import read_resolved
from threedgen.recipes.recipe import Recipe
from threedgen.renderers.mesh import MeshRenderer

Show = Literal["mesh", "optimised"]

_PLAIN = Packing()


def export_run(
    run: RunDirectory,
    path: Path,
    settings: Sequence[str] = (),
    packing: Packing = _PLAIN,
    lods: int = 0,
    in_place: bool = False,
) -> dict[Path, TriMesh | None]:
    """Writes the asset of a run to `path`, in a format of `export.write`, or of `MovingAsset.write` if it moves.

    settings: key=value under the recipe's `export`. packing: how a .glb or .gltf is made smaller. lods: number of
    levels of detail beside the file (`level_of`), each with a quarter of the triangles and half the texture of the
    one before; fewer, with a warning, if the mesh cannot be made of so few triangles. in_place: in the coordinates
    of the capture that `threedgen fit` was given, whichever way these are up. Returns the files that were written,
    each with its mesh if its format holds one. Raises UserError.
    """
    if any(setting.endswith(".ply") for setting in settings):
        raise UserError(
            "the shell replaced the star by the names of existing files: write --to 'DIR/*.ply' in quotes"
        )
    check_suffix(path)  # before anything is loaded
    packing.check(path)
    if lods and (holds_splats(path) or needs_motion(path) or not path.suffix):
        raise UserError(f"levels of detail are for meshes, and {path} holds none: leave them out")
    recipe = read_resolved(run.recipe, [f"export.{setting}" for setting in settings])
    back = capture_from_world(run, recipe) if in_place else None
    scene = load_scene(run, recipe)
    if declared(type(scene), RepresentationRoles).moves and holds_motion(path):
        if lods:
            raise UserError(
                f"levels of detail are for what stands still, and '{run.path}' moves: leave them out, or write .obj"
            )
        return {path: moving_asset(recipe, scene).write(path, packing)}
    if needs_motion(path):
        raise UserError(
            f"cannot write '{path}': nothing moves in '{run.path}'; `threedgen render` makes a turntable of it"
        )
    primitive = asset_of(recipe, scene)
    config, given, note = recipe.fixed["export"].config, given_views(recipe), note_of(recipe)
    steps = settling_steps(recipe, scene) if holds_splats(path) else 0
    if steps and isinstance(primitive, GaussianCloud):
        with contextlib.suppress(NoSurface):
            primitive = settle(primitive, export.as_mesh(primitive, config.mesh, given), steps)
    splats = config.splats
    if back is not None:
        if isinstance(primitive, GaussianCloud) and holds_splats(path):
            primitive, splats = transform(primitive, *back), replace(splats, up="y")
        else:
            primitive = transform_mesh(export.as_mesh(primitive, config.mesh, given), *back)
    mesh = export.write(
        primitive,
        path,
        note=note,
        mesh=config.mesh,
        splats=splats,
        packing=packing,
        given=given,
        look=look_of(recipe),
    )
    return {path: mesh, **dict(_levels(path, mesh, lods, note, packing))}


def _levels(
    path: Path, mesh: TriMesh | None, count: int, note: Mapping[str, Any], packing: Packing
) -> Iterator[tuple[Path, TriMesh]]:
    """Writes the levels of detail of a mesh that is at `path`."""
    from threedgen.export.fewer import coarser

    for number in range(1, count + 1):
        reduced = None if mesh is None else coarser(mesh)
        if reduced is None:
            warnings.warn(
                f"{level_of(path, number)} is not written: no mesh with so few triangles can be made",
                stacklevel=2,
            )
            return
        mesh = reduced
        export.write(mesh, level_of(path, number), note=note, packing=packing)
        yield level_of(path, number), mesh


def capture_from_world(
    run: RunDirectory, recipe: Recipe
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, " 3"], float]:
    """Rotation, translation and scale from the world of a run into that of the capture that it was fitted to.

    Raises UserError for a run that was fitted to none.
    """
    sampler = recipe.all_stages[-1].cameras.make()
    matrix = kept_place(Path(sampler.config.path)) if isinstance(sampler, GivenViews) else None
    if matrix is None:
        raise UserError(
            f"'{run.path}' was not fitted to a capture, so it has no other place: leave out --in-place"
        )
    scale = float(torch.linalg.det(matrix[:3, :3])) ** (1.0 / 3.0)
    return matrix[:3, :3] / scale, matrix[:3, 3], scale


def summary(path: Path, mesh: TriMesh | None) -> str:
    """What was written to `path`, as "asset.glb: 12,000 triangles, texture of 512 x 512, 1.8 MB".

    mesh: what the file holds, if any.
    """
    if path.is_file():
        files, counts = [path], []
    else:
        files = list(path.parent.glob(path.name) if "*" in path.name else path.iterdir())
        counts = [f"{len(files):,} files"]
    if mesh is not None:
        counts.append(f"{len(mesh.faces):,} triangles")
        if mesh.texture is not None:
            counts.append(f"texture of {mesh.texture.shape[1]} x {mesh.texture.shape[0]}")
    size = sum(file.stat().st_size for file in files)
    counts.append(f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB")
    return f"{path}: {', '.join(counts)}"


def colors_of(mesh: TriMesh | None) -> str | None:
    """What the colours of an exported mesh are and why, as a line; None if it has no material."""
    material = None if mesh is None else mesh.material
    return None if material is None else f"colours: {material.colors}, because {material.why}"


def render_run(
    run: RunDirectory,
    path: Path,
    settings: Sequence[str] = (),
    backend: str = "auto",
    show: Show | None = None,
) -> None:
    """Renders one turn around the asset of a run to .mp4, .gif or .webp, or to PNG frames in a folder.

    settings: key=value under the recipe's `export.turntable`. backend: of the renderer, on this machine. show:
    the mesh of asset.glb, or the asset as the last checkpoint has it; None: the mesh, as in turntable.mp4, if the
    run is finished and has one. Raises UserError.
    """
    if path.suffix and path.suffix.lower() not in FILMS:
        raise UserError(f"cannot write '{path.name}': use one of {', '.join(FILMS)}")
    recipe = read_resolved(run.recipe, [f"export.turntable.{setting}" for setting in settings])
    table = recipe.fixed["export"].config.turntable
    mesh = None if show == "optimised" else _mesh_of(run, needed=show == "mesh")
    if mesh is None:
        view = viewer_of(renderer_here(recipe, backend), asset_of(recipe, load_scene(run, recipe)))
    else:
        view = viewer_of(MeshRenderer(MeshRenderer.Config(backend=backend)), mesh)
    frames = video.orbit_frames(view, table.frames, elevation=table.elevation, size=table.size)
    video.write_video(path, frames, table.fps)


def _mesh_of(run: RunDirectory, needed: bool) -> TriMesh | None:
    """The mesh of asset.glb; if it is not needed, None where there is none or the run is not finished, because the
    file may then be of an earlier state. Raises UserError."""
    file = run.path / "asset.glb"
    if file.is_file() and (needed or run.finished):
        return read_back(file)
    if needed:
        raise UserError(
            f"there is no mesh to show, because {file} is missing: write it with `threedgen export {run.path} --to "
            f"{file}`, or show the asset as optimised"
        )
    return None
