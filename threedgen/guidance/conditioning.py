"""What a prior is told about each view of a step: the prompt, which side it shows, the camera."""

from __future__ import annotations

from threedgen.guidance import prompts
from threedgen.guidance.priors.base import Condition, Prior
from threedgen.types import Cameras


class ViewConditions:
    """Makes the Condition of a step, and lets the prior embed a prompt's texts once.

    mode: always, never or auto: whether ", front view" and so on is appended; auto: unless the prior knows
    cameras. convention: where front, side, back and overhead begin, see prompts.CONVENTIONS. negative: text
    of the unconditional branch.
    """

    def __init__(self, prior: Prior, negative: str, mode: str, convention: str) -> None:
        views = prompts.convention(convention)
        suffixes = mode == "always" or (mode == "auto" and not prior.camera_conditioned)
        self._prior, self._negative = prior, negative
        self._views = views if suffixes else None
        self._prepared: str | None = None

    def __call__(self, prompt: str, cameras: Cameras) -> Condition:
        if prompt != self._prepared:
            self._prior.prepare([*prompts.all_prompts(prompt, self._views), self._negative])
            self._prepared = prompt
        if self._views is None:
            texts = (prompt,) * len(cameras)
        else:
            texts = prompts.view_prompts(prompt, cameras, self._views)
        return Condition(texts, self._negative, cameras)
