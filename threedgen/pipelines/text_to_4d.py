"""From a prompt to an asset that moves: which part of the prompt says what it is, and which what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from threedgen.core.errors import UserError
from threedgen.datasets.films import Film
from threedgen.datasets.motions import MOTIONS
from threedgen.pipelines import film as film_stage
from threedgen.recipes import stages
from threedgen.recipes.layers import WITH_VIDEO_PRIOR, merge
from threedgen.recipes.recipe import Recipe, has_field, load_recipe, turns_a_picture

if TYPE_CHECKING:
    from threedgen.guidance.priors.folder.files import PipelineFolder

EMBEDDED, REQUIRED = "embedded-video", "required-video"


def still_part(prompt: str) -> str:
    """The prompt without the words for motions that the embedded video prior knows; "" where nothing is left."""
    return " ".join(word for word in prompt.split() if word.lower().strip(".,!") not in MOTIONS)


def recipe_for(
    source: str,
    prompt: str,
    settings: Sequence[str] = (),
    *,
    asset: str | None = None,
    seconds: float | None = None,
    fps: float | None = None,
    prior: str | None = None,
    video_prior: str | None = None,
    film: Film | None = None,
    view: Mapping[str, float] = MappingProxyType({}),
    **top: Any,
) -> Recipe:
    """A recipe of two stages, what it is and how it moves, or of the last alone where `asset` is given: a
    finished run, a .ply with Gaussians or a mesh file.

    prior: of what it is; video_prior: of how it moves, a folder. film: that it shall follow, seen from
    `view` (see `pipelines.film`); its guidance by the embedded video prior stays if the prompt names a motion that
    this knows. Raises UserError, also for a prompt that names no motion where nothing else says one.
    """
    still, picture = still_part(prompt), None if prior in (None, "embedded") else str(prior)
    folder = None if video_prior in (None, "embedded", EMBEDDED) else str(video_prior)
    named = still != " ".join(prompt.split())
    large = folder is not None and not _is_our_own(folder)

    def adjust(values: dict[str, Any]) -> dict[str, Any]:
        # Here and not by `load_recipe`'s own `prior`, which is for all guidances, and which takes any folder to
        # mean that every stage has a real model.
        if large:
            values = _for_large(values, keep_pictures=prior is not None)
        if film is not None:
            values = film_stage.filmed(values, film, view)
            if folder is None and not named:
                values = stages.over_all(values, _without_video_prior)
        elif film_stage.follows_a_film(values):
            raise UserError(f"recipe '{source}' follows a film: give one by --video FILM")
        _check_prompt(values, prompt, still, folder, asset)
        values = stages.over_all(values, lambda section: _told(section, still, picture, folder))
        if asset is None:
            return values
        values = stages.merged(values)[-1]
        return merge(values, {"representation": {"asset": str(asset_file(asset))}})

    if film is not None:
        seconds = film_stage.seconds_of(film, seconds, fps)
    timing = {"seconds": seconds, "fps": fps}
    own = [f"export.animation.{name}={value}" for name, value in timing.items() if value is not None]
    chosen = [setting.partition("=")[0] for setting in settings]
    common = {"adjust": adjust, "prompt": prompt, "real_prior": picture is not None, **top}
    if film is not None and any("cameras.film." in key for key in chosen):
        raise UserError("say where the film was taken from by --video-view: guidances are told it as well")
    recipe = load_recipe(source, [*own, *settings], **common)
    if not getattr(recipe.parts[-1].representation.cls, "moves", False):
        raise UserError(f"in the last stage of recipe '{source}' nothing moves: {_MOVES}")
    _check_priors(recipe, source)
    frames = _clip_frames(recipe)
    if frames is None:
        if folder is not None:
            raise UserError(
                f"--video-prior: no guidance of recipe '{source}' has a video prior: leave it out"
            )
        return recipe
    taken = getattr(recipe.parts[-1].cameras.config, "frames", None)
    if taken is None:
        raise UserError(
            "a video prior sees clips: leave the cameras of the moving stage at cameras.name=clips"
        )
    if frames == taken:
        return recipe
    if any(name.endswith("cameras.frames") for name in chosen):
        raise UserError(f"the video prior sees clips of {frames} frames: leave cameras.frames out")
    stage = "" if asset is not None else f"stages.{len(recipe.parts) - 1}."
    own.append(f"{stage}cameras.frames={frames}")
    return load_recipe(source, [*own, *settings], **common)


def _for_large(values: Mapping[str, Any], keep_pictures: bool) -> dict[str, Any]:
    """Plain values with `with_video_prior` laid over the last stage. Without `keep_pictures` single frames are not
    judged: the small picture prior does not know what large video models do."""
    section = values.get(WITH_VIDEO_PRIOR)
    if not section:
        return dict(values)

    def laid_over(own: Mapping[str, Any]) -> dict[str, Any]:
        last = merge(own, section)
        if not keep_pictures:
            last["guidance"] = [guide for guide in last["guidance"] if guide["name"] != "single-frames"]
        return last

    return stages.over_last(values, laid_over)


def _is_video(guide: Mapping[str, Any]) -> bool:
    return guide.get("prior", {}).get("name") in (EMBEDDED, REQUIRED)


def _without_video_prior(section: Mapping[str, Any]) -> dict[str, Any]:
    if "guidance" not in section:
        return dict(section)
    return {**section, "guidance": [guide for guide in section["guidance"] if not _is_video(guide)]}


def _check_prompt(
    values: Mapping[str, Any], prompt: str, still: str, folder: str | None, asset: str | None
) -> None:
    """UserError where a prompt does not tell the embedded video prior what it must be told."""
    guides = [guide for section in stages.merged(values) for guide in section.get("guidance", ())]
    if folder is not None or not any(map(_is_video, guides)) or not prompt.strip():
        return
    if still == " ".join(prompt.split()):
        raise UserError(
            f"'{prompt}' names no motion: say one of {', '.join(MOTIONS)}, or name a real model with --video-prior"
        )
    if asset is None and not still:
        raise UserError(
            f"'{prompt}' does not say what moves: say it before the motion, 'a blue cube {prompt.split()[0]}'"
        )


def _check_priors(recipe: Recipe, source: str) -> None:
    """UserError where a stage, also a later one, lacks a model that the recipe wants."""
    for part in recipe.parts:
        for guide in part.guidance:
            asked = getattr(guide.config, "prior", None)
            if asked is None or asked.path or asked.name not in ("required", REQUIRED):
                continue
            option = "--prior" if asked.name == "required" else "--video-prior"
            raise UserError(f"recipe '{source}' needs {option} FOLDER of a real model (docs/priors.md)")


def _told(section: Mapping[str, Any], still: str, picture: str | None, folder: str | None) -> dict[str, Any]:
    """A section whose guidances are told what they are for: those of video priors the whole prompt and the folder,
    those of picture priors what it is and the folder `picture`, where there is something to tell; without that
    single frames cannot be judged, and that guidance goes."""
    result = dict(section)
    if "guidance" not in section:
        return result
    guides = []
    for guide in section["guidance"]:
        if not has_field(guide, "prior"):
            guides.append(guide)
            continue
        moving = _is_video(guide)
        path = folder if moving else picture
        more: dict[str, Any] = {} if path is None else {"prior": {"path": path}}
        if not moving and still and not turns_a_picture(guide):
            more["prompt"] = still
        if still or guide["name"] != "single-frames":
            guides.append(merge(guide, more))
    return {**result, "guidance": guides}


_MOVES = "leave its representation at dynamic-gaussians, or make a still asset by text-to-3d"
_ADVICE = "name a folder that `threedgen train prior --kind video` left, or a video model, by --video-prior"


def _is_our_own(path: str) -> bool:
    """Whether a folder holds a small video prior that was trained here, and not a large model. UserError: none."""
    from threedgen.guidance.priors.adapters.pixel_video import DiffusersPixelVideoPrior

    return _adapter(Path(path).expanduser(), path)[1] is DiffusersPixelVideoPrior


def _adapter(folder: Path, path: str) -> tuple[PipelineFolder, Any]:
    from threedgen.guidance.priors.adapters.choose import adapter_of
    from threedgen.guidance.priors.folder.files import PipelineFolder, readable

    if not folder.is_dir():
        raise UserError(f"there is no folder '{path}': {_ADVICE}")
    with readable(folder):
        described = PipelineFolder(folder)
        adapter = adapter_of(described)
    if not adapter.video:
        raise UserError(f"'{path}' is no video prior: {_ADVICE}")
    return described, adapter


def _clip_frames(recipe: Recipe) -> int | None:
    """How many frames the video prior of a recipe's moving part sees, None where it has none. UserError where it
    lacks what it is told, before a first stage is made for it."""
    from threedgen.guidance.priors.folder.files import readable
    from threedgen.guidance.priors.load import embedded_video
    from threedgen.recipes import typed

    for guide in recipe.parts[-1].guidance:
        prior = getattr(guide.config, "prior", None)
        if prior is None or prior.name not in (EMBEDDED, REQUIRED):
            continue
        folder = Path(prior.path).expanduser() if prior.path else embedded_video()
        described, adapter = _adapter(folder, prior.path)
        if adapter.image_condition == "reference" and not guide.config.reference.image:
            raise UserError(
                f"'{prior.path}' makes a picture move: set {guide.path}.reference.image to one of what shall move"
            )
        with readable(folder):
            return adapter.clip_frames(described, typed.build(adapter.Config, prior.options, "options"))
    return None


def asset_file(asset: str) -> Path:
    """What is to move: a file, or a finished run's Gaussians. Raises UserError."""
    path = Path(asset).expanduser()
    if path.is_dir():
        path = path / "asset.ply"
        if not path.is_file():
            raise UserError(f"'{asset}' holds no asset.ply: name a finished run of Gaussians, or a file")
    if not path.is_file():
        raise UserError(
            f"there is no asset '{asset}': name a finished run, a .ply with Gaussians or a mesh file"
        )
    return path.absolute()
