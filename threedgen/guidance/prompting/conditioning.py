"""What a prior is told about each view of a step: the prompt, which side it shows, the camera."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

from threedgen.core.errors import UserError
from threedgen.core.schedule import Schedule, bounds, value_at
from threedgen.core.schedule_checks import numbers, require_numbers
from threedgen.core.types import Cameras, RenderOutput
from threedgen.guidance.priors.base import Condition, Prior
from threedgen.guidance.prompting import debiasing, prompts
from threedgen.guidance.prompting.image_conditions import ImageConditions, Picturing


@dataclass(frozen=True)
class Prompting(Picturing):
    """How a prompt becomes the text of each view: the part of their settings that all guidances share.

    prompt:     what the prior is told instead of the run's prompt, "" for that one.
    negative:   text of the unconditional branch.
    view_prompts: always: append ", front view" and so on; never; auto: unless the prior knows cameras;
                interpolated: mix the texts of the two sides that a view lies between.
    view_convention: where front, side, back and overhead begin, see prompts.CONVENTIONS.
    perp_neg:   factor >= 0 on the weights of Perp-Neg, a number or a schedule; 0: off. It works on interpolated
                view prompts, and switches them on.
    debias:     leave out of each view's text the prompt's words that contradict the view. "": off; words: a list
                that ships; FOLDER: what a masked language model makes of them (see guidance/debiasing.py).
    """

    prompt: str = ""
    negative: str = ""
    view_prompts: Literal["auto", "always", "never", "interpolated"] = "auto"
    view_convention: Literal["dreamfusion", "mvdream", "dreamgaussian"] = "dreamfusion"
    perp_neg: Schedule = 0.0
    debias: str = ""

    def __post_init__(self) -> None:
        require_numbers(perp_neg=self.perp_neg)
        low, high = bounds(self.perp_neg)
        if low < 0.0:
            raise UserError(f"perp_neg must not be negative (0 is off), got {low:g} to {high:g}")


class ViewConditions:
    """Makes the Condition of a step, and lets the prior embed all texts of a prompt once, when it first comes.

    Raises UserError for settings that would change nothing because the prior reads no text, or because the views
    have no texts of their own.
    """

    def __init__(self, prior: Prior, config: Prompting) -> None:
        mode, debias = config.view_prompts, config.debias
        if not getattr(prior, "reads_text", True):
            _refuse_texts(config)
        views = prompts.convention(config.view_convention)
        suffixes = mode in ("always", "interpolated") or (mode == "auto" and not prior.camera_conditioned)
        self._opposing = bounds(config.perp_neg)[1] > 0.0
        if not suffixes and (self._opposing or debias):
            why = "are off" if mode == "never" else "are left out for a prior that knows cameras"
            raise UserError(
                f"{'perp_neg' if self._opposing else 'debias'} works on view prompts, which {why}: "
                f"set view_prompts to always, or take {'perp_neg' if self._opposing else 'debias'} out"
            )
        self._pictures = ImageConditions(prior, config)
        self._prior, self._negative, self._perp_neg = prior, config.negative, config.perp_neg
        self._prompt = config.prompt
        self._views = views if suffixes else None
        self._interpolated = mode == "interpolated" or self._opposing
        self._debias = debiasing.debiaser(debias)
        self._prepared: dict[str, prompts.ViewTexts | None] = {}

    def __call__(
        self, prompt: str, cameras: Cameras, step: int, total: int, output: RenderOutput | None = None
    ) -> Condition:
        """What the views of `step` of `total` show. output: their renders, for priors that are shown pictures of
        them. Raises UserError for a prompt that is not Unicode text."""
        condition = self._said(prompt, cameras, step, total)
        return self._pictures(condition, cameras, output)

    def _said(self, prompt: str, cameras: Cameras, step: int, total: int) -> Condition:
        prompt = self._prompt or prompt
        texts = self._texts(prompt)
        if texts is None or self._views is None:
            return Condition((prompt,) * len(cameras), self._negative, cameras)
        factor = value_at(self._perp_neg, step, total)
        opposed: tuple[prompts.Opposed, ...] = ()
        if factor > 0.0:
            opposed = prompts.perpendicular_negatives(texts, cameras, self._views, factor)
        tell = prompts.interpolated_prompts if self._interpolated else prompts.view_prompts
        return Condition(tell(texts, cameras, self._views), self._negative, cameras, opposed)

    def _texts(self, prompt: str) -> prompts.ViewTexts | None:
        """The text of each side, None when all sides have the prompt's; embedded when the prompt is new."""
        if prompt not in self._prepared:
            _require_unicode(prompt, "prompt")
            _require_unicode(self._negative, "negative prompt")
            texts = None
            if self._views is not None:
                debiased = self._debias(prompt)
                texts = self._views.texts(debiased.prompts)
                if debiased.dropped:
                    warnings.warn(debiased.report(), stacklevel=2)
            # Some objectives compare with "" or ask about no view, whatever negative and view prompts say.
            self._prior.prepare([*(() if texts is None else texts.all()), prompt, self._negative, ""])
            self._prepared[prompt] = texts
        return self._prepared[prompt]


def _refuse_texts(config: Prompting) -> None:
    """UserError for a setting about texts, beside a prior that reads none."""
    given = {
        "prompt": config.prompt,
        "negative": config.negative,
        "view_prompts": config.view_prompts in ("always", "interpolated"),
        "perp_neg": any(numbers(config.perp_neg)),
        "debias": config.debias,
    }
    unread = [name for name, value in given.items() if value]
    if unread:
        raise UserError(f"this prior turns a picture and reads no text: take {' and '.join(unread)} out")


def _require_unicode(text: str, what: str) -> None:
    """Bytes of a command line that are no UTF-8 arrive as lone surrogates, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the {what} is not Unicode text (character {error.start + 1}): write it in UTF-8"
        ) from None
