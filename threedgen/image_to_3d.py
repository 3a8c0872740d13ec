"""`threedgen image-to-3d`: one picture becomes an asset, by the picture itself from where it was taken and by a
view-conditioned prior from everywhere else.

The cut-out is written into the run (RUN/reference/picture.png), so a run needs nothing but its folder, and its user
sees what was taken for the object.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from threedgen import config
from threedgen.config import Choice, Recipe
from threedgen.datasets.cut_outs import CutOut, write_cut_out
from threedgen.errors import UserError
from threedgen.events import Listener
from threedgen.run import RunDirectory, check_free, choose_path

FOLDER = "reference"  # in the run
PICTURE = f"{FOLDER}/picture.png"


def start_image_to_3d(
    cut_out: CutOut,
    name: str,
    out: str | None,
    listeners: Sequence[Listener] = (),
    **settings: Any,
) -> RunDirectory:
    """Makes an asset of `cut_out` in a new run. name: of the run and in its report.

    out: the folder, default runs/<name>. settings: as of `image_recipe`. Raises UserError like `job.start`.
    """
    from threedgen.job import start

    name = name.encode(errors="replace").decode()  # of a file whose name is not UTF-8
    if out is not None:
        check_free(Path(out))
    path = choose_path(out, name)
    recipe = image_recipe(path, name, **settings)
    with tempfile.TemporaryDirectory(prefix="threedgen-image-") as folder:
        write_cut_out(Path(folder) / PICTURE, cut_out)
        return start(recipe, path, listeners, {FOLDER: Path(folder) / FOLDER})


def image_recipe(
    base: Path,
    name: str,
    recipe: str = "zero123",
    overrides: Sequence[str] = (),
    prior: str | None = None,
    **settings: Any,
) -> Recipe:
    """The recipe under its overrides. base: the run's folder, where the cut-out will be. settings: as of
    `load_recipe`.

    Priors are told the pose of the picture that cameras.reference has. Raises UserError for a recipe that looks at
    no picture, for one that lacks its prior, and like `load_recipe`.
    """
    plain = config.load_recipe(recipe, overrides, prior=prior, prompt=name, base=base, **settings)
    for part in plain.parts:
        if part.cameras.name != "reference" or all(guide.name != "reference" for guide in part.guidance):
            raise UserError(
                f"recipe '{recipe}' looks at no picture, which image-to-3d needs: cameras.name must be reference, "
                "and one guidance reference"
            )
        for guide in filter(_turns_the_picture, part.guidance):
            asked = guide.config.prior
            if asked.name in ("required", "embedded") and not asked.path:
                raise UserError(
                    "image-to-3d needs a view-conditioned model: --prior FOLDER of a Zero-1-to-3 or Stable-Zero123 "
                    "(or its hub id OWNER/NAME); threedgen has none of its own yet"
                )
    own = [setting for part in plain.parts for setting in _told_poses(part)]
    return config.load_recipe(recipe, [*own, *overrides], prior=prior, prompt=name, base=base, **settings)


def _told_poses(part: Recipe) -> Iterator[str]:
    """Settings that tell the priors of a part where the picture was seen from."""
    pose = part.cameras.config.reference
    for guide in part.guidance:
        if _turns_the_picture(guide):
            for key in ("azimuth", "elevation", "distance"):
                yield f"{guide.path}.reference.{key}={getattr(pose, key)}"


def _turns_the_picture(guide: Choice) -> bool:
    told = getattr(guide.config, "reference", None)
    return told is not None and bool(told.image)
