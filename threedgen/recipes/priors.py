"""The frozen models that guide a recipe: named on the command line, or by the recipe itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from threedgen.core import plugins
from threedgen.core.errors import UserError
from threedgen.core.roles import GuidanceRoles, RepresentationRoles, declared
from threedgen.recipes import stages

EMBEDDED = "embedded"
_PARTS = {
    "tokenizer": ("is for a prior that is a single file: name it with {} FILE, too", "reads no text"),
    "vae": ("replaces the autoencoder of a model: name that with {} MODEL, too", "has no autoencoder"),
}
"""Options for parts of a model: what each says without a model, and of a model that has no such part."""


def names_a_model(
    priors: Sequence[str | None], layers: Sequence[Mapping[str, Any]], overrides: Sequence[tuple[str, str]]
) -> bool:
    """Whether a real prior is named: by --prior, by `prior.path` in a recipe, or by a setting of it."""
    named = [prior for prior in priors if prior is not None]
    if named:
        return any(prior != EMBEDDED for prior in named)
    if any(key.endswith("prior.path") and raw.strip(" '\"") for key, raw in overrides):
        return True
    sections = [section for layer in layers for section in stages.merged(layer)]
    priors_of = [item.get("prior") for section in sections for item in guides_of(section)]
    return any(isinstance(section, Mapping) and section.get("path") for section in priors_of)


def named_parts(tokenizer: str | Path | None, vae: str | Path | None) -> dict[str, str]:
    """The parts of a model that are named beside it, as settings of a prior: only those that are given."""
    given = {"tokenizer": tokenizer, "vae": vae}
    return {name: str(path) for name, path in given.items() if path is not None}


def name_priors(
    values: Mapping[str, Any], prior: str | None, text_prior: str | None, parts: Mapping[str, str]
) -> dict[str, Any]:
    """The values with every guidance's prior replaced by the one named for its kind; the settings of how it is
    loaded (dtype, LoRA, options) stay. parts: of the model that reads the prompt (`named_parts`).

    Raises UserError for an empty name, and if no guidance is of that kind.
    """
    for option, name in (("--prior", prior), ("--text-prior", text_prior)):
        if name is not None and not name.strip():
            raise UserError(f"{option} is empty: name embedded, a pipeline folder or a hub id")
    guides = [item for section in stages.merged(values) for item in guides_of(section)]
    both = any(map(asks_about_a_picture, guides)) and any(map(_asks_about_text, guides))
    if text_prior is not None and not both:
        raise UserError(
            "--text-prior is for recipes that have a view-conditioned prior as well, such as magic123"
        )
    require_named(*(("--text-prior", text_prior) if both else ("--prior", prior)), parts)
    asking = [roles for roles in map(guidance_roles, guides) if roles.prior_setting or roles.model_setting]
    scenes = [_scene_roles(section.get("representation")) for section in stages.merged(values)]
    if prior is not None and not asking and not any(roles.prior_setting for roles in scenes):
        raise UserError("--prior: no guidance of this recipe has a prior")

    def named(item: Any) -> Any:
        reads = not both or _asks_about_text(item)
        chosen = text_prior if both and reads else prior
        return item if chosen is None else _with_model(item, chosen, parts if reads else {})

    def renamed(section: Mapping[str, Any]) -> dict[str, Any]:
        new = dict(section)
        if "guidance" in section:
            new["guidance"] = [named(item) for item in guides_of(section)]
        scene, roles = section.get("representation"), _scene_roles(section.get("representation"))
        if prior is not None and roles.model_setting:
            new["representation"] = {
                **dict(scene or {}),
                roles.model_setting: "" if prior == EMBEDDED else prior,
            }
        if prior is not None and roles.prior_setting:
            new["representation"] = _with_prior(dict(scene or {}), roles.prior_setting, prior, parts)
        return new

    return stages.over_all(values, renamed)


def require_named(option: str, prior: str | None, parts: Mapping[str, str]) -> None:
    """UserError for parts without a model of the user's, which `option` names."""
    if prior in (None, EMBEDDED):
        for name in parts:
            raise UserError(f"--{name} {_PARTS[name][0].format(option)}")


def _with_model(item: Any, chosen: str, parts: Mapping[str, str]) -> Any:
    """A guidance's section with the model `chosen` in place of its own, and the parts that are named beside it."""
    roles = guidance_roles(item)
    if roles.model_setting:
        for name in parts:
            raise UserError(f"--{name}: the model of this recipe {_PARTS[name][1]}, leave it out")
        return {**item, roles.model_setting: "" if chosen == EMBEDDED else chosen}
    if not roles.prior_setting:
        return item
    own = "embedded-picture" if asks_about_a_picture(item) else EMBEDDED
    return _with_prior(item, roles.prior_setting, chosen, parts, own)


def _with_prior(
    item: Mapping[str, Any], setting: str, chosen: str, parts: Mapping[str, str], own: str = EMBEDDED
) -> dict[str, Any]:
    """A section with the model `chosen` in place of the one in `setting`. own: the embedded one, if the section
    names none."""
    old = item.get(setting)
    kept = {key: old[key] for key in old if key not in ("name", "path")} if isinstance(old, Mapping) else {}
    if isinstance(old, Mapping) and str(old.get("name", "")).startswith(EMBEDDED):
        own = old["name"]  # the embedded one that the recipe's numbers are for
    new = {"name": own} if chosen == EMBEDDED else {"path": chosen}
    return {**item, setting: {**kept, **new, **parts}}


def asks_about_a_picture(item: Any) -> bool:
    """Whether a guidance's section asks its prior how the object of a given picture looks from other sides."""
    setting = guidance_roles(item).reference_setting
    reference = item.get(setting) if setting else None
    return isinstance(reference, Mapping) and bool(reference.get("image"))


def _asks_about_text(item: Any) -> bool:
    return bool(guidance_roles(item).prior_setting) and not asks_about_a_picture(item)


def guides_of(values: Mapping[str, Any]) -> list[Any]:
    """The sections of the guidances in plain values; entries that are no sections are left out."""
    items = values.get("guidance")
    found = list(items) if isinstance(items, Sequence) and not isinstance(items, str) else []
    return [item for item in found if isinstance(item, Mapping)]


def guidance_roles(item: Any) -> type[GuidanceRoles]:
    """What the class that a guidance's section names declares."""
    return declared(_class_of(item, "guidance"), GuidanceRoles)


def _scene_roles(section: Any) -> type[RepresentationRoles]:
    return declared(_class_of(section, "representation"), RepresentationRoles)


def _class_of(item: Any, family: str) -> object:
    name = item.get("name") if isinstance(item, Mapping) else None
    return plugins.find(family, name) if isinstance(name, str) else None
