"""Priors that stay in memory between runs, so that many runs with one model load it once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from threedgen.guidance.priors.base import Prior
from threedgen.recipes import typed


@dataclass
class _Kept:
    """The priors by what they were loaded for, the one that was asked for last at the end; at most `most`."""

    most: int
    priors: dict[str, tuple[str, Prior]]


_KEPT: ContextVar[_Kept | None] = ContextVar("kept priors", default=None)


@contextmanager
def keep_priors(most: int = 4) -> Iterator[None]:
    """While it is entered, a prior that is asked for again is not loaded again: for many runs with one model.

    The priors stay in memory until the end of the block, those that were asked for last if there are more than
    `most`. Each use gets the same networks but remembers nothing of the uses before it, so that its run ends with
    the bits of one that loaded them. Only the thread that entered it keeps them.
    """
    token = _KEPT.set(_Kept(most, {}))
    try:
        yield
    finally:
        _KEPT.reset(token)


def kept_or_loaded(
    config: Any, device: torch.device, planned: str, load: Callable[[Any, torch.device], Prior]
) -> Prior:
    """The prior of a config, with `load` if it is not kept. planned: what else decides how it is loaded."""
    kept = _KEPT.get()
    if kept is None:
        return load(config, device)
    settings = dict(typed.plain(config))
    options = str(settings.pop("options", {}))
    key = f"{device} {planned} {settings}"
    found = kept.priors.get(key)
    prior = None if found is None else _again(found, options, config)
    kept.priors.pop(key, None)
    if prior is None:
        while len(kept.priors) >= kept.most:
            kept.priors.pop(next(iter(kept.priors)))
        prior = load(config, device)
    kept.priors[key] = options, prior
    return prior


def _again(found: tuple[str, Any], options: str, config: Any) -> Any:
    """A kept prior for one more use, or None if it has other options that it cannot take without being loaded."""
    before, prior = found
    if before != options:
        return prior.with_options(config.options) if hasattr(prior, "with_options") else None
    return prior.fresh() if hasattr(prior, "fresh") else prior
