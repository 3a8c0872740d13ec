"""Recipes with several stages: coarse field, then mesh; Gaussians, then texture.

    stages:
      - {steps: 300, representation: {name: triplane}}
      - {steps: 150, representation: {name: tetrahedra}, cameras: {resolution: 128}}

Each stage is the rest of the recipe with the stage's own sections merged over it; its representation continues the
end of the stage before. The settings of the whole run (recipe.WHOLE_RUN) are written outside the stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from threedgen.recipes import checks
from threedgen.recipes.layers import merge
from threedgen.recipes.recipe import WHOLE_RUN


def merged(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The plain values of each stage; of the recipe itself if it has none. Raises UserError for wrong stages."""
    common = {key: value for key, value in values.items() if key != "stages"}
    own = _own(values)
    return [merge(common, stage) for stage in own] if own else [common]


def over_all(
    values: Mapping[str, Any], change: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """`change` applied to the recipe's own sections and to those of every stage."""
    own = _own(values)
    changed = change(values)
    return {**changed, "stages": [change(stage) for stage in own]} if own else changed


def over_last(
    values: Mapping[str, Any], change: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """`change` applied to the last stage's own sections; to the recipe's if it has no stages."""
    own = _own(values)
    return {**values, "stages": [*own[:-1], change(own[-1])]} if own else change(values)


def with_steps(values: Mapping[str, Any], total: int) -> dict[str, Any]:
    """A recipe of `total` steps: stages keep their shares of the run, each at least one step.

    Raises UserError if there are fewer steps than stages, or a stage has no number of steps.
    """
    own = _own(values)
    if not own:
        return merge(values, {"steps": total})
    shares = [section.get("steps", 1) for section in merged(values)]
    checks.check_shares(total, shares)
    counts, left, weight = [], total, sum(shares)
    for index, share in enumerate(shares):
        after = len(shares) - index - 1
        counts.append(left if after == 0 else min(max(1, round(left * share / weight)), left - after))
        left, weight = left - counts[-1], weight - share
    return {
        **values,
        "stages": [{**stage, "steps": count} for stage, count in zip(own, counts, strict=True)],
    }


def document(whole: Mapping[str, Any], resolved: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The resolved recipe of a run with stages. whole: any stage's resolved form. resolved: those of all stages."""
    common = {key: whole[key] for key in WHOLE_RUN if key in whole}
    own = [{key: value for key, value in stage.items() if key not in WHOLE_RUN} for stage in resolved]
    return {**common, "stages": own}


def _own(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    own = values.get("stages") or []
    checks.check_stages(own)
    return list(own)
