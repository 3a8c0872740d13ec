"""Laws of a guidance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from threedgen.core.pictures import resize
from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.testing.common import distance, law, no_global_randomness, views
from threedgen.testing.settings import check_settings_of

_CLOSE = 1e-5


def check_guidance(
    guidance: Callable[[], Any],
    *,
    cameras: Cameras | None = None,
    prompt: str = "a red cube",
    batch_independent: bool = False,
    remembers: bool = False,
    total: int = 10,
) -> None:
    """Checks what `guidance()` makes, on random square pictures of `cameras` (default: three around the object).

    prompt, total: of the calls. batch_independent: whether it promises that the loss of several views is the
    mean of the losses of each view alone. remembers: whether its answers may depend on earlier steps; then its
    `state_dict` must hold all that they depend on, and steps are asked in order. Raises AssertionError naming
    the law that does not hold:

    - some code reads every setting (`check_settings`);
    - the answer is a Signal with a scalar finite loss, finite metrics and a preview that is a picture;
    - a finite gradient reaches the picture of every view, and no parameter of a model that the guidance holds;
    - step and seed decide the answer, in any order of the steps and in a fresh object;
    - the renders are not changed;
    - the global random states do not change.
    """
    cameras = views(3, 24, 24) if cameras is None else cameras
    with no_global_randomness("the guidance"):
        guide = guidance()
        check_settings_of(guide)
        if remembers:
            _check_memory(guidance, guide, cameras, prompt, total)
            return
        first = _ask(guide, cameras, prompt, 3, total)
        _check_signal(first, cameras)
        _check_gradient(guide, first)
        _ask(guide, cameras, prompt, 7, total)
        again = _ask(guide, cameras, prompt, 3, total)
        law(
            _same(first, again), "determinism", "the same step and seed give another answer after other steps"
        )
        fresh = _ask(guidance(), cameras, prompt, 3, total)
        law(
            _same(first, fresh), "determinism", "the same step and seed give another answer in a fresh object"
        )
        if batch_independent:
            _check_batch(guide, first, cameras, prompt, total)


@dataclass(frozen=True)
class _Answer:
    signal: Signal
    rgb: Tensor
    alpha: Tensor
    gradient: Tensor


def _ask(
    guide: Any, cameras: Cameras, prompt: str, step: int, total: int, view: int | None = None
) -> _Answer:
    rng = torch.Generator().manual_seed(0)
    shape = (len(cameras), cameras.height, cameras.width)
    coarse = torch.rand(shape[0], 3, 5, 5, generator=rng).permute(0, 2, 3, 1)
    pictures = resize(coarse, *shape[1:]).contiguous()
    chosen = slice(None) if view is None else slice(view, view + 1)
    rgb = pictures[chosen].clone().requires_grad_()
    alpha = torch.full_like(rgb[..., :1], 0.9).requires_grad_()
    before = rgb.detach().clone()
    signal = guide(RenderOutput(rgb, alpha), cameras[chosen], prompt, step, total, 11)
    law(isinstance(signal, Signal), "signal", f"a guidance returns a Signal, not a {type(signal).__name__}")
    law(distance(rgb, before) == 0.0, "pictures", "the guidance changed the renders in place")
    law(signal.loss.requires_grad, "gradient", "the loss does not depend on the pictures")
    gradient = torch.autograd.grad(signal.loss, [rgb, alpha], allow_unused=True, retain_graph=True)
    law(gradient[0] is not None, "gradient", "the loss does not depend on the pictures")
    return _Answer(signal, rgb, alpha, gradient[0])


def _check_signal(answer: _Answer, cameras: Cameras) -> None:
    loss, signal = answer.signal.loss, answer.signal
    law(loss.ndim == 0, "loss", f"the loss must be a scalar, it is {tuple(loss.shape)}")
    law(bool(loss.isfinite()), "loss", "the loss is not finite")
    for name, value in signal.metrics.items():
        law(math.isfinite(float(value)), "metrics", f"'{name}' is {value}")
    if signal.preview is not None:
        shown = signal.preview()
        law(
            shown.ndim == 3 and shown.shape[2] == 3,
            "preview",
            f"a preview is [H, W, 3], not {tuple(shown.shape)}",
        )


def _check_gradient(guide: Any, answer: _Answer) -> None:
    law(bool(answer.gradient.isfinite().all()), "gradient", "the gradient of the pictures is not finite")
    reached = answer.gradient.flatten(1).abs().amax(1) > 0.0
    law(bool(reached.any()), "gradient", "the gradient of the pictures is zero")
    law(
        bool(reached.all()),
        "gradient",
        f"view {int(reached.int().argmin())} of {len(reached)} gets no gradient",
    )
    models = (p for module in _modules(guide, 3, set()) for p in module.parameters() if p.requires_grad)
    unfrozen = list(dict.fromkeys(models))
    if unfrozen:
        found = torch.autograd.grad(answer.signal.loss, unfrozen, allow_unused=True, retain_graph=True)
        law(
            all(g is None for g in found),
            "gradient",
            "a gradient reached the model behind: freeze or detach it",
        )


def _modules(owner: Any, depth: int, seen: set[int]) -> Iterator[nn.Module]:
    """The torch modules that an object holds in attributes, to `depth`, and in lists, tuples, sets and dicts."""
    if id(owner) in seen or isinstance(owner, type | ModuleType | Tensor):
        return
    seen.add(id(owner))
    if isinstance(owner, nn.Module):
        yield owner
    if isinstance(owner, Mapping):
        held = owner.values()
    elif isinstance(owner, list | tuple | set | frozenset):
        held = owner
    elif depth:
        held, depth = vars(owner).values() if hasattr(owner, "__dict__") else (), depth - 1
    else:
        return
    for value in list(held):
        yield from _modules(value, depth, seen)


def _same(one: _Answer, two: _Answer) -> bool:
    return distance(one.signal.loss, two.signal.loss) == 0.0 and distance(one.gradient, two.gradient) == 0.0


def _check_memory(guidance: Callable[[], Any], guide: Any, cameras: Cameras, prompt: str, total: int) -> None:
    """A fresh object with the state from before a step must give the same answer, for three steps in order."""
    for step in range(3):
        fresh = guidance()
        fresh.load_state_dict({name: value.clone() for name, value in guide.state_dict().items()})
        answer = _ask(guide, cameras, prompt, step, total)
        _check_signal(answer, cameras)
        again = _ask(fresh, cameras, prompt, step, total)
        law(_same(answer, again), "memory", "its state_dict does not hold all that its answer depends on")
    _check_gradient(guide, answer)


def _check_batch(guide: Any, together: _Answer, cameras: Cameras, prompt: str, total: int) -> None:
    alone = [_ask(guide, cameras, prompt, 3, total, view) for view in range(len(cameras))]
    mean = torch.stack([answer.signal.loss.detach() for answer in alone]).mean()
    scale = max(1.0, float(mean.abs()))
    law(
        distance(mean, together.signal.loss) <= 10 * _CLOSE * scale,
        "views",
        "the loss of several views is not the mean of those of each view",
    )
