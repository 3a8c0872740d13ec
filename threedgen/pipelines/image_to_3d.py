"""`threedgen image-to-3d`: one picture becomes an asset, by the picture itself from where it was taken and by a
view-conditioned prior from everywhere else. Further pictures hold it from where they were taken.

The cut-outs are written into the run (RUN/reference/picture.png, view-1.png, ...), so a run needs nothing but its
folder, and its user sees what was taken for the object.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threedgen.cameras.reference import ReferenceOrbit, ReferencePose
from threedgen.core.errors import UserError
from threedgen.datasets.cut_outs import CutOut, cut_out_of, write_cut_out, write_nearness
from threedgen.guidance.prompting.image_conditions import ReferenceConfig
from threedgen.jobs.run_directory import RunDirectory, check_free, choose_path
from threedgen.loop.events import Listener
from threedgen.recipes.layers import RUN
from threedgen.recipes.recipe import Choice, Recipe, load_recipe

FOLDER = "reference"  # in the run
PICTURE = f"{FOLDER}/picture.png"
DEPTH = f"{FOLDER}/depth.png"
VIEW = f"{FOLDER}/view-{{}}.png"
_POSE = re.compile(r"@[-+.\d]+(,[-+.\d]+)?$")


@dataclass(frozen=True)
class View:
    """A further picture of the object: its cut-out, and where it was seen from, in degrees as cameras.views."""

    cut_out: CutOut
    azimuth: float
    elevation: float


def views_of(texts: Sequence[str], words: Sequence[str]) -> tuple[list[View], list[str]]:
    """The views that the values of --views name, and the settings among `words`, what else stands on the command
    line: of `--views A@90 B@180 key=value` argparse takes the first alone. Raises UserError like `view_of`."""
    if not texts:
        return [], list(words)
    # Paths may have a = in them.
    settings = [word for word in words if "=" in word and not _POSE.search(word)]
    return [view_of(text) for text in (*texts, *(word for word in words if word not in settings))], settings


def view_of(text: str) -> View:
    """The view that FILE@AZIMUTH or FILE@AZIMUTH,ELEVATION names; elevation is 0 where it is not said.

    Raises UserError for another form, for angles that are none, and like `cut_out_of`.
    """
    path, _, angles = text.rpartition("@")
    try:
        azimuth, elevation = map(float, angles.split(",") if "," in angles else (angles, "0"))
    except ValueError:
        path = ""
    if not path:
        raise UserError(
            f"--views '{text}' does not say FILE@AZIMUTH or FILE@AZIMUTH,ELEVATION, angles in degrees: write, for "
            "example, left.png@-90"
        )
    ReferencePose(azimuth, elevation)  # said before the picture is read
    return View(cut_out_of(path), azimuth, elevation)


def start_image_to_3d(
    cut_out: CutOut,
    name: str,
    out: str | None,
    listeners: Sequence[Listener] = (),
    views: Sequence[View] = (),
    **settings: Any,
) -> RunDirectory:
    """Makes an asset of `cut_out` in a new run. name: of the run and in its report.

    out: the folder, default runs/<name>. settings: as of `image_recipe`. Raises UserError like `job.start`.
    """
    from threedgen.jobs.run import start

    name = name.encode(errors="replace").decode()  # of a file whose name is not UTF-8
    if out is not None:
        check_free(Path(out))
    path = choose_path(out, name)
    poses = [(view.azimuth, view.elevation) for view in views]
    recipe = image_recipe(path, name, poses=poses, depth=cut_out.nearness is not None, **settings)
    with tempfile.TemporaryDirectory(prefix="threedgen-image-") as folder:
        write_cut_out(Path(folder) / PICTURE, cut_out)
        if cut_out.nearness is not None:
            write_nearness(Path(folder) / DEPTH, cut_out.nearness)
        for number, view in enumerate(views, 1):
            write_cut_out(Path(folder) / VIEW.format(number), view.cut_out)
        return start(recipe, path, listeners, {FOLDER: Path(folder) / FOLDER})


def image_recipe(
    base: Path,
    name: str,
    recipe: str = "zero123",
    overrides: Sequence[str] = (),
    prior: str | None = None,
    poses: Sequence[tuple[float, float]] = (),
    depth: bool = False,
    prompt: str | None = None,
    **settings: Any,
) -> Recipe:
    """The recipe under its overrides. base: the run's folder, where the cut-outs will be. poses: azimuth and
    elevation of further pictures, in degrees. depth: whether there is a depth picture. prompt: what a text prior is
    told, None: the name. settings: as of `load_recipe`.

    Priors are told the pose of the picture that cameras.reference has. Raises UserError for a recipe that looks at
    no picture, for one that lacks its prior, and like `load_recipe`.
    """
    settings |= {"prior": prior, "prompt": prompt or name, "base": base}
    plain = load_recipe(recipe, overrides, **settings)
    given = []
    for part in plain.parts:
        looks = isinstance(part.cameras.cls, type) and issubclass(part.cameras.cls, ReferenceOrbit)
        if not looks or all(guide.name != "reference" for guide in part.guidance):
            raise UserError(
                f"recipe '{recipe}' looks at no picture, which image-to-3d needs: cameras.name must be reference, "
                "and one guidance reference"
            )
        for guide in filter(_turns_the_picture, part.guidance):
            asked = guide.config.prior
            if asked.name in ("required", "embedded") and not asked.path:
                raise UserError(
                    "image-to-3d needs a view-conditioned model: the prior embedded-view, or --prior FOLDER of a "
                    "Zero-1-to-3 or Stable-Zero123 (or its hub id OWNER/NAME)"
                )
        given += [*_told_poses(part), *_given_pictures(part, poses, depth)]
    return load_recipe(recipe, [*given, *overrides], **settings)


def _given_pictures(part: Recipe, poses: Sequence[tuple[float, float]], depth: bool) -> Iterator[str]:
    """Settings that name the further pictures in the run, and say where they were seen from."""
    if poses:
        yield f"{part.cameras.path}.views={[list(pose) for pose in poses]}"
    paths = [RUN + VIEW.format(number) for number in range(1, len(poses) + 1)]
    for guide in part.guidance:
        if guide.name == "reference":
            if paths:
                yield f"{guide.path}.views={paths}"
            if depth:
                yield f"{guide.path}.depth.image={RUN}{DEPTH}"


def _told_poses(part: Recipe) -> Iterator[str]:
    """Settings that tell the priors and the scene of a part where the picture was seen from."""
    pose = part.cameras.config.reference
    for chosen in (part.representation, *part.guidance):
        if isinstance(getattr(chosen.config, "reference", None), ReferencePose):
            keys: tuple[str, ...] = ("azimuth", "elevation", "distance", "fov")
        elif _turns_the_picture(chosen):
            keys = ("azimuth", "elevation", "distance")
        else:
            continue
        for key in keys:
            yield f"{chosen.path}.reference.{key}={getattr(pose, key)}"


def _turns_the_picture(guide: Choice) -> bool:
    told = getattr(guide.config, "reference", None)
    return isinstance(told, ReferenceConfig) and bool(told.image)
