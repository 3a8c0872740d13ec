"""The asset of a run as users get it, and how it is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Any

import torch

from threedgen.cameras.reference import ReferenceOrbit
from threedgen.core.errors import UserError
from threedgen.core.roles import RepresentationRoles, declared
from threedgen.core.settings import SettingError, above, at_least, between, settings
from threedgen.core.types import GaussianCloud, Primitive, TriMesh
from threedgen.datasets.cut_outs import read_cut_out
from threedgen.export import animation, video
from threedgen.export.low_pass import as_seen, pixel_size
from threedgen.export.mesh import FEWEST_FACES, MeshConfig
from threedgen.export.moving import MovingAsset
from threedgen.export.splat_settings import SplatConfig
from threedgen.export.views import View
from threedgen.guidance.reference_picture import ReferencePicture
from threedgen.jobs.look import look_of
from threedgen.recipes.recipe import Recipe

_TRUST = 1000.0  # of a given picture, beside a render
_LAST_STEPS = 64  # the blur is measured over the views of this many steps: the distance of one step is random


@settings
class Turntable:
    """One turn of a camera around the asset.

    Attributes:
        frames: Number of pictures in the turn.
        fps (frames per second): Speed of the video.
        size (pixels): Width and height of each picture.
        elevation (degrees): Angle of the camera above the horizontal plane through the origin.
    """

    frames: Annotated[int, at_least(1)] = 72
    fps: Annotated[float, above(0.0)] = 24.0
    size: Annotated[int, at_least(8)] = 256
    elevation: Annotated[float, between(-90.0, 90.0, open_low=True, open_high=True)] = 15.0


@settings
class Config:
    """The files that a finished run writes.

    Attributes:
        mesh: How the surface of the asset becomes a mesh.
        turntable: The video of one turn around the asset. The pictures of the contact sheet have its size, too.
        animation: Times of the files of an asset that moves, and the camera of its film.
        moving_faces (triangles): Largest number of triangles in a mesh that moves, every frame of which is stored.
        splats: How `threedgen export` writes 3D Gaussians.
        settle (steps): Steps in which the Gaussians of files are fitted to the renders of the asset's own mesh, so
            that both show the same; 0 writes them as they were optimised.
        box (world units): Lower and upper corner of what is the asset, as six numbers: Gaussians outside are left
            out. null is everything.
    """

    mesh: MeshConfig = field(default_factory=MeshConfig)
    turntable: Turntable = field(default_factory=Turntable)
    animation: animation.Config = field(default_factory=animation.Config)
    moving_faces: Annotated[int, at_least(FEWEST_FACES)] = 10_000
    splats: SplatConfig = field(default_factory=SplatConfig)
    settle: Annotated[int, at_least(0)] = 0
    box: tuple[float, float, float, float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.box is not None and not all(self.box[axis] < self.box[axis + 3] for axis in range(3)):
            raise SettingError("box", f"is {list(self.box)}; the lower corner must come before the upper one")


def asset_of(recipe: Recipe, scene: Any, pixel: float = 0.0) -> Primitive:
    """The scene as users get it: Gaussians are widened by the blur of the pictures that they were optimised in.

    The Gaussians of a scene that moves were made by an earlier run and have the blur of its pictures already.
    pixel: world size of the pixels in which the asset will be rendered; the renderer blurs by that much, so it is
    left out here.
    """
    with torch.no_grad():
        primitive = _within(scene.at(None), recipe.fixed["export"].config.box)
    if isinstance(primitive, GaussianCloud) and not declared(type(scene), RepresentationRoles).moves:
        stage = recipe.all_stages[-1]
        sampler = stage.cameras.make()
        last = range(max(0, stage.steps - _LAST_STEPS), stage.steps)
        views = [sampler(recipe.seed, step, stage.steps) for step in last]
        return as_seen(primitive, max(0.0, pixel_size(*views) ** 2 - pixel**2) ** 0.5)
    return primitive


def _within(primitive: Primitive, box: Sequence[float] | None) -> Primitive:
    """The Gaussians whose centres lie in a box. Raises UserError if there are none."""
    if box is None or not isinstance(primitive, GaussianCloud):
        return primitive
    low, high = primitive.means.new_tensor(box).reshape(2, 3)
    inside = ((primitive.means >= low) & (primitive.means <= high)).all(1)
    if not bool(inside.any()):
        raise UserError("no Gaussian lies in export.box: make it larger")
    return GaussianCloud(*(getattr(primitive, item.name)[inside] for item in dataclasses.fields(primitive)))


def settling_steps(recipe: Recipe, scene: Any) -> int:
    """How long Gaussians are fitted to the asset's mesh before they are written; 0 for a scene that moves, whose
    film shows them as they were optimised."""
    moves = declared(type(scene), RepresentationRoles).moves
    return 0 if moves else recipe.fixed["export"].config.settle


def given_views(recipe: Recipe) -> list[View]:
    """The pictures that an asset was made from, with their cameras; [] for one that was not, or that moves.

    Raises UserError if a picture cannot be read.
    """
    stage = recipe.all_stages[-1]
    sampler = stage.cameras.make()
    guides = [choice for choice in stage.guidance if choice.is_a(ReferencePicture)]
    if not isinstance(sampler, ReferenceOrbit) or not guides:
        return []
    views = []
    for number, path in enumerate((guides[0].config.image, *guides[0].config.views)):
        image, alpha = read_cut_out(path)
        camera = sampler.reference(len(image))[number : number + 1]
        views.append(View(camera, image - (1.0 - alpha), alpha, _TRUST))
    return views


def moving_asset(recipe: Recipe, scene: Any) -> MovingAsset:
    """A scene that moves, with the settings of the recipe's `export` section. The scene is moved to the CPU."""
    config = recipe.fixed["export"].config
    return MovingAsset(
        scene.to("cpu"),
        config.animation,
        dataclasses.replace(config.mesh, faces=config.moving_faces),
        renderer_here(recipe, "auto"),
        config.turntable.size,
        note_of(recipe),
        config.splats,
        look_of(recipe),
    )


def renderer_here(recipe: Recipe, backend: str) -> Any:
    """The recipe's renderer for an asset on the CPU, whatever backend the run itself used."""
    config = recipe.renderer.config
    if any(item.name == "backend" for item in dataclasses.fields(config)):
        config = dataclasses.replace(config, backend=backend)
    return recipe.renderer.cls(config)


def viewer_of(renderer: Any, primitive: Any) -> video.Render:
    """A function from cameras to pictures [B, H, W, 3] of the primitive on white."""

    def view(cameras: Any) -> torch.Tensor:
        device = _device(primitive)
        return renderer(primitive, cameras.to(device), torch.ones(3, device=device)).rgb

    return view


def _device(primitive: Primitive) -> torch.device:
    if isinstance(primitive, GaussianCloud):
        return primitive.means.device
    return primitive.vertices.device if isinstance(primitive, TriMesh) else primitive.bounds.device


def note_of(recipe: Recipe) -> dict[str, Any]:
    """What the files of an asset state about its origin."""
    return {"prompt": recipe.prompt, "seed": recipe.seed, "steps": recipe.steps}
