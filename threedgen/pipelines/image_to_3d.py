"""One picture becomes an asset, by the picture itself from where it was taken and by a view-conditioned prior from
everywhere else. Further pictures hold it from where they were taken.

The cut-outs are written into the run (RUN/reference/picture.png, view-1.png, ...), so a run needs nothing but its
folder, and its user sees what was taken for the object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from threedgen.cameras.reference import ReferenceOrbit, ReferencePose
from threedgen.core.errors import UserError
from threedgen.core.roles import GuidanceRoles, RepresentationRoles, declared
from threedgen.core.settings import SettingError
from threedgen.datasets.cut_outs import CutOut, cut_out_of, write_cut_out, write_nearness
from threedgen.guidance.reference_picture import ReferencePicture
from threedgen.jobs.run_directory import PICTURE, REFERENCE, check_free, choose_path
from threedgen.loop.events import Listener
from threedgen.pipelines.common import Common, overrides, top_level
from threedgen.pipelines.prepared import Prepared
from threedgen.pipelines.result import Run
from threedgen.recipes.layers import RUN
from threedgen.recipes.load import load_recipe
from threedgen.recipes.recipe import Choice, Recipe

DEPTH = f"{REFERENCE}/depth.png"
VIEW = f"{REFERENCE}/view-{{}}.png"
_POSE = re.compile(r"@[-+.\d]+(,[-+.\d]+)?$")


@dataclass(frozen=True)
class View:
    """A further picture of the object: its cut-out, and where it was seen from, in degrees as cameras.views."""

    cut_out: CutOut
    azimuth: float
    elevation: float


def split_views(texts: Sequence[str], words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The values of --views, and the settings among `words`, which is what else stands on the command line: of
    `--views A@90 B@180 key=value` argparse takes the first alone."""
    if not texts:
        return [], list(words)
    # Paths may have a = in them.
    settings = [word for word in words if "=" in word and not _POSE.search(word)]
    return [*texts, *(word for word in words if word not in settings)], settings


def view_of(text: str) -> View:
    """The view that FILE@AZIMUTH or FILE@AZIMUTH,ELEVATION names; elevation is 0 by default.

    Raises UserError for another form, for impossible angles, and like `cut_out_of`.
    """
    path, _, angles = text.rpartition("@")
    try:
        azimuth, elevation = map(float, angles.split(",") if "," in angles else (angles, "0"))
    except ValueError:
        path = ""
    if not path:
        raise UserError(
            f"--views '{text}' is not FILE@AZIMUTH or FILE@AZIMUTH,ELEVATION with angles in degrees: write, for "
            "example, left.png@-90"
        )
    try:
        ReferencePose(azimuth, elevation)  # checked before the picture is read
    except SettingError as error:
        raise UserError(f"--views '{text}': {error}") from error
    return View(cut_out_of(path), azimuth, elevation)


def image_to_3d(
    picture: str | Path,
    *,
    mask: str | Path | None = None,
    depth: str | Path | None = None,
    elevation: float | None = None,
    views: Sequence[str] = (),
    prompt: str | None = None,
    out: str | Path | None = None,
    recipe: str | Path = "image-to-3d",
    prior: str | Path | None = None,
    text_prior: str | Path | None = None,
    tokenizer: str | Path | None = None,
    vae: str | Path | None = None,
    refine: int | None = None,
    progress: bool = True,
    listeners: Sequence[Listener] = (),
    **common: Unpack[Common],
) -> Run:
    """Makes a 3D asset from a picture of an object, as `threedgen image-to-3d` does.

    picture: PNG, JPEG or WebP, transparent or opaque. mask: a grey picture, white where the object is; None:
    detected. depth: a grey picture of the picture's size, nearer is brighter. elevation: of the camera in
    degrees, positive looks down. views: further pictures, each FILE@AZIMUTH or FILE@AZIMUTH,ELEVATION in degrees.
    prompt: for text priors; None: the picture's name. prior: a Zero-1-to-3 or Stable-Zero123; None: the small one
    that ships. text_prior: of recipes that have one too (magic123). tokenizer, vae: as of `text_to_3d`, and of
    the text prior if the recipe has one. refine: steps of score distillation after a recipe that makes its asset in
    one pass. The rest is as of `text_to_3d`, and so are the errors.
    """
    prepared = prepare(
        picture,
        mask=mask,
        depth=depth,
        elevation=elevation,
        views=views,
        prompt=prompt,
        out=out,
        recipe=recipe,
        prior=prior,
        text_prior=text_prior,
        tokenizer=tokenizer,
        vae=vae,
        refine=refine,
        **common,
    )
    return prepared.run(progress, listeners)


def prepare(
    picture: str | Path,
    *,
    mask: str | Path | None = None,
    depth: str | Path | None = None,
    elevation: float | None = None,
    views: Sequence[str] = (),
    prompt: str | None = None,
    out: str | Path | None = None,
    recipe: str | Path = "image-to-3d",
    prior: str | Path | None = None,
    text_prior: str | Path | None = None,
    tokenizer: str | Path | None = None,
    vae: str | Path | None = None,
    refine: int | None = None,
    **common: Unpack[Common],
) -> Prepared:
    """The recipe of `image_to_3d`, ready to run. Raises UserError."""
    if out is not None:
        check_free(Path(out))
    cut_out, others = cut_out_of(picture, mask, depth), [view_of(text) for text in views]
    name = Path(picture).absolute().stem.encode(errors="replace").decode()  # its name may be no UTF-8
    models = {"prior": prior, "text_prior": text_prior, "tokenizer": tokenizer, "vae": vae}
    return of_cut_outs(
        cut_out,
        others,
        name,
        choose_path(out, name),
        recipe=str(recipe),
        elevation=elevation,
        prompt=prompt,
        refine=refine,
        models={key: None if value is None else str(value) for key, value in models.items()},
        common=common,
    )


