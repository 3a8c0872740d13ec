"""What a recipe says about the light in the colours of its asset: that of its priors, if they agree."""

from __future__ import annotations

from typing import Any

from threedgen.core.material import Light
from threedgen.core.roles import GuidanceRoles, RepresentationRoles, declared
from threedgen.export.materials import Look
from threedgen.guidance.priors.load import light_of
from threedgen.recipes.recipe import Choice, Recipe

_KNOWN = "its prior learned from pictures in one light, which is divided out"
_PICTURES = "it was made from pictures, whose light is not known"
_PRIOR = "its prior does not say in which light it shows things"
_FILE = "its colours come from a file, which does not say in which light they are"


def look_of(recipe: Recipe) -> Look:
    """The light of the asset of a recipe: every guidance of every stage must show things in the same one.

    Raises UserError for the damaged folder of a prior.
    """
    lights, why = set[Light | None](), Look().why
    for stage in recipe.all_stages:
        if _setting(stage.representation, RepresentationRoles, "asset_setting"):
            return Look(None, _FILE, recipe.prompt)
        for guide in stage.guidance:
            if _setting(guide, GuidanceRoles, "picture_setting") or _setting(
                guide, GuidanceRoles, "film_setting"
            ):
                return Look(None, _PICTURES, recipe.prompt)
            prior = _setting(guide, GuidanceRoles, "prior_setting")
            lights.add(None if prior is None else light_of(prior))
            why = _PRIOR
    known = lights.pop() if len(lights) == 1 else None
    return Look(known, why if known is None else _KNOWN, recipe.prompt)


def _setting(choice: Choice, roles: type[GuidanceRoles] | type[RepresentationRoles], role: str) -> Any:
    """The value of the setting of a component that its class declares under a role; None if there is none."""
    name = getattr(declared(choice.cls, roles), role)
    return getattr(choice.config, name) if name else None
