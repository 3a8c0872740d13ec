"""`threedgen fit`: given pictures, or a mesh seen from all around, become an asset by the same loop as a prompt.

The pictures are written into the run as a transforms.json data set (RUN/pictures), so a run needs nothing but its
folder. Views that are held out score the asset: PSNR, SSIM and the overlap of the silhouettes go to report.json.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threedgen import config
from threedgen.config import Recipe
from threedgen.datasets import mesh_files
from threedgen.datasets.given import read_pictures
from threedgen.datasets.multiview import PosedPictures, write_transforms
from threedgen.errors import UserError
from threedgen.events import Listener
from threedgen.guidance.pictures import resize
from threedgen.run import RunDirectory, check_free, choose_path
from threedgen.types import TriMesh

PICTURES = "pictures"  # the folder in the run
SHAPE = f"{PICTURES}/shape.ply"  # of a mesh, as the pictures show it, without colours
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
    """What is fitted. holdout: how many of the views score instead of train. about: one line for the user.
    shape: where the pictures are of a mesh, it."""

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
) -> Target:
    """The pictures of a data set's folder (or transforms file), or of a mesh file rendered from all around.

    resolution: pixels of the pictures' height, default RESOLUTION; larger pictures of a data set are scaled down
    to it, smaller ones stay. For a mesh alone: views to train on (8 more are held out), light in [0, 1] (default:
    only on a mesh of one colour), texture: a picture file for a mesh that names none. Raises UserError for what a
    user can put right.
    """
    path = Path(source).expanduser()
    size = RESOLUTION if resolution is None else resolution
    if size < 8:
        raise UserError(f"--resolution must be at least 8 pixels, got {size}")
    if views is not None and views < 2:
        raise UserError(f"--views must be at least 2, got {views}")
    if light is not None and not 0.0 <= light <= 1.0:
        raise UserError(f"--light must lie between 0 and 1, got {light:g}")
    if mesh_files.is_mesh_name(path):
        return _of_mesh(path, VIEWS if views is None else views, size, light, texture)
    for option, value in (("--views", views), ("--light", light), ("--texture", texture)):
        if value is not None:
            raise UserError(
                f"{option} is for a mesh file: '{path}' is a data set, its pictures are as they are"
            )
    return _of_folder(path, size)


def start_fit(
    target: Target,
    name: str,
    out: str | None,
    listeners: Sequence[Listener] = (),
    *,
    representation: str | None = None,
    overrides: Sequence[str] = (),
    **settings: Any,
) -> RunDirectory:
    """Fits `target` into a new run, which is scored at its end. name: of the run and in its report.

    out: the folder, default runs/<name>. representation: instead of the recipe's; a "mesh" of a target that is one
    keeps its shape and learns its texture. settings: recipe, seed, steps, device as `load_recipe` has them.
    Raises UserError like `job.start`.
    """
    from threedgen.job import start

    if out is not None:
        check_free(Path(out))
    path = choose_path(out, name)
    with tempfile.TemporaryDirectory(prefix="threedgen-fit-") as folder:
        own = [] if representation is None else [f"representation={representation}"]
        steps, more = _SIZES.get(representation or "", (None, []))
        own += more
        if settings.get("steps") is None:
            settings["steps"] = steps
        own += _KNOWN_SHAPE if representation == "mesh" and target.shape is not None else []
        recipe = fit_recipe(path, target.holdout, name, overrides=[*own, *overrides], **settings)
        write_transforms(Path(folder) / PICTURES, target.pictures)
        if target.shape is not None:
            _write_shape(Path(folder) / SHAPE, target.shape)
        return start(recipe, path, listeners, {PICTURES: Path(folder) / PICTURES})


def fit_recipe(
    base: Path, holdout: int, name: str, recipe: str = "fit", overrides: Sequence[str] = (), **settings: Any
) -> Recipe:
    """The recipe under its overrides. base: the run's folder, where the pictures will be."""
    own = [f"cameras.holdout={holdout}"]
    return config.load_recipe(recipe, [*own, *overrides], prompt=name, base=base, **settings)


def _write_shape(path: Path, mesh: TriMesh) -> None:
    import trimesh

    trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False).export(path)


def _of_mesh(path: Path, views: int, size: int, light: float | None, texture: str | Path | None) -> Target:
    painted = mesh_files.read_painted(path, texture)
    if light is None:
        light = _LIGHT_OF_PLAIN if painted.plain else 0.0
    pictures = mesh_files.render(painted, mesh_files.fibonacci_views(views + HELD_OUT, size), light)
    lit = f", lit ({light:g})" if light else ""
    about = (
        f"{path.name}: {len(painted.mesh.faces)} triangles, centred and scaled into a ball of radius "
        f"{mesh_files.RADIUS:g}{lit}; {views} views to train on and {HELD_OUT} held out, {size} x {size} pixels"
    )
    return Target(pictures, HELD_OUT, about, painted.mesh)


def _of_folder(path: Path, size: int) -> Target:
    pictures = read_pictures(path)
    cameras, count = pictures.cameras, len(pictures.images)
    if cameras.height > size:
        width = max(1, round(cameras.width * size / cameras.height))
        pictures = PosedPictures(
            resize(pictures.images, size, width),
            resize(pictures.alpha, size, width),
            cameras.resized(size, width),
        )
    holdout = min(count // HELD_OUT, HELD_OUT) if count >= HELD_OUT else 0
    height, width = pictures.images.shape[1:3]
    about = f"{path}: {count - holdout} views to train on and {holdout} held out, {width} x {height} pixels"
    return Target(pictures, holdout, about)
