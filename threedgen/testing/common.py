"""Shared by the checks: the report of a law that does not hold, cameras, and a guard of global random states."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras


def law(holds: bool, name: str, sentence: str) -> None:
    """Raises AssertionError "NAME: SENTENCE" unless the law holds."""
    if not holds:
        raise AssertionError(f"{name}: {sentence}")


def views(count: int = 3, height: int = 20, width: int = 28) -> Cameras:
    """Cameras outside the unit sphere that look at the origin, none of them on an axis. height, width: pixels."""
    azimuth = 20.0 + 125.0 * torch.arange(count)
    elevation = torch.tensor([15.0, -35.0, 55.0]).repeat(count // 3 + 1)[:count]
    return orbit(azimuth, elevation, torch.full((count,), 2.9), 42.0, height, width)


def distance(one: Tensor, two: Tensor) -> float:
    """The largest absolute difference; infinite if the shapes differ."""
    if one.shape != two.shape:
        return float("inf")
    return float((one.detach().double() - two.detach().double()).abs().max()) if one.numel() else 0.0


@contextmanager
def no_global_randomness(what: str) -> Iterator[None]:
    """Raises AssertionError if the block draws from a global generator of torch, numpy or Python, or seeds it."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    yield
    numpy_now, numpy_then = np.random.get_state(), states[1]  # noqa: NPY002
    same_numpy = all(np.array_equal(a, b) for a, b in zip(numpy_now, numpy_then, strict=True))
    for library, same in (
        ("torch", torch.equal(torch.get_rng_state(), states[0])),
        ("numpy", same_numpy),
        ("Python", random.getstate() == states[2]),
    ):
        law(same, "global randomness", f"{what} changed the global random state of {library}")
