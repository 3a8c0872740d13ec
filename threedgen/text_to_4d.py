"""From a prompt to an asset that moves: which part of the prompt says what it is, and which what it does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threedgen.config import Recipe, load_recipe, resolve
from threedgen.datasets.motions import MOTIONS
from threedgen.errors import UserError
from threedgen.overrides import apply_override

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
    """A recipe of two stages, what it is and how it moves, or of the second alone where `asset` is given: a
    finished run, a .ply with Gaussians or a mesh file.

    prior: of the first stage; video_prior: of the second, a folder or a hub id. Raises UserError, also for a prompt
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
    stage = "" if asset is not None else "stages.1."
    own = [] if asset is not None else [f"stages.0.guidance.0.prompt={still}"]
    if asset is not None:
        own.append(f"representation.asset={asset_file(asset)}")
    if prior not in (None, "embedded") and asset is None:
        own.append(f"stages.0.guidance.0.prior.path={prior}")
    timing = {"seconds": seconds, "fps": fps}
    own += [f"export.animation.{name}={value}" for name, value in timing.items() if value is not None]
    name = source if asset is None else f"{source}-asset"
    recipe = load_recipe(name, [*own, *settings], prompt=prompt, **top)
    _check_video_prior(None if embedded else video_prior)
    if embedded:
        return recipe
    # Past `load_recipe`, for which any folder means that the first stage has a real model too.
    return resolve(apply_override(dict(recipe.resolved), f"{stage}guidance.0.prior.path", str(video_prior)))


def _check_video_prior(path: str | None) -> None:
    """UserError where it is none, before a first stage is made for it. None: the embedded one."""
    from threedgen.guidance.priors.diffusers_pixel_video import DiffusersPixelVideoPrior
    from threedgen.guidance.priors.files import PipelineFolder, readable
    from threedgen.guidance.priors.kinds import adapter_of
    from threedgen.guidance.priors.load import embedded_video

    advice = "name a folder that `threedgen train prior --kind video` left, by --video-prior"
    folder = embedded_video() if path is None else Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder '{path}': {advice}")
    with readable(folder):
        if adapter_of(PipelineFolder(folder)) is not DiffusersPixelVideoPrior:
            raise UserError(f"'{path}' is no video prior: {advice}")


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
