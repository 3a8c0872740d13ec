"""What a finished run leaves: mesh, splats, turntable, contact sheet, report; and `export` and `render`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from threedgen import config
from threedgen.errors import UserError
from threedgen.export import report, video
from threedgen.export.mesh import MeshConfig, extract_mesh
from threedgen.listeners import metrics
from threedgen.types import GaussianCloud, Primitive, TriMesh

if TYPE_CHECKING:
    from threedgen.config import Recipe
    from threedgen.job import Parts
    from threedgen.run import RunDirectory

MESH_SUFFIXES = (".glb", ".obj")
SUFFIXES = (*MESH_SUFFIXES, ".ply")
_SHEET_VIEWS = 8


@dataclass(frozen=True)
class Turntable:
    """One turn around the asset. frames: how many. fps: a second. size: pixels. elevation: degrees."""

    frames: int = 72
    fps: float = 24.0
    size: int = 256
    elevation: float = 15.0

    def __post_init__(self) -> None:
        if self.frames < 1 or self.size < 8 or not self.fps > 0.0:
            raise UserError("a turntable needs at least 1 frame of 8 pixels and a positive fps")
        if not -90.0 < self.elevation < 90.0:
            raise UserError(
                f"turntable elevation must lie between -90 and 90 degrees, got {self.elevation:g}"
            )


@dataclass(frozen=True)
class Config:
    """mesh: how the surface is taken from the asset. turntable: the video, and the sheet's picture size."""

    mesh: MeshConfig = field(default_factory=MeshConfig)
    turntable: Turntable = field(default_factory=Turntable)


def write_assets(
    recipe: Recipe, run: RunDirectory, parts: Parts, begin: Callable[[str], None]
) -> dict[str, Any]:
    """asset.glb, asset.ply, turntable.mp4 and contact_sheet.png as far as the primitive has them; counts for
    the report. An asset without a surface is a warning: the other files are worth having."""
    settings = recipe.fixed["export"].config
    with torch.no_grad():
        primitive = parts.scene.at(None)
    if not isinstance(primitive, GaussianCloud | TriMesh):
        warnings.warn(f"no exporter for {type(primitive).__name__}: no asset files are written", stacklevel=1)
        return {}
    facts: dict[str, Any] = {}
    note = _note(recipe)
    if isinstance(primitive, GaussianCloud):
        begin("writing splats")
        write_asset(primitive, run.path / "asset.ply", settings.mesh, note)
        facts["gaussians"] = len(primitive)
    begin("extracting the mesh")
    try:
        mesh = write_asset(primitive, run.path / "asset.glb", settings.mesh, note)
        facts |= {"vertices": len(mesh.vertices), "faces": len(mesh.faces)} if mesh is not None else {}
    except UserError as error:
        warnings.warn(str(error), stacklevel=1)
        facts["mesh"] = str(error)
    begin("rendering the turntable")
    table = settings.turntable
    view = _viewer(parts.renderer, primitive)
    frames = video.orbit_frames(view, table.frames, elevation=table.elevation, size=table.size)
    video.write_video(run.path / "turntable.mp4", frames, table.fps)
    sheet = video.orbit_frames(view, _SHEET_VIEWS, elevation=table.elevation, size=table.size)
    video.write_contact_sheet(run.path / "contact_sheet.png", list(sheet))
    return facts


def write_report(recipe: Recipe, run: RunDirectory, facts: dict[str, Any], seconds: dict[str, float]) -> None:
    """report.json; its presence marks the run as finished, so it comes last."""
    rows = metrics.read(run.metrics)
    document = report.build_report(
        prompt=recipe.prompt,
        seed=recipe.seed,
        seconds=seconds,
        scores={"loss": rows[-1]["loss"]} if rows else {},
        steps=recipe.steps,
        threads=torch.get_num_threads(),
        guidance=recipe.resolved["guidance"],
        asset=facts,
        settings_not_used=config.never_read(recipe),
    )
    report.write_report(run.report, document)


def export_run(run: RunDirectory, path: Path, settings: Sequence[str] = ()) -> None:
    """Writes a run's asset to `path` (.glb, .obj, .ply). settings: key=value under the recipe's `export`."""
    from threedgen.job import load_scene

    _check_suffix(path, SUFFIXES)
    recipe = config.read_resolved(run.recipe, [f"export.{setting}" for setting in settings])
    with torch.no_grad():
        primitive = load_scene(run, recipe).at(None)
    write_asset(primitive, path, recipe.fixed["export"].config.mesh, _note(recipe))


def render_run(run: RunDirectory, path: Path, settings: Sequence[str] = ()) -> None:
    """Renders one turn of a run's asset to .mp4, .gif, or PNG frames in a folder.

    settings: key=value under the recipe's `export.turntable`.
    """
    from threedgen.job import load_scene

    if path.suffix:
        _check_suffix(path, (".mp4", ".gif"))
    recipe = config.read_resolved(run.recipe, [f"export.turntable.{setting}" for setting in settings])
    table = recipe.fixed["export"].config.turntable
    with torch.no_grad():
        primitive = load_scene(run, recipe).at(None)
    view = _viewer(recipe.renderer.make(), primitive)
    frames = video.orbit_frames(view, table.frames, elevation=table.elevation, size=table.size)
    video.write_video(path, frames, table.fps)


def write_asset(
    primitive: Primitive, path: Path, mesh_config: MeshConfig, note: dict[str, Any] | None = None
) -> TriMesh | None:
    """One file by suffix: .ply holds Gaussians, .glb and .obj a mesh (returned). note: prompt, seed, steps.

    Raises UserError for a suffix or a primitive that does not go with it, or an asset without a surface.
    """
    _check_suffix(path, SUFFIXES)
    note = note or {}
    if path.suffix.lower() == ".ply":
        from threedgen.export.splat import SplatParameters, write_splats

        if not isinstance(primitive, GaussianCloud):
            raise UserError(
                f"cannot write {path}: .ply holds Gaussians and the asset has none; use .glb or .obj"
            )
        write_splats(path, SplatParameters.from_cloud(primitive), comment=_lines(note))
        return None
    if isinstance(primitive, GaussianCloud):
        mesh = extract_mesh(primitive, mesh_config)
    elif isinstance(primitive, TriMesh):
        mesh = primitive
    else:
        raise UserError(f"cannot write {path}: there is no mesh exporter for {type(primitive).__name__}")
    if path.suffix.lower() == ".glb":
        from threedgen.export.gltf import write_glb

        write_glb(path, mesh, extras=note)
    else:
        from threedgen.export.obj import write_obj

        write_obj(path, mesh, comment=_lines(note))
    return mesh


def _viewer(renderer: Any, primitive: Any) -> video.Render:
    """Cameras -> pictures on white."""

    def view(cameras: Any) -> torch.Tensor:
        device = primitive.means.device if isinstance(primitive, GaussianCloud) else primitive.vertices.device
        return renderer(primitive, cameras.to(device), torch.ones(3, device=device)).rgb

    return view


def _note(recipe: Recipe) -> dict[str, Any]:
    return {"prompt": recipe.prompt, "seed": recipe.seed, "steps": recipe.steps}


def _lines(note: dict[str, Any]) -> str:
    return "\n".join(f"{key}: {' '.join(str(value).split())}" for key, value in note.items())


def _check_suffix(path: Path, allowed: tuple[str, ...]) -> None:
    if path.suffix.lower() not in allowed:
        raise UserError(f"cannot write '{path.name}': use one of {', '.join(allowed)}")
