"""From a prompt to an asset that moves: which part of the prompt says what it is, and which what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from threedgen import stages
from threedgen.config import Recipe, load_recipe
from threedgen.datasets.motions import MOTIONS
from threedgen.errors import UserError
from threedgen.layers import merge

EMBEDDED = "embedded-video"


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
    **top: Any,
) -> Recipe:
    """A recipe of two stages, what it is and how it moves, or of the last alone where `asset` is given: a
    finished run, a .ply with Gaussians or a mesh file.

    prior: of what it is; video_prior: of how it moves, a folder or a hub id. Raises UserError, also for a prompt
    that names no motion the embedded video prior knows.
    """
    words = [word.lower().strip(".,!") for word in prompt.split()]
    embedded = video_prior in (None, "embedded", EMBEDDED)
    if embedded and not any(word in MOTIONS for word in words):
        raise UserError(
            f"'{prompt}' names no motion: say one of {', '.join(MOTIONS)}, or name a real model with --video-prior"
        )
    still = still_part(prompt)
    if embedded and asset is None and not still:
        raise UserError(
            f"'{prompt}' does not say what moves: say it before the motion, 'a blue cube {words[0]}'"
        )
    picture = None if prior in (None, "embedded") else str(prior)
    film = None if embedded else str(video_prior)

    def adjust(values: dict[str, Any]) -> dict[str, Any]:
        # Here and not by `load_recipe`'s own `prior`, which is for all guidances, and which takes any folder to
        # mean that every stage has a real model.
        values = stages.over_all(values, lambda section: _told(section, still, picture, film))
        if asset is None:
            return values
        values = stages.merged(values)[-1]
        return merge(values, {"representation": {"asset": str(asset_file(asset))}})

    timing = {"seconds": seconds, "fps": fps}
    own = [f"export.animation.{name}={value}" for name, value in timing.items() if value is not None]
    own += [] if picture is None or asset is not None else [f"stages.0.guidance.0.prior.path={picture}"]
    chosen = [setting.partition("=")[0] for setting in settings]
    recipe = load_recipe(source, [*own, *settings], adjust=adjust, prompt=prompt, **top)
    frames = _clip_frames(film, recipe.parts[-1])
    if frames == recipe.parts[-1].cameras.config.frames:
        return recipe
    if any(name.endswith("cameras.frames") for name in chosen):
        raise UserError(f"the video prior sees clips of {frames} frames: leave cameras.frames out")
    stage = "" if asset is not None else f"stages.{len(recipe.parts) - 1}."
    own.append(f"{stage}cameras.frames={frames}")
    return load_recipe(source, [*own, *settings], adjust=adjust, prompt=prompt, **top)


def _told(section: Mapping[str, Any], still: str, picture: str | None, film: str | None) -> dict[str, Any]:
    """A section whose guidances are told what they are for: those of video priors the whole prompt and the folder
    `film`, those of picture priors what it is and the folder `picture`, where there is something to tell; without
    that single frames cannot be judged, and that guidance goes."""
    result = dict(section)
    if "guidance" not in section:
        return result
    guides = []
    for guide in section["guidance"]:
        moving = guide.get("prior", {}).get("name") == EMBEDDED
        path = film if moving else picture
        more: dict[str, Any] = {} if path is None else {"prior": {"path": path}}
        if not moving and still:
            more["prompt"] = still
        if still or guide["name"] != "single-frames":
            guides.append(merge(guide, more))
    return {**result, "guidance": guides}


def _clip_frames(path: str | None, moving: Recipe) -> int:
    """How many frames the video prior in a folder sees, None: the embedded one, with the options of the recipe's
    moving part. UserError where it is none or lacks what it is told, before a first stage is made for it."""
    from threedgen import typed
    from threedgen.guidance.priors.files import PipelineFolder, readable
    from threedgen.guidance.priors.kinds import adapter_of
    from threedgen.guidance.priors.load import embedded_video

    advice = (
        "name a folder that `threedgen train prior --kind video` left, or a video model, by --video-prior"
    )
    folder = embedded_video() if path is None else Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder '{path}': {advice}")
    guidance = moving.guidance[0].config
    with readable(folder):
        described = PipelineFolder(folder)
        adapter = adapter_of(described)
        if not adapter.video:
            raise UserError(f"'{path}' is no video prior: {advice}")
        if adapter.image_condition == "reference" and not guidance.reference.image:
            raise UserError(
                f"'{path}' makes a picture move: set stages.1.guidance.0.reference.image to one of what shall move "
                "(guidance.0.reference.image with --asset)"
            )
        return adapter.clip_frames(described, typed.build(adapter.Config, guidance.prior.options, "options"))


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
