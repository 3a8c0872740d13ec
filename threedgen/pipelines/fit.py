"""Posed pictures, or a mesh or Gaussians rendered from all around, become an asset by the same loop as a prompt.

The pictures are written into the run as a transforms.json data set (RUN/pictures), so a run needs nothing but its
folder. Held-out views score the asset: PSNR, SSIM and the overlap of the silhouettes go to report.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch

from threedgen.core.errors import UserError
from threedgen.core.paths import existing
from threedgen.core.types import TriMesh
from threedgen.datasets import mesh_files, splat_files
from threedgen.datasets.multiview import PosedPictures, write_transforms
from threedgen.datasets.point_files import write_points
from threedgen.jobs.run_directory import PICTURES, check_free, choose_path
from threedgen.loop.events import Listener
from threedgen.pipelines.capture import BACKGROUNDS, HELD_OUT, Points, Target, of_folder, starting_points
from threedgen.pipelines.common import Common, overrides, top_level
from threedgen.pipelines.prepared import Prepared
from threedgen.pipelines.result import Run
from threedgen.recipes.load import load_recipe
from threedgen.recipes.recipe import Recipe
from threedgen.renderers.splatting import SplattingRenderer

SHAPE = f"{PICTURES}/shape.ply"  # the mesh that the pictures show, without colours
POINTS = f"{PICTURES}/points.ply"  # the point cloud of a capture, where the Gaussians start
VIEWS, RESOLUTION = 24, 128
_LARGEST = 5.0  # world units, of a Gaussian in the background of a capture
_LIGHT_OF_PLAIN = 0.6  # a mesh of one colour is lit, or nothing but its outline would show
_KNOWN_SHAPE = [
    f"representation.source=run:{SHAPE}",
    "representation.vertices=fixed",
    "representation.color=texture",
]

# A ray marcher costs several times what splatting does and needs fewer steps: (steps, other settings).
_FEED_FORWARD = "reconstructed"
_SIZES = {"triplane": (240, ["cameras.batch=2"]), _FEED_FORWARD: (120, [])}


def target_of(
    source: str | Path,
    *,
    views: int | None = None,
    resolution: int | None = None,
    light: float | None = None,
    texture: str | Path | None = None,
    up: str | None = None,
    background: str | None = None,
    box: Sequence[float] | None = None,
    holdout: int | None = None,
) -> Target:
    """The pictures of a data set's folder (or transforms file), or of a file of a mesh or of Gaussians rendered
    from all around.

    resolution: height of the pictures in pixels, default RESOLUTION; larger pictures of a data set are scaled down,
    smaller ones stay. Only for what is rendered: views to train on (8 more are held out). Only for a mesh: light in
    [0, 1] (default: only on a mesh of one colour), texture: a picture file for a mesh that names none. Only for a
    data set: up, background, box and holdout, see `of_folder`. Raises UserError.
    """
    path = existing(source, "there is no file or folder '{path}'")
    size = RESOLUTION if resolution is None else resolution
    if size < 8:
        raise UserError(f"--resolution must be at least 8 pixels, got {size}")
    if views is not None and views < 2:
        raise UserError(f"--views must be at least 2, got {views}")
    if light is not None and not 0.0 <= light <= 1.0:
        raise UserError(f"--light must lie between 0 and 1, got {light:g}")
    if background not in (*BACKGROUNDS, None):
        raise UserError(f"--background must be {' or '.join(BACKGROUNDS)}, got '{background}'")
    if up not in ("y", "z", None):
        raise UserError(f"--up must be y or z, got '{up}'")
    if splat_files.holds_splats(path):
        for option, value in (
            ("--light", light),
            ("--texture", texture),
            ("--up", up),
            ("--background", background),
            ("--box", box),
        ):
            if value is not None:
                raise UserError(f"{option} is not for Gaussians, which '{path}' holds: leave it out")
        return _of_splats(path, VIEWS if views is None else views, size)
    if mesh_files.may_be_mesh(path):
        for option, value in (("--up", up), ("--background", background), ("--box", box)):
            if value is not None:
                raise UserError(f"{option} is for a data set: '{path}' is not one, meshes have +Y up")
        return _of_mesh(path, VIEWS if views is None else views, size, light, texture)
    for option, value in (("--views", views), ("--light", light), ("--texture", texture)):
        if value is not None:
            raise UserError(
                f"{option} is for a mesh file: '{path}' is a data set, its pictures are as they are"
            )
    return of_folder(path, size, up, background, box, holdout)


def fit(
    source: str | Path,
    *,
    representation: str | None = None,
    views: int | None = None,
    resolution: int | None = None,
    light: float | None = None,
    texture: str | Path | None = None,
    up: str | None = None,
    background: str | None = None,
    box: Sequence[float] | None = None,
    feed_forward: bool = False,
    out: str | Path | None = None,
    recipe: str | Path = "fit",
    progress: bool = True,
    listeners: Sequence[Listener] = (),
    **common: Unpack[Common],
) -> Run:
    """Fits an asset to posed pictures, a mesh file or a file of Gaussians, as `threedgen fit` does; it is scored on
    held-out views.

    source: a folder of posed pictures, a transforms .json, a mesh file or a file of Gaussians. representation:
    instead of the recipe's. A "mesh" of a mesh file keeps its shape and learns its texture. views: of what is
    rendered; light, texture: of a mesh; up, background, box: of a data set; resolution: of all; see `target_of`.
    feed_forward: the Gaussians begin as the reconstructor makes them of a few pictures, and need few steps.
    The rest is as of `text_to_3d`, and so are the errors.
    """
    prepared = prepare(
        source,
        representation=representation,
        views=views,
        resolution=resolution,
        light=light,
        texture=texture,
        up=up,
        background=background,
        box=box,
        feed_forward=feed_forward,
        out=out,
        recipe=recipe,
        **common,
    )
    return prepared.run(progress, listeners)


def prepare(
    source: str | Path,
    *,
    representation: str | None = None,
    views: int | None = None,
    resolution: int | None = None,
    light: float | None = None,
    texture: str | Path | None = None,
    up: str | None = None,
    background: str | None = None,
    box: Sequence[float] | None = None,
    feed_forward: bool = False,
    out: str | Path | None = None,
    recipe: str | Path = "fit",
    **common: Unpack[Common],
) -> Prepared:
    """The recipe of `fit`, ready to run. Raises UserError."""
    if out is not None:
        check_free(Path(out))
    given = overrides(common)
    chosen = last_value(given, "cameras.holdout")
    target = target_of(
        source,
        views=views,
        resolution=resolution,
        light=light,
        texture=texture,
        up=up,
        background=background,
        box=box,
        holdout=int(chosen) if chosen is not None and chosen.isdecimal() else None,
    )
    name = Path(source).absolute().stem.encode(errors="replace").decode()  # its name may be no UTF-8
    path = choose_path(out, name)
    representation = last_value(given, "representation", "representation.name") or representation
    if feed_forward:
        if representation not in (None, _FEED_FORWARD):
            raise UserError(
                f"--feed-forward makes 3D Gaussians, not a {representation}: leave one of them out"
            )
        representation = _FEED_FORWARD
        given = [
            f"representation.pictures=run:{PICTURES}",
            f"representation.holdout={target.holdout}",
            *given,
        ]
    steps, own = _SIZES.get(representation or "", (None, []))
    own = [*_named(representation), *own]
    if representation == "mesh" and target.shape is not None:
        own = [*own, *_KNOWN_SHAPE]
    start = _start(target, representation, str(recipe), given)
    own = [*own, *start.settings]
    top = top_level(common)
    top["steps"] = steps if top["steps"] is None else top["steps"]
    loaded = fit_recipe(path, target.holdout, name, str(recipe), [*own, *given], **top)
    return Prepared(loaded, path, (target.about,), partial(_write, target, start.points))


def _write(target: Target, points: Points, folder: Path) -> Mapping[str, Path]:
    write_transforms(folder / PICTURES, target.pictures)
    if target.shape is not None:
        _write_shape(folder / SHAPE, target.shape)
    if len(points[0]):
        write_points(folder / POINTS, *points)
    return {PICTURES: folder / PICTURES}


@dataclass(frozen=True)
class _Start:
    """settings: of the recipe. points: where Gaussians start, and their colours."""

    settings: list[str]
    points: Points


def _start(target: Target, representation: str | None, recipe: str, given: Sequence[str]) -> _Start:
    """Settings of Gaussians that suit a capture: they start at its points, and reach as far as its background.

    Raises UserError for a box around something else than Gaussians.
    """
    plain = fit_recipe(Path(), 0, "-", recipe, [*_named(representation), *given])
    gaussians = plain.representation.name == "gaussians"
    if target.box is not None and not gaussians:
        raise UserError("--box cuts 3D Gaussians: leave it out, or fit --representation gaussians")
    config = plain.representation.config
    points = starting_points(target, config.count if gaussians else 0)
    if not gaussians:
        return _Start([], points)
    own = []
    if len(points[0]):
        own += ["representation.init=points", f"representation.points=run:{POINTS}"]
    if len(target.scenery[0]):
        own += [f"representation.scales=[{config.scales[0]},{_LARGEST}]"]
    if target.box is not None:
        own += [f"export.box=[{','.join(f'{value:.6g}' for value in target.box.flatten().tolist())}]"]
    return _Start(own, points)


def _named(representation: str | None) -> list[str]:
    return [] if representation is None else [f"representation={representation}"]


def last_value(overrides: Sequence[str], *keys: str) -> str | None:
    """The last value that `key=value` overrides give to one of the keys; None if there is none."""
    pairs = [override.partition("=") for override in overrides]
    values = [value for key, _, value in pairs if key.strip() in keys]
    return values[-1].strip() if values else None


def fit_recipe(
    base: Path, holdout: int, name: str, recipe: str = "fit", settings: Sequence[str] = (), **top: Any
) -> Recipe:
    """The recipe under its `key=value` settings. base: the run's folder, where the pictures will be.

    Raises UserError for a recipe without given pictures, and like `load_recipe`.
    """

    def derive(loaded: Recipe) -> list[str]:
        if any(stage.cameras.name != "given" for stage in loaded.all_stages):
            raise UserError(
                f"recipe '{recipe}' has no given pictures, which fit needs: cameras.name must be given"
            )
        return [f"cameras.holdout={holdout}"]

    return load_recipe(recipe, settings, prompt=name, base=base, derive=derive, **top)


def _write_shape(path: Path, mesh: TriMesh) -> None:
    import trimesh

    trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False).export(path)


def _of_mesh(path: Path, views: int, size: int, light: float | None, texture: str | Path | None) -> Target:
    painted = mesh_files.read_painted(path, texture)
    if light is None:
        light = _LIGHT_OF_PLAIN if painted.plain else 0.0
    pictures = mesh_files.render(painted, mesh_files.fibonacci_views(views + HELD_OUT, size), light)
    if not bool((pictures.alpha > 0.0).any()):
        raise UserError(f"{path} cannot be seen in pictures of {size} x {size} pixels: raise --resolution")
    lit = f", lit ({light:g})" if light else ""
    about = (
        f"{path.name}: {len(painted.mesh.faces)} triangles, centred and scaled into a ball of radius "
        f"{mesh_files.RADIUS:g}{lit}; {views} views to train on and {HELD_OUT} held out, {size} x {size} pixels"
    )
    return Target(pictures, HELD_OUT, about, painted.mesh)


def _of_splats(path: Path, views: int, size: int) -> Target:
    splats, about = splat_files.read_asset_splats(path, mesh_files.RADIUS)
    cloud = splats.cloud()
    cameras = mesh_files.fibonacci_views(views + HELD_OUT, size)
    with torch.no_grad():
        seen = [SplattingRenderer()(cloud, cameras[i : i + 1], torch.ones(3)) for i in range(len(cameras))]
    images, alphas = (torch.cat([getattr(one, name) for one in seen]) for name in ("rgb", "alpha"))
    about = f"{about}; {views} views to train on and {HELD_OUT} held out, {size} x {size} pixels"
    return Target(PosedPictures(images.clamp(0.0, 1.0), alphas, cameras), HELD_OUT, about)
