"""From a prompt to an asset."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Unpack

from threedgen.core.errors import UserError
from threedgen.core.roles import GuidanceRoles, declared
from threedgen.guidance.priors.load import THINGS, load_prior
from threedgen.jobs.run_directory import PICTURE, choose_path
from threedgen.loop.events import Listener
from threedgen.pipelines.common import Common, overrides, top_level
from threedgen.pipelines.image_to_3d import of_cut_outs
from threedgen.pipelines.picture_of_text import from_text, picture_of
from threedgen.pipelines.prepared import Prepared
from threedgen.pipelines.result import Run
from threedgen.recipes.checks import check_prompt
from threedgen.recipes.layers import RUN
from threedgen.recipes.load import load_recipe
from threedgen.recipes.recipe import Recipe


def text_to_3d(
    prompt: str,
    *,
    out: str | Path | None = None,
    recipe: str | Path = "text-to-3d",
    prior: str | Path | None = None,
    tokenizer: str | Path | None = None,
    vae: str | Path | None = None,
    strict: bool = False,
    refine: int | None = None,
    progress: bool = True,
    listeners: Sequence[Listener] = (),
    **common: Unpack[Common],
) -> Run:
    """Makes a 3D asset from a prompt, as `threedgen text-to-3d` does.

    out: the folder of the run, by default the first free of runs/<prompt>, -2, -3. recipe: a built-in name or a
    YAML file. prior: "embedded", a pipeline folder, a single file or a hub id; None: as the recipe says. tokenizer:
    a folder with the tokenizer of a single file. vae: a file or folder of an autoencoder in place of the prior's
    own. strict: whether words that the embedded prior of things has not learnt are refused, instead of a warning.
    refine: steps of score distillation after a recipe that makes its asset in one pass. progress: whether a bar is
    shown. listeners: called with every event of the run (threedgen.loop.events). common: see `Common`. Raises
    UserError for everything a user can put right, KeyboardInterrupt(path) after Ctrl-C.
    """
    return prepare(
        prompt,
        out=out,
        recipe=recipe,
        prior=prior,
        tokenizer=tokenizer,
        vae=vae,
        strict=strict,
        refine=refine,
        **common,
    ).run(progress, listeners)


def prepare(
    prompt: str,
    *,
    out: str | Path | None = None,
    recipe: str | Path = "text-to-3d",
    prior: str | Path | None = None,
    tokenizer: str | Path | None = None,
    vae: str | Path | None = None,
    strict: bool = False,
    refine: int | None = None,
    **common: Unpack[Common],
) -> Prepared:
    """The recipe of `text_to_3d`, ready to run. Raises UserError."""
    check_prompt(prompt)
    drawn_by = from_text(recipe)
    if drawn_by is not None:
        name = str(recipe)
        path = choose_path(out, prompt)
        models = {"prior": prior, "tokenizer": tokenizer, "vae": vae}
        return of_cut_outs(
            picture_of(prompt, drawn_by, common.get("seed") or 0, strict),
            [],
            prompt,
            path,
            recipe=name,
            elevation=None,
            prompt=prompt,
            refine=refine,
            models={key: None if value is None else str(value) for key, value in models.items()},
            common=common,
        )
    loaded = load_recipe(
        recipe,
        overrides(common),
        prior=None if prior is None else str(prior),
        tokenizer=tokenizer,
        vae=vae,
        refine=refine,
        prompt=prompt,
        derive=partial(_things_options, strict),
        **top_level(common),
    )
    require_no_picture(loaded, str(recipe))
    if strict:
        _require_known_words(loaded)
    return Prepared(loaded, choose_path(out, loaded.prompt))


def _things_options(strict: bool, recipe: Recipe) -> list[str]:
    """Settings of the embedded priors of things: another seed shows another of the things that a word may mean."""
    settings = []
    for number, stage in enumerate(recipe.all_stages):
        place = f"stages.{number}." if recipe.stages else ""
        for index, guide in enumerate(stage.resolved["guidance"]):
            prior = guide.get("prior") or {}
            if prior.get("name") == THINGS and not prior["path"]:
                options = f"{place}guidance.{index}.prior.options"
                settings.append(f"{options}.instance={recipe.seed}")
                settings += [f"{options}.strict=true"] if strict else []
    if strict and not settings:
        raise UserError("--strict is for the embedded prior of things, which is not used here: leave it out")
    return settings


def _require_known_words(recipe: Recipe) -> None:
    """UserError for words of the prompt that the embedded prior of things has not learnt. It says so itself too,
    but when the run has begun."""
    for stage in recipe.all_stages:
        for guide in stage.guidance:
            setting = declared(guide.cls, GuidanceRoles).prior_setting
            asked = getattr(guide.config, setting) if setting else None
            if asked is not None and asked.name == THINGS and not asked.path:
                load_prior(asked).prepare([recipe.prompt])


def require_no_picture(recipe: Recipe, source: str) -> None:
    """UserError for a recipe that needs the picture or the film that only other commands put into a run."""
    guides = [guide for stage in recipe.all_stages for guide in stage.guidance]
    for guide in guides:
        setting = declared(guide.cls, GuidanceRoles).film_setting
        if setting and getattr(guide.config, setting):
            raise UserError(
                f"recipe '{source}' follows a film: threedgen text-to-4d PROMPT --video FILM --recipe {source}"
            )
    for guide in guides:
        setting = declared(guide.cls, GuidanceRoles).picture_setting
        if setting and getattr(guide.config, setting) == RUN + PICTURE:
            raise UserError(
                f"recipe '{source}' begins with a picture: threedgen image-to-3d PICTURE --recipe {source}"
            )
