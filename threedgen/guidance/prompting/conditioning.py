"""The condition of each view of a step: the prompt, the side that it shows, the camera."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Annotated, Literal

from threedgen.core.errors import UserError
from threedgen.core.schedule import Schedule, bounds, value_at
from threedgen.core.settings import at_least, numbers, settings
from threedgen.core.types import Cameras, RenderOutput
from threedgen.guidance.priors.base import Condition, Prior, roles_of
from threedgen.guidance.prompting import debiasing, prompts
from threedgen.guidance.prompting.image_conditions import ImageConditions, Picturing


@settings
class Prompting(Picturing):
    """Common settings of guidances with a prior: how the prompt becomes the text of each view.

    Attributes:
        prompt: Prompt of this guidance; empty is the prompt of the run.
        negative: Text of the unconditional branch.
        view_prompts: Whether words such as ", front view" are added to the prompt. auto adds them unless the prior
            receives cameras; interpolated mixes the texts of the two sides next to a view.
        view_convention: Angles at which front, side, back and overhead begin, as in the implementation of that
            name.
        perp_neg: Factor on the weights of Perp-Neg, a number or a schedule; 0 is off. It uses interpolated view
            prompts, and switches them on.
        debias: Remove the words of the prompt that contradict a view from the text of that view. Empty is off.
            words uses a built-in list. A folder with a masked language model lets this model decide.
    """

    prompt: str = ""
    negative: str = ""
    view_prompts: Literal["auto", "always", "never", "interpolated"] = "auto"
    view_convention: Literal["dreamfusion", "mvdream", "dreamgaussian"] = "dreamfusion"
    perp_neg: Annotated[Schedule, at_least(0.0)] = 0.0
    debias: str = ""


class ViewConditions:
    """Makes the Condition of a step, and lets the prior embed all texts of a prompt once, before its first use.

    Raises UserError for settings without any effect, because the prior reads no text or because the views have no
    texts of their own.
    """

    def __init__(self, prior: Prior, config: Prompting) -> None:
        mode, debias = config.view_prompts, config.debias
        if not roles_of(prior).reads_text:
            _refuse_texts(config)
        views = prompts.convention(config.view_convention)
        suffixes = mode in ("always", "interpolated") or (mode == "auto" and not prior.camera_conditioned)
        self._opposing = bounds(config.perp_neg)[1] > 0.0
        if not suffixes and (self._opposing or debias):
            name = "perp_neg" if self._opposing else "debias"
            why = "are off" if mode == "never" else "are left out for a prior that receives cameras"
            raise UserError(
                f"{name} works on view prompts, which {why}: set view_prompts to always, or leave {name} out"
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
        """The condition of the views at `step` of `total`. output: their renders, for priors that receive pictures.

        Raises UserError for a prompt that is not Unicode text.
        """
        condition = self._with_texts(prompt, cameras, step, total)
        if output is not None and output.background is not None:
            condition = replace(condition, background=output.background.detach())
        return self._pictures(condition, cameras, output)

    def _with_texts(self, prompt: str, cameras: Cameras, step: int, total: int) -> Condition:
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
        """The text of each side, or None if all sides have the prompt; texts of a new prompt are embedded."""
        if prompt not in self._prepared:
            _require_unicode(prompt, "prompt")
            _require_unicode(self._negative, "negative prompt")
            texts = None
            if self._views is not None:
                debiased = self._debias(prompt)
                texts = self._views.texts(debiased.prompts)
                if debiased.dropped:
                    warnings.warn(debiased.report(), stacklevel=2)
            # Some objectives use the empty text or the prompt without words for the view, whatever the settings
            # are.
            self._prior.prepare([*(() if texts is None else texts.all()), prompt, self._negative, ""])
            self._prepared[prompt] = texts
        return self._prepared[prompt]


def _refuse_texts(config: Prompting) -> None:
    """Raises UserError for a setting about texts, which a prior that reads no text does not use."""
    given = {
        "prompt": config.prompt,
        "negative": config.negative,
        "view_prompts": config.view_prompts in ("always", "interpolated"),
        "perp_neg": any(numbers(config.perp_neg)),
        "debias": config.debias,
    }
    unread = [name for name, value in given.items() if value]
    if unread:
        raise UserError(
            f"this prior reads no text, only a picture to show from other sides: leave "
            f"{' and '.join(unread)} out"
        )


def _require_unicode(text: str, what: str) -> None:
    """Raises UserError for lone surrogates, to which Python decodes bytes of a command line that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the {what} is not Unicode text (character {error.start + 1}): write it in UTF-8"
        ) from None
