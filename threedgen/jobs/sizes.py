"""Which settings of a recipe a part of the work takes its memory for."""

from __future__ import annotations

import re
from collections.abc import Iterator

from threedgen.core import memory
from threedgen.recipes.recipe import Recipe
from threedgen.recipes.typed import join, leaves

_LOWER = {
    memory.REPRESENTATION: r"representation\.(count|resolution|density\.max_count)",
    memory.FILES: r"export\.(mesh\.resolution|turntable\.(size|frames))",
}
_VIEWS = r"cameras\.(batch|resolution)"


def what_to_lower(recipe: Recipe, stage: int, part: str) -> str:
    """The settings to change where the memory does not suffice for a part of the work, with their present values.

    stage: 0-based, of a recipe with stages. part: as `memory.asker` names it.
    """
    own = recipe.all_stages[stage]
    place = f"stages.{stage}" if recipe.stages else ""
    pattern = re.compile(_LOWER.get(part, _VIEWS))
    lower = [
        f"{key if key.startswith('export') else join(place, key)} ({value})"
        for key, value in leaves(own.resolved)
        if pattern.fullmatch(key)
    ]
    choices = [f"lower {', '.join(lower)}"] if lower else []
    if part == memory.PRIOR:
        choices += [f"set {join(place, key)}" for key in _smaller_priors(own)]
    return ", or ".join(choices) or "use a machine with more memory"


def _smaller_priors(stage: Recipe) -> Iterator[str]:
    """The settings that make a large model smaller, and what to set them to."""
    for number, guide in enumerate(stage.resolved["guidance"]):
        prior = guide.get("prior") or {}
        if prior.get("path"):
            yield f"guidance.{number}.prior.memory=GB"
            if not prior["vae_tiling"]:
                yield f"guidance.{number}.prior.vae_tiling=true"
