"""The asset of a run as users get it, and how it is looked at."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch

from threedgen.core.errors import UserError
from threedgen.core.roles import RepresentationRoles, declared
from threedgen.core.types import GaussianCloud, Primitive, TriMesh
from threedgen.export import animation, video
from threedgen.export.low_pass import as_seen, pixel_size
from threedgen.export.mesh import MeshConfig
from threedgen.export.moving import MovingAsset
from threedgen.recipes.recipe import Recipe

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
    if isinstance(primitive, GaussianCloud) and not declared(type(scene), RepresentationRoles).moves:
        part = recipe.all_stages[-1]
        sampler = part.cameras.make()
        last = range(max(0, part.steps - _LAST_STEPS), part.steps)
        views = [sampler(recipe.seed, step, part.steps) for step in last]
        return as_seen(primitive, max(0.0, pixel_size(*views) ** 2 - pixel**2) ** 0.5)
    return primitive


def moving_asset(recipe: Recipe, scene: Any) -> MovingAsset:
    """A scene that moves with how the recipe's `export` section writes it. The scene comes to the CPU."""
    settings = recipe.fixed["export"].config
    return MovingAsset(
        scene.to("cpu"),
        settings.animation,
        dataclasses.replace(settings.mesh, faces=settings.moving_faces),
        renderer_here(recipe, "auto"),
        settings.turntable.size,
        note_of(recipe),
    )


def renderer_here(recipe: Recipe, backend: str) -> Any:
    """The recipe's renderer for an asset on the CPU, wherever the run itself was rendered."""
    settings = recipe.renderer.config
    if any(item.name == "backend" for item in dataclasses.fields(settings)):
        settings = dataclasses.replace(settings, backend=backend)
    return recipe.renderer.cls(settings)


def viewer_of(renderer: Any, primitive: Any) -> video.Render:
    """Cameras -> pictures on white."""

    def view(cameras: Any) -> torch.Tensor:
        device = _device(primitive)
        return renderer(primitive, cameras.to(device), torch.ones(3, device=device)).rgb

    return view


def _device(primitive: Primitive) -> torch.device:
    if isinstance(primitive, GaussianCloud):
        return primitive.means.device
    return primitive.vertices.device if isinstance(primitive, TriMesh) else primitive.bounds.device


def note_of(recipe: Recipe) -> dict[str, Any]:
    return {"prompt": recipe.prompt, "seed": recipe.seed, "steps": recipe.steps}
