"""What the video prior of a recipe sees, asked before a first stage is made for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from threedgen.core.errors import UserError
from threedgen.core.roles import GuidanceRoles, declared
from threedgen.guidance.priors.adapters.choose import adapter_of
from threedgen.guidance.priors.adapters.pixel_video import DiffusersPixelVideoPrior
from threedgen.guidance.priors.folder.files import PipelineFolder, readable
from threedgen.guidance.priors.load import embedded_video
from threedgen.recipes import typed
from threedgen.recipes.recipe import Choice

EMBEDDED, REQUIRED = "embedded-video", "required-video"
_ADVICE = "name a folder that `threedgen train prior --kind video` left, or a video model, by --video-prior"


def is_small(path: str) -> bool:
    """Whether a folder holds a small video prior that was trained here, and not a large model. UserError: none."""
    return _adapter(Path(path).expanduser(), path)[1] is DiffusersPixelVideoPrior


def clip_frames(guide: Choice) -> int:
    """How many frames the video prior of a guidance sees. UserError if it is not told what it must be told."""
    roles = declared(guide.cls, GuidanceRoles)
    prior = getattr(guide.config, roles.prior_setting)
    folder = Path(prior.path).expanduser() if prior.path else embedded_video()
    described, adapter = _adapter(folder, prior.path)
    if adapter.image_condition == "reference" and not getattr(guide.config, roles.reference_setting).image:
        raise UserError(
            f"'{prior.path}' makes a picture move: set {guide.path}.{roles.reference_setting}.image to a picture "
            "of the object"
        )
    with readable(folder):
        return adapter.clip_frames(described, typed.build(adapter.Config, prior.options, "options"))


def _adapter(folder: Path, path: str) -> tuple[PipelineFolder, Any]:
    if not folder.is_dir():
        raise UserError(f"there is no folder '{path}': {_ADVICE}")
    with readable(folder):
        described = PipelineFolder(folder)
        adapter = adapter_of(described)
    if not adapter.video:
        raise UserError(f"'{path}' is not a video prior: {_ADVICE}")
    return described, adapter
