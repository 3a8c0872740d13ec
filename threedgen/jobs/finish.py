"""What a finished run leaves: mesh, splats, turntable, contact sheet, report; and `export` and `render`."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from threedgen import export
from threedgen.core.errors import UserError
from threedgen.core.types import GaussianCloud, Primitive, TriMesh
from threedgen.export import animation, report, video
from threedgen.export.low_pass import as_seen, pixel_size
from threedgen.export.mesh import MeshConfig, NoSurface, is_watertight
from threedgen.export.moving import MOTION_SUFFIXES, MovingAsset, holds_motion
from threedgen.jobs.listeners import metrics
from threedgen.recipes.recipe import never_read, read_resolved

if TYPE_CHECKING:
    from threedgen.jobs.run import Parts
    from threedgen.jobs.run_directory import RunDirectory
    from threedgen.recipes.recipe import Recipe

_SHEET_VIEWS = 8
_ANIMATIONS = ("anim.mp4", "anim.glb", "player.html")
_LAST_STEPS = 64  # whose views say how blurred the pictures were: one step's distance is one draw


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
    """mesh: how the surface is taken from the asset. turntable: the video, and the sheet's picture size.
    animation: of what moves, and the camera of its film. moving_faces: triangles of an animated mesh, every
    frame of which is stored."""

    mesh: MeshConfig = field(default_factory=MeshConfig)
    turntable: Turntable = field(default_factory=Turntable)
    animation: animation.Config = field(default_factory=animation.Config)
    moving_faces: int = 10_000


def asset_of(recipe: Recipe, scene: Any, pixel: float = 0.0) -> Primitive:
    """The scene as users get it: Gaussians with the blur of the pictures that they were optimised in.

    What moves was made by an earlier stage, in whose pictures' blur it is already.
    pixel: world size of the pixels that it will be rendered in: what the renderer blurs by them is left out.
    """
    with torch.no_grad():
        primitive = scene.at(None)
    if isinstance(primitive, GaussianCloud) and not getattr(scene, "moves", False):
        part = recipe.parts[-1]
        sampler = part.cameras.make()
        last = range(max(0, part.steps - _LAST_STEPS), part.steps)
        views = [sampler(recipe.seed, step, part.steps) for step in last]
        return as_seen(primitive, max(0.0, pixel_size(*views) ** 2 - pixel**2) ** 0.5)
    return primitive


def write_assets(
    recipe: Recipe, run: RunDirectory, parts: Parts, begin: Callable[[str], None]
) -> dict[str, Any]:
    """asset.glb, asset.ply, turntable.mp4 and contact_sheet.png as far as the primitive has them; counts for
    the report. An asset without a surface is a warning: the other files are worth having."""
    settings = recipe.fixed["export"].config
    primitive = asset_of(recipe, parts.scene)
    if not isinstance(primitive, Primitive):
        warnings.warn(f"no exporter for {type(primitive).__name__}: no asset files are written", stacklevel=1)
        return {}
    facts: dict[str, Any] = {}
    note = _note(recipe)
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
    if getattr(parts.scene, "moves", False):
        begin("writing the animation")
        moving = moving_asset(recipe, parts.scene)
        facts["motion"] = moving.distance
        for name in _ANIMATIONS[:1] if "mesh" in facts else _ANIMATIONS:  # where no surface is, a film is all
            moving.write(run.path / name)
    begin("rendering the turntable")
    table = settings.turntable
    view = _viewer(parts.renderer, primitive)
    frames = video.orbit_frames(view, table.frames, elevation=table.elevation, size=table.size)
    video.write_video(run.path / "turntable.mp4", frames, table.fps)
    sheet = video.orbit_frames(view, _SHEET_VIEWS, elevation=table.elevation, size=table.size)
    video.write_contact_sheet(run.path / "contact_sheet.png", list(sheet))
    return facts


def moving_asset(recipe: Recipe, scene: Any) -> MovingAsset:
    """A scene that moves with how the recipe's `export` section writes it. The scene comes to the CPU."""
    settings = recipe.fixed["export"].config
    return MovingAsset(
        scene.to("cpu"),
        settings.animation,
        dataclasses.replace(settings.mesh, faces=settings.moving_faces),
        renderer_here(recipe, "auto"),
        settings.turntable.size,
        _note(recipe),
    )


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
        guidance=[guide for part in recipe.parts for guide in part.resolved["guidance"]],
        asset=facts,
        settings_not_used=never_read(recipe),
    )
    report.write_report(run.report, document)


def export_run(run: RunDirectory, path: Path, settings: Sequence[str] = ()) -> None:
    """Writes a run's asset to `path`: .glb, .obj, .ply, and where it moves what `MovingAsset.write` knows.

    settings: key=value under the recipe's `export`.
    """
    from threedgen.jobs.run import load_scene

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
    if getattr(scene, "moves", False) and holds_motion(path):
        moving_asset(recipe, scene).write(path)
        return
    if path.suffix.lower() in MOTION_SUFFIXES or "*" in path.name:
        raise UserError(
            f"cannot write '{path}': nothing moves in '{run.path}'; `threedgen render` makes a turntable of it"
        )
    primitive = asset_of(recipe, scene)
    export.write(primitive, path, note=_note(recipe), mesh=recipe.fixed["export"].config.mesh)


def render_run(run: RunDirectory, path: Path, settings: Sequence[str] = (), backend: str = "auto") -> None:
    """Renders one turn of a run's asset to .mp4, .gif, .webp, or PNG frames in a folder.

    settings: key=value under the recipe's `export.turntable`. backend: of the renderer, on this machine.
    """
    from threedgen.jobs.run import load_scene

    if path.suffix:
        _check_suffix(path, video.SUFFIXES)
    recipe = read_resolved(run.recipe, [f"export.turntable.{setting}" for setting in settings])
    table = recipe.fixed["export"].config.turntable
    primitive = asset_of(recipe, load_scene(run, recipe))
    view = _viewer(renderer_here(recipe, backend), primitive)
    frames = video.orbit_frames(view, table.frames, elevation=table.elevation, size=table.size)
    video.write_video(path, frames, table.fps)


def renderer_here(recipe: Recipe, backend: str) -> Any:
    """The recipe's renderer for an asset on the CPU, wherever the run itself was rendered."""
    settings = recipe.renderer.config
    if any(item.name == "backend" for item in dataclasses.fields(settings)):
        settings = dataclasses.replace(settings, backend=backend)
    return recipe.renderer.cls(settings)


def _viewer(renderer: Any, primitive: Any) -> video.Render:
    """Cameras -> pictures on white."""

    def view(cameras: Any) -> torch.Tensor:
        device = _device(primitive)
        return renderer(primitive, cameras.to(device), torch.ones(3, device=device)).rgb

    return view


def _device(primitive: Primitive) -> torch.device:
    if isinstance(primitive, GaussianCloud):
        return primitive.means.device
    return primitive.vertices.device if isinstance(primitive, TriMesh) else primitive.bounds.device


def _note(recipe: Recipe) -> dict[str, Any]:
    return {"prompt": recipe.prompt, "seed": recipe.seed, "steps": recipe.steps}


def _check_suffix(path: Path, allowed: tuple[str, ...]) -> None:
    if path.suffix.lower() not in allowed:
        raise UserError(f"cannot write '{path.name}': use one of {', '.join(allowed)}")
