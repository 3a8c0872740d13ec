"""From a prompt to an asset that moves: which part of the prompt says what it is, and which part what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from threedgen.core.errors import UserError
from threedgen.core.roles import CameraRoles, GuidanceRoles, RepresentationRoles, declared
from threedgen.datasets.films import Film
from threedgen.datasets.motions import MOTIONS
from threedgen.jobs.run_directory import check_free, choose_path
from threedgen.loop.events import Listener
from threedgen.pipelines import film as films
from threedgen.pipelines.common import Common, overrides, top_level
from threedgen.pipelines.prepared import Prepared
from threedgen.pipelines.result import Run
from threedgen.pipelines.video_priors import EMBEDDED, REQUIRED, clip_frames, is_small
from threedgen.recipes import stages
from threedgen.recipes.layers import WITH_VIDEO_PRIOR, merge
from threedgen.recipes.load import load_recipe
from threedgen.recipes.priors import asks_about_a_picture, guidance_roles, guides_of, require_named
from threedgen.recipes.recipe import Choice, Recipe
from threedgen.representations.dynamic_gaussians import describe_asset


def text_to_4d(
    prompt: str,
    *,
    asset: str | Path | None = None,
    seconds: float | None = None,
    fps: float | None = None,
    prior: str | Path | None = None,
    tokenizer: str | Path | None = None,
    video_prior: str | Path | None = None,
    video: str | Path | None = None,
    video_view: str | None = None,
    out: str | Path | None = None,
    recipe: str | Path = "text-to-4d",
    progress: bool = True,
    listeners: Sequence[Listener] = (),
    **common: Unpack[Common],
) -> Run:
    """Makes an asset that moves from a prompt, as `threedgen text-to-4d` does.

    prompt: what moves and how, such as "a blue cube bouncing". asset: the object that moves (a finished run, a
    file of Gaussians or a mesh file); None: it is made first. seconds: length of the motion. fps: frames per
    second of the files. prior: the model of the object, tokenizer: a folder with its tokenizer if it is a single
    file. video_prior: the model of its motion; None: the embedded one. video: a film that the motion follows,
    video_view: where it was taken from, "AZIMUTH[,ELEVATION[,DISTANCE]]" in degrees and world units. The rest is
    as of `text_to_3d`, and so are the errors.
    """
    prepared = prepare(
        prompt,
        asset=asset,
        seconds=seconds,
        fps=fps,
        prior=prior,
        tokenizer=tokenizer,
        video_prior=video_prior,
        video=video,
        video_view=video_view,
        out=out,
        recipe=recipe,
        **common,
    )
    return prepared.run(progress, listeners)


def prepare(
    prompt: str,
    *,
    asset: str | Path | None = None,
    seconds: float | None = None,
    fps: float | None = None,
    prior: str | Path | None = None,
    tokenizer: str | Path | None = None,
    video_prior: str | Path | None = None,
    video: str | Path | None = None,
    video_view: str | None = None,
    out: str | Path | None = None,
    recipe: str | Path = "text-to-4d",
    **common: Unpack[Common],
) -> Prepared:
    """The recipe of `text_to_4d`, ready to run. Raises UserError."""
    if out is not None:
        check_free(Path(out))
    followed, view = films.film_and_view(video, video_view)
    path = choose_path(out, prompt)
    wish = MotionWish(
        prompt,
        None if asset is None else asset_file(asset),
        seconds,
        fps,
        None if prior is None else str(prior),
        None if tokenizer is None else str(tokenizer),
        None if video_prior is None else str(video_prior),
        followed,
        view,
    )
    loaded = motion_recipe(str(recipe), wish, overrides(common), base=path, **top_level(common))
    about = () if wish.asset is None else (describe_asset(wish.asset)[1],)
    if followed is None:
        return Prepared(loaded, path, about)
    return Prepared(loaded, path, (*about, followed.about), partial(films.write_files, followed, loaded))


@dataclass(frozen=True)
class MotionWish:
    """What somebody wants to move, and how.

    asset: the file of the object, which may be written later; None: an earlier stage makes it. prior, video_prior:
    "embedded", a folder or None. tokenizer: of `prior`, if that is a single file. film: that the motion follows,
    seen from `view` (degrees, world units).
    """

    prompt: str
    asset: Path | None = None
    seconds: float | None = None
    fps: float | None = None
    prior: str | None = None
    tokenizer: str | None = None
    video_prior: str | None = None
    film: Film | None = None
    view: Mapping[str, float] = field(default_factory=dict)

    @property
    def still(self) -> str:
        """The prompt without the words for motions that the embedded video prior knows; "" if nothing is left."""
        return " ".join(word for word in self.prompt.split() if word.lower().strip(".,!") not in MOTIONS)

    @property
    def names_a_motion(self) -> bool:
        return self.still != " ".join(self.prompt.split())

    @property
    def picture_folder(self) -> str | None:
        """The folder or id of a real picture prior."""
        return None if self.prior in (None, "embedded") else self.prior

    @property
    def video_folder(self) -> str | None:
        """The folder of a video prior that is not the embedded one."""
        return None if self.video_prior in (None, "embedded", EMBEDDED) else self.video_prior

    def adjusted(self, values: dict[str, Any], source: str) -> dict[str, Any]:
        """A recipe's plain values for this wish. Raises UserError."""
        require_named("--prior", self.prior, self.tokenizer)
        # `load_recipe`'s own `prior` is for all guidances, and takes any folder to mean that every stage has a real
        # model: so the models are named here.
        if self.video_folder is not None and not is_small(self.video_folder):
            values = _for_large(values, keep_pictures=self.prior is not None)
        if self.film is not None:
            values = films.filmed(values, self.film, self.view)
            if self.video_folder is None and not self.names_a_motion:
                values = stages.over_all(values, _without_video_prior)
        elif films.follows_a_film(values):
            raise UserError(f"recipe '{source}' follows a film: give one by --video FILM")
        self._check_prompt(values)
        values = stages.over_all(values, self._told)
        if self.asset is None:
            return values
        return merge(stages.merged(values)[-1], {"representation": {"asset": str(self.asset)}})

    def export_settings(self) -> list[str]:
        """Settings of the files. Raises UserError if the film says something else than `seconds`."""
        seconds = self.seconds
        if self.film is not None:
            seconds = films.seconds_of(self.film, self.seconds, self.fps)
        timing = {"seconds": seconds, "fps": self.fps}
        return [f"export.animation.{name}={value}" for name, value in timing.items() if value is not None]

    def _check_prompt(self, values: Mapping[str, Any]) -> None:
        """UserError if the prompt does not tell the embedded video prior what it must be told."""
        guides = [guide for section in stages.merged(values) for guide in guides_of(section)]
        if self.video_folder is not None or not any(map(_is_video, guides)) or not self.prompt.strip():
            return
        if not self.names_a_motion:
            raise UserError(
                f"'{self.prompt}' names no motion: say one of {', '.join(MOTIONS)}, or name a real model with "
                "--video-prior"
            )
        if self.asset is None and not self.still:
            raise UserError(
                f"'{self.prompt}' does not name an object: put it before the motion, "
                f"'a blue cube {self.prompt.split()[0]}'"
            )

    def _told(self, section: Mapping[str, Any]) -> dict[str, Any]:
        """A section whose guidances have their prompts and models: those of video priors the whole prompt and the
        video folder, those of picture priors the object and the picture folder. Without an object single frames
        cannot be judged, and that guidance goes."""
        if "guidance" not in section:
            return dict(section)
        guides = []
        for guide in section["guidance"]:
            roles = guidance_roles(guide)
            if not roles.prior_setting:
                guides.append(guide)
                continue
            moving = _is_video(guide)
            path = self.video_folder if moving else self.picture_folder
            model = {} if path is None else {"path": path}
            if self.tokenizer is not None and not moving:
                model["tokenizer"] = self.tokenizer
            more: dict[str, Any] = {roles.prior_setting: model} if model else {}
            if not moving and self.still and not asks_about_a_picture(guide):
                more["prompt"] = self.still
            if self.still or not roles.single_frames:
                guides.append(merge(guide, more))
        return {**section, "guidance": guides}