def of_cut_outs(
    cut_out: CutOut,
    others: Sequence[View],
    name: str,
    path: Path,
    *,
    recipe: str,
    elevation: float | None,
    prompt: str | None,
    refine: int | None,
    models: Mapping[str, str | None],
    common: Common,
) -> Prepared:
    """The recipe of a cut-out and further pictures, ready to run into `path`. models: prior, text_prior, tokenizer
    and vae of `image_to_3d`. Raises UserError."""
    own = [] if elevation is None else [f"cameras.reference.elevation={elevation}"]
    loaded = image_recipe(
        path,
        name,
        recipe,
        [*own, *overrides(common)],
        poses=[(view.azimuth, view.elevation) for view in others],
        depth=cut_out.nearness is not None,
        **models,
        refine=refine,
        prompt=prompt,
        **top_level(common),
    )
    about = tuple(seen.about for seen in (cut_out, *(view.cut_out for view in others)))
    return Prepared(loaded, path, about, partial(_write, cut_out, others))


def _write(cut_out: CutOut, views: Sequence[View], folder: Path) -> Mapping[str, Path]:
    write_cut_out(folder / PICTURE, cut_out)
    if cut_out.nearness is not None:
        write_nearness(folder / DEPTH, cut_out.nearness)
    for number, view in enumerate(views, 1):
        write_cut_out(folder / VIEW.format(number), view.cut_out)
    return {REFERENCE: folder / REFERENCE}


def image_recipe(
    base: Path,
    name: str,
    recipe: str = "image-to-3d",
    settings: Sequence[str] = (),
    *,
    poses: Sequence[tuple[float, float]] = (),
    depth: bool = False,
    prompt: str | None = None,
    **top: Any,
) -> Recipe:
    """The recipe under its `key=value` settings. base: the run's folder, where the cut-outs will be. poses: azimuth
    and elevation of further pictures, in degrees. depth: whether there is a depth picture. prompt: of a text prior,
    None: the name. top: as of `load_recipe`.

    Priors are told the pose of the picture that cameras.reference has. Raises UserError for a recipe that has no
    picture, for one that lacks its prior, and like `load_recipe`.
    """

    def derive(loaded: Recipe) -> list[str]:
        found: list[str] = []
        for stage in loaded.all_stages:
            _check_stage(stage, recipe)
            found += [*_told_poses(stage), *_given_pictures(stage, poses, depth)]
        return found

    return load_recipe(recipe, settings, prompt=prompt or name, base=base, derive=derive, **top)


def _check_stage(stage: Recipe, recipe: str) -> None:
    """UserError for a stage that has no picture or lacks its prior."""
    if not stage.cameras.is_a(ReferenceOrbit) or not any(
        guide.is_a(ReferencePicture) for guide in stage.guidance
    ):
        raise UserError(
            f"recipe '{recipe}' has no picture, which image-to-3d needs: cameras.name must be reference, and one "
            "guidance reference"
        )
    for guide in filter(_asks_about_the_picture, stage.guidance):
        asked = getattr(guide.config, declared(guide.cls, GuidanceRoles).prior_setting)
        if asked.name in ("required", "embedded") and not asked.path:
            raise UserError(
                "image-to-3d needs a view-conditioned model: the prior embedded-picture, or --prior FOLDER of a "
                "Zero-1-to-3 or Stable-Zero123 (or its hub id OWNER/NAME)"
            )


def _given_pictures(stage: Recipe, poses: Sequence[tuple[float, float]], depth: bool) -> Iterator[str]:
    """Settings that name the further pictures in the run, and say where they were seen from."""
    if poses:
        yield f"{stage.cameras.path}.views={[list(pose) for pose in poses]}"
    paths = [RUN + VIEW.format(number) for number in range(1, len(poses) + 1)]
    for guide in stage.guidance:
        if guide.is_a(ReferencePicture):
            if paths:
                yield f"{guide.path}.views={paths}"
            if depth:
                yield f"{guide.path}.depth.image={RUN}{DEPTH}"


def _told_poses(stage: Recipe) -> Iterator[str]:
    """Settings that tell the priors and the scene of a stage where the picture was seen from."""
    pose = stage.cameras.config.reference
    scene = declared(stage.representation.cls, RepresentationRoles).pose_setting
    told: list[tuple[Choice, str, tuple[str, ...]]] = []
    if scene:
        told.append((stage.representation, scene, ("azimuth", "elevation", "distance", "fov")))
    for guide in stage.guidance:
        roles = declared(guide.cls, GuidanceRoles)
        if roles.pose_setting:
            told.append((guide, roles.pose_setting, ("azimuth", "elevation", "distance", "fov")))
        elif _asks_about_the_picture(guide):
            told.append((guide, roles.reference_setting, ("azimuth", "elevation", "distance")))
    for chosen, setting, keys in told:
        for key in keys:
            yield f"{chosen.path}.{setting}.{key}={getattr(pose, key)}"


def _asks_about_the_picture(guide: Choice) -> bool:
    setting = declared(guide.cls, GuidanceRoles).reference_setting
    return bool(setting) and bool(getattr(guide.config, setting).image)
