"""Posed pictures, or a mesh or Gaussians rendered from all around, become an asset by the same loop as a prompt.

The pictures are written into the run as a transforms.json data set (RUN/pictures), so a run needs nothing but its
folder. Held-out views score the asset: PSNR, SSIM and the overlap of the silhouettes go to report.json.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch

from threedgen.core.errors import UserError
from threedgen.core.paths import existing
from threedgen.core.pictures import resize
from threedgen.core.types import Cameras, TriMesh
from threedgen.datasets import mesh_files, splat_files
from threedgen.datasets.given import SMALLEST, read_pictures
from threedgen.datasets.multiview import PosedPictures, object_reach, write_transforms
from threedgen.jobs.run_directory import PICTURES, check_free, choose_path
from threedgen.loop.events import Listener
from threedgen.pipelines.common import Common, overrides, top_level
from threedgen.pipelines.prepared import Prepared
from threedgen.pipelines.result import Run
from threedgen.recipes.load import load_recipe
from threedgen.recipes.recipe import Recipe
from threedgen.renderers.splatting import SplattingRenderer

SHAPE = f"{PICTURES}/shape.ply"  # the mesh that the pictures show, without colours
VIEWS, HELD_OUT, RESOLUTION = 24, 8, 128
_LIGHT_OF_PLAIN = 0.6  # a mesh of one colour is lit, or nothing but its outline would show
_KNOWN_SHAPE = [
    f"representation.source=run:{SHAPE}",
    "representation.vertices=fixed",
    "representation.color=texture",
]

# A ray marcher costs several times what splatting does and needs fewer steps: (steps, other settings).
_SIZES = {"triplane": (240, ["cameras.batch=2"])}


@dataclass(frozen=True)
class Target:
    """What an asset is fitted to.

    holdout: number of the views that score instead of train. about: one line for the user. shape: the mesh, if the
    pictures are renders of one.
    """

    pictures: PosedPictures
    holdout: int
    about: str
    shape: TriMesh | None = None


def target_of(
    source: str | Path,
    *,
    views: int | None = None,
    resolution: int | None = None,
    light: float | None = None,
    texture: str | Path | None = None,
    up: str | None = None,
) -> Target:
    """The pictures of a data set's folder (or transforms file), or of a file of a mesh or of Gaussians rendered
    from all around.

    resolution: height of the pictures in pixels, default RESOLUTION; larger pictures of a data set are scaled down,
    smaller ones stay. Only for what is rendered: views to train on (8 more are held out). Only for a mesh: light in
    [0, 1] (default: only on a mesh of one colour), texture: a picture file for a mesh that names none. Only for a
    data set: up, the axis ("y", "z") of its world that points up; None: detected by `read_pictures`. Raises
    UserError.
    """
    path = existing(source, "there is no file or folder '{path}'")
    size = RESOLUTION if resolution is None else resolution
    if size < 8:
        raise UserError(f"--resolution must be at least 8 pixels, got {size}")
    if views is not None and views < 2:
        raise UserError(f"--views must be at least 2, got {views}")
    if light is not None and not 0.0 <= light <= 1.0:
        raise UserError(f"--light must lie between 0 and 1, got {light:g}")
    if up not in ("y", "z", None):
        raise UserError(f"--up must be y or z, got '{up}'")
    if splat_files.holds_splats(path):
        for option, value in (("--light", light), ("--texture", texture), ("--up", up)):
            if value is not None:
                raise UserError(f"{option} is not for Gaussians, which '{path}' holds: leave it out")
        return _of_splats(path, VIEWS if views is None else views, size)
    if mesh_files.may_be_mesh(path):
        if up is not None:
            raise UserError(f"--up is for a data set: '{path}' is not one, meshes have +Y up")
        return _of_mesh(path, VIEWS if views is None else views, size, light, texture)
    for option, value in (("--views", views), ("--light", light), ("--texture", texture)):
        if value is not None:
            raise UserError(
                f"{option} is for a mesh file: '{path}' is a data set, its pictures are as they are"
            )
    return _of_folder(path, size, up)


def fit(
    source: str | Path,
    *,
    representation: str | None = None,
    views: int | None = None,
    resolution: int | None = None,
    light: float | None = None,
    texture: str | Path | None = None,
    up: str | None = None,
    out: str | Path | None = None,
    recipe: str | Path = "fit",
    progress: bool = True,
    listeners: Sequence[Listener] = (),
    **common: Unpack[Common],
) -> Run:
    """Fits an asset to posed pictures, a mesh file or a file of Gaussians, as `threedgen fit` does; it is scored on
    held-out views.

    source: a folder of posed pictures, a transforms .json, a mesh file or a file of Gaussians. representation:
    instead of the recipe's. A "mesh" of a mesh file keeps its shape and learns its texture. views, light, texture,
    resolution, up: see `target_of`. The rest is as of `text_to_3d`, and so are the errors.
    """
    prepared = prepare(
        source,
        representation=representation,
        views=views,
        resolution=resolution,
        light=light,
        texture=texture,
        up=up,
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
    out: str | Path | None = None,
    recipe: str | Path = "fit",
    **common: Unpack[Common],
) -> Prepared:
    """The recipe of `fit`, ready to run. Raises UserError."""
    if out is not None:
        check_free(Path(out))
    target = target_of(source, views=views, resolution=resolution, light=light, texture=texture, up=up)
    name = Path(source).absolute().stem.encode(errors="replace").decode()  # its name may be no UTF-8
    path, given = choose_path(out, name), overrides(common)
    representation = _chosen(given) or representation
    steps, own = _SIZES.get(representation or "", (None, []))
    if representation is not None:
        own = [f"representation={representation}", *own]
    if representation == "mesh" and target.shape is not None:
        own = [*own, *_KNOWN_SHAPE]
    top = top_level(common)
    top["steps"] = steps if top["steps"] is None else top["steps"]
    loaded = fit_recipe(path, target.holdout, name, str(recipe), [*own, *given], **top)
    return Prepared(loaded, path, (target.about,), partial(_write, target))


def _write(target: Target, folder: Path) -> Mapping[str, Path]:
    write_transforms(folder / PICTURES, target.pictures)
    if target.shape is not None:
        _write_shape(folder / SHAPE, target.shape)
    return {PICTURES: folder / PICTURES}


def _chosen(overrides: Sequence[str]) -> str | None:
    """The last representation that `key=value` overrides name."""
    pairs = [override.partition("=") for override in overrides]
    names = [value for key, _, value in pairs if key.strip() in ("representation", "representation.name")]
    return names[-1].strip() if names else None


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


def _of_folder(path: Path, size: int, up: str | None) -> Target:
    pictures = read_pictures(path, up)
    cameras, count = pictures.cameras, len(pictures.images)
    scaled = ""
    reach = object_reach(pictures)
    if reach > 1.0:
        cameras = _nearer(cameras, mesh_files.RADIUS / reach)
        pictures = replace(pictures, cameras=cameras)
        scaled = (
            f"; the object reached {reach:.2f} from the origin and was scaled into a ball of radius "
            f"{mesh_files.RADIUS:g}"
        )
    axes = cameras.world_from_camera[:, :3, 2]
    past = cameras.centers - (cameras.centers * axes).sum(1, keepdim=True) * axes
    if past.norm(dim=1).median() > 1.0:
        warnings.warn(
            f"most cameras of {path} do not look at the unit sphere around the origin, where the object must be: "
            "move or scale the poses",
            stacklevel=1,
        )
    if cameras.height > size:
        width = round(cameras.width * size / cameras.height)
        if width < SMALLEST:
            raise UserError(
                f"'{path}': pictures of {cameras.width} x {cameras.height} pixels would be {width} pixels wide "
                f"at --resolution {size}, but {SMALLEST} are needed: raise --resolution"
            )
        pictures = PosedPictures(
            resize(pictures.images, size, width),
            resize(pictures.alpha, size, width),
            cameras.resized(size, width),
        )
    holdout = min(count // HELD_OUT, HELD_OUT) if count >= HELD_OUT else 0
    height, width = pictures.images.shape[1:3]
    about = f"{path}: {count - holdout} views to train on and {holdout} held out, {width} x {height} pixels{scaled}"
    return Target(pictures, holdout, about)


def _nearer(cameras: Cameras, scale: float) -> Cameras:
    poses = cameras.world_from_camera.clone()
    poses[:, :3, 3] *= scale
    return replace(cameras, world_from_camera=poses)
