"""Recipes with several stages: coarse field, then mesh; Gaussians, then texture.

    stages:
      - {steps: 300, representation: {name: triplane}}
      - {steps: 150, representation: {name: tetrahedra}, cameras: {resolution: 128}}

Each stage is the rest of the recipe with the stage's own sections merged over it; its representation goes on
from what the stage before ended in. What is said about the whole run is said outside the stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from threedgen.core.errors import UserError
from threedgen.recipes.layers import merge

WHOLE_RUN = (
    "prompt", "seed", "device", "description", "paper", "needs", "memory", "export", "preview", "checkpoint",
)  # fmt: skip


def merged(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The plain values of each stage; of the recipe itself where it has none. UserError: not sections."""
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
    """`change` applied to the last stage's own sections; to the recipe's where it has no stages."""
    own = _own(values)
    return {**values, "stages": [*own[:-1], change(own[-1])]} if own else change(values)


def with_steps(values: Mapping[str, Any], total: int) -> dict[str, Any]:
    """A recipe of `total` steps: stages keep their shares, each at least one step."""
    own = _own(values)
    if not own:
        return merge(values, {"steps": total})
    if total < len(own):
        raise UserError(f"{total} steps for {len(own)} stages: each needs at least 1")
    shares = [section.get("steps", 1) for section in merged(values)]
    if not all(isinstance(share, int) and share > 0 for share in shares):
        raise UserError("every stage needs 'steps', a whole number of at least 1")
    counts, left, weight = [], total, sum(shares)
    for index, share in enumerate(shares):
        after = len(shares) - index - 1
        counts.append(left if after == 0 else min(max(1, round(left * share / weight)), left - after))
        left, weight = left - counts[-1], weight - share
    return {
        **values,
        "stages": [{**stage, "steps": count} for stage, count in zip(own, counts, strict=True)],
    }


def document(whole: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The resolved recipe of a run with stages, from the resolved forms of the stages."""
    common = {key: whole[key] for key in WHOLE_RUN if key in whole}
    own = [{key: value for key, value in part.items() if key not in WHOLE_RUN} for part in parts]
    return {**common, "stages": own}


def _own(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    own = values.get("stages") or []
    if not isinstance(own, Sequence) or not all(isinstance(stage, Mapping) for stage in own):
        raise UserError("'stages' must be a list of sections, one a stage")
    for index, stage in enumerate(own):
        for key in stage:
            if key in WHOLE_RUN:
                raise UserError(f"'stages.{index}.{key}' is about the whole run: write it outside the stages")
    return list(own)