def motion_recipe(source: str, wish: MotionWish, settings: Sequence[str] = (), **top: Any) -> Recipe:
    """A recipe of two stages, the object and its motion, or of the last alone if the wish has an asset.

    A film's guidance by the embedded video prior stays if the prompt names a motion that this knows. settings:
    `key=value`. top: as of `load_recipe`. Raises UserError, also for a prompt that names no motion if nothing else
    says one.
    """
    if wish.film is not None and any("cameras.film." in setting.partition("=")[0] for setting in settings):
        raise UserError("set where the film was taken from with --video-view: guidances are told it as well")
    return load_recipe(
        source,
        [*wish.export_settings(), *settings],
        adjust=lambda values: wish.adjusted(values, source),
        derive=lambda recipe: _clip_settings(recipe, wish, source, settings),
        prompt=wish.prompt,
        real_prior=wish.picture_folder is not None,
        **top,
    )


def _clip_settings(recipe: Recipe, wish: MotionWish, source: str, settings: Sequence[str]) -> list[str]:
    """Clips of as many frames as the video prior sees. Raises UserError if the last stage cannot show them, and
    if a stage lacks a model."""
    last = recipe.all_stages[-1]
    if not declared(last.representation.cls, RepresentationRoles).moves:
        raise UserError(
            f"nothing moves in the last stage of recipe '{source}': leave its representation at dynamic-gaussians, "
            "or make a still asset by text-to-3d"
        )
    _check_priors(recipe, source)
    guide = next(filter(_asks_a_video_prior, last.guidance), None)
    if guide is None:
        if wish.video_folder is not None:
            raise UserError(
                f"--video-prior: no guidance of recipe '{source}' has a video prior: leave it out"
            )
        return []
    frames = clip_frames(guide)
    setting = declared(last.cameras.cls, CameraRoles).frames_setting
    if not setting:
        raise UserError(
            "a video prior sees clips: leave the cameras of the moving stage at cameras.name=clips"
        )
    if frames == getattr(last.cameras.config, setting):
        return []
    if any(chosen.partition("=")[0].endswith(f"cameras.{setting}") for chosen in settings):
        raise UserError(f"the video prior sees clips of {frames} frames: leave cameras.{setting} out")
    return [f"{last.cameras.path}.{setting}={frames}"]


