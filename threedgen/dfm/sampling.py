"""Samples of the scenes that one picture may show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.core.random import generator
from threedgen.core.types import Cameras
from threedgen.dfm.law import sampled
from threedgen.dfm.scene_field import (
    CHANNELS,
    ESTIMATE,
    DecodedScenes,
    NoisyViews,
    SceneField,
    as_estimate,
    signed,
    thinned,
)
from threedgen.guidance.priors.picture_field import DecodedPictures, LookedAt, seen_from
from threedgen.guidance.priors.radiance_field import as_pictures
from threedgen.training.denoiser_trainer import cosine_alphas
from threedgen.training.things_store import cameras_of

BACK = 180.0  # degrees from the picture, of the view that is denoised
TOGETHER = 4  # samples on a sheet


@dataclass(frozen=True)
class SceneDenoiser:
    """A `law.SceneDenoiser` of views of a size that the field has. context: what was looked at. cameras: of the
    noisy views, in the frame of the fields."""

    field: SceneField
    context: LookedAt
    cameras: Cameras

    @cached_property
    def withheld(self) -> LookedAt:
        """What is seen without a context: a white picture, from the same side."""
        context = self.context
        return self.field.look(torch.ones_like(context.pictures), context.known, context.azimuth)

    def scene(
        self, noisy: Float[Tensor, "B 4 H W"], times: Int[Tensor, " B"], estimate: Tensor | None, given: bool
    ) -> DecodedScenes:
        alpha, sigma = (table[times].to(noisy) for table in cosine_alphas())
        if estimate is None:
            few = noisy.new_zeros(len(noisy), CHANNELS, ESTIMATE, ESTIMATE)
        else:
            few = as_estimate(estimate.flatten(2)[:, :, thinned(noisy.shape[-1])].transpose(1, 2))
        views = NoisyViews(noisy, few, alpha, sigma, self.cameras)
        return self.field.scenes(self.context if given else self.withheld, views)

    def render(self, scene: DecodedScenes) -> Float[Tensor, "B 4 H W"]:
        return signed(as_pictures(self.field.render(scene, self.cameras), self.cameras))


@torch.no_grad()
def sampled_scenes(
    field: SceneField,
    picture: Float[Tensor, "3 H W"],
    known: Float[Tensor, " 2"],
    seeds: Sequence[int],
    steps: int = 25,
    guidance: float = 1.0,
    temperature: float = 1.0,
) -> DecodedScenes:
    """Scenes that a picture may show, one for each seed; what a seed gives does not depend on the others.

    picture: in [-1, 1] on white, of the size that the field has. known: elevation in degrees and distance of its
    camera. steps: of the sampler. guidance: see `law.sampled`. temperature: standard deviation of the first noise.
    """
    size, count, device = field.architecture.size, len(seeds), picture.device
    given = picture.expand(count, -1, -1, -1), known.expand(count, -1)
    looked = field.look(*given)
    angles = torch.stack([torch.tensor(BACK), torch.tensor(0.0), known[1].cpu()]).expand(count, -1)
    cameras = seen_from(looked, cameras_of(angles, size).to(device))
    shape = CHANNELS, size, size
    noise = torch.stack([torch.randn(shape, generator=generator(seed, "scene-sample", 0)) for seed in seeds])
    alpha, sigma = cosine_alphas()
    denoiser = SceneDenoiser(field, looked, cameras)
    return sampled(denoiser, temperature * noise.to(device), alpha, sigma, steps, guidance)


@torch.no_grad()
def shown(
    field: SceneField,
    decoded: DecodedScenes | DecodedPictures,
    views: Float[Tensor, "V 3"],
    size: int | None = None,
) -> Float[Tensor, "B V H W 4"]:
    """What B fields show from the same V views: premultiplied RGB and alpha. views: azimuth relative to that of the
    picture and elevation in degrees, and distance. size: pixels; None: as many as the picture has."""
    count, device = len(decoded.azimuth), decoded.azimuth.device
    size = size or field.architecture.size
    owner = torch.arange(count).repeat_interleave(len(views))
    cameras = seen_from(decoded, cameras_of(views.repeat(count, 1), size).to(device), owner)
    values = field.render(decoded, cameras, owner)
    return values.unflatten(0, (count, len(views))).unflatten(2, (size, size))
