"""Sampling and learning through scenes that are never observed (Tewari et al. 2023, arXiv:2306.11719).

What is observed of a scene S is O = render(S, view). A denoiser answers a noisy observation of the target view
with a scene, and its estimate of the clean observation is what that scene shows. If the estimate is the mean of the
clean observation given the noisy one and the context, an ordinary sampler draws observations from their law given
the context, and the scene of the last step is a sample of the law of scenes, as far as context and target determine
it.

Nothing here knows what a scene is: scenes are vectors in the tests, where this law has a closed form, and radiance
fields in `threedgen.dfm.scene_field`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.training.samples import ddim_path

Scene = TypeVar("Scene")
View = TypeVar("View")


class SceneDenoiser(Protocol[Scene]):
    """Noisy observations of B scenes from their target views -> scenes. It knows the views and the context."""

    def scene(
        self, noisy: Float[Tensor, "B ..."], times: Int[Tensor, " B"], estimate: Tensor | None, given: bool
    ) -> Scene:
        """The scenes of noisy observations. times: time steps. estimate: that of the step before, for
        self-conditioning (Chen et al. 2022, arXiv:2208.04202); None at the first. given: whether the context is."""
        ...

    def render(self, scene: Scene) -> Float[Tensor, "B ..."]:
        """What scenes show in their target views."""
        ...


@torch.no_grad()
def sampled(
    denoiser: SceneDenoiser[Scene],
    noise: Float[Tensor, "B ..."],
    alpha: Float[Tensor, " T"],
    sigma: Float[Tensor, " T"],
    steps: int,
    guidance: float = 1.0,
) -> Scene:
    """Samples of scenes by DDIM on what their target views show.

    noise: standard normal; smaller noise makes samples more alike. alpha, sigma: tables over the T time steps.
    guidance: s of the estimate uncond + s (cond - uncond); only 1 samples the law.
    """
    count, before = len(noise), None

    def clean(z: Tensor, now: Tensor) -> Tensor:
        nonlocal before
        times = now.expand(count)
        estimate = denoiser.render(denoiser.scene(z, times, before, True))
        if guidance != 1.0:
            other = denoiser.render(denoiser.scene(z, times, before, False))
            estimate = other + guidance * (estimate - other)
        before = estimate
        return estimate

    z = ddim_path(clean, noise, alpha, sigma, steps)
    return denoiser.scene(z, torch.zeros(count, dtype=torch.long), before, True)


@dataclass(frozen=True)
class Observed(Generic[View]):
    """What was observed of B scenes. true: [B, ...] from `view`. weight: of each scene."""

    view: View
    true: Float[Tensor, "B ..."]
    weight: Float[Tensor, " B"]


def loss(
    render: Callable[[Any, Any], Tensor], terms: Sequence[tuple[Any, Observed[Any]]]
) -> Float[Tensor, ""]:
    """The weighted squared errors of what scenes show. render: (scenes, view) -> what they show. terms: scenes, and
    what was observed of them.

    The paper's code takes absolute errors. Their optimum is the median of what may be observed; the sampler needs
    the mean.
    """
    total = torch.zeros(())
    for scenes, seen in terms:
        errors = (render(scenes, seen.view) - seen.true).square().flatten(1).mean(1)
        total = total + (seen.weight * errors).mean()
    return total