def _check_priors(recipe: Recipe, source: str) -> None:
    """UserError if a stage, also a later one, lacks a model that the recipe wants."""
    options = {"required": "--prior", REQUIRED: "--video-prior"}
    for stage in recipe.all_stages:
        for guide in stage.guidance:
            setting = declared(guide.cls, GuidanceRoles).prior_setting
            asked = getattr(guide.config, setting) if setting else None
            if asked is not None and not asked.path and asked.name in options:
                raise UserError(
                    f"recipe '{source}' needs {options[asked.name]} FOLDER of a real model (docs/priors.md)"
                )


def _asks_a_video_prior(guide: Choice) -> bool:
    setting = declared(guide.cls, GuidanceRoles).prior_setting
    return bool(setting) and getattr(guide.config, setting).name in (EMBEDDED, REQUIRED)


def _is_video(guide: Mapping[str, Any]) -> bool:
    setting = guidance_roles(guide).prior_setting
    prior = guide.get(setting) if setting else None
    return isinstance(prior, Mapping) and prior.get("name") in (EMBEDDED, REQUIRED)


def _for_large(values: Mapping[str, Any], keep_pictures: bool) -> dict[str, Any]:
    """Plain values with `with_video_prior` laid over the last stage. Without `keep_pictures` single frames are not
    judged: the small picture prior does not know what large video models do."""
    section = values.get(WITH_VIDEO_PRIOR)
    if not section:
        return dict(values)

    def laid_over(own: Mapping[str, Any]) -> dict[str, Any]:
        last = merge(own, section)
        if not keep_pictures:
            last["guidance"] = [
                guide for guide in last["guidance"] if not guidance_roles(guide).single_frames
            ]
        return last

    return stages.over_last(values, laid_over)


def _without_video_prior(section: Mapping[str, Any]) -> dict[str, Any]:
    if "guidance" not in section:
        return dict(section)
    return {**section, "guidance": [guide for guide in section["guidance"] if not _is_video(guide)]}


def asset_file(asset: str | Path) -> Path:
    """The file of the object that is to move: itself, or the Gaussians of a finished run. Raises UserError."""
    path = Path(asset).expanduser()
    if path.is_dir():
        path = path / "asset.ply"
        if not path.is_file():
            raise UserError(f"'{asset}' holds no asset.ply: name a finished run of Gaussians, or a file")
    if not path.is_file():
        raise UserError(
            f"there is no asset '{asset}': name a finished run, a file of Gaussians or a mesh file"
        )
    return path.absolute()
