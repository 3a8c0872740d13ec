"""Pictures of codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras, RadianceField, RenderOutput
from threedgen.renderers.base import on_white
from threedgen.ssdnerf.emptiness import Emptiness
from threedgen.ssdnerf.model import LatentModel, Viewpoint
from threedgen.ssdnerf.sampling import STEPS, sample_codes

VIEWS = 6  # of a code in sheets and grids


def around(viewpoint: Viewpoint, count: int = VIEWS, elevation: float = 25.0) -> Cameras:
    """Views from all around, as far away as the training pictures', beginning a little right of the front."""
    full = torch.ones(count)
    azimuth = 20.0 + torch.arange(count) * 360.0 / count
    size = viewpoint.size
    return orbit(azimuth, elevation * full, viewpoint.distance * full, viewpoint.fov, size, size)


@torch.no_grad()
def scene_of(model: LatentModel, code: Float[Tensor, "K R R"]) -> RadianceField:
    """The scene of a code, empty where training took it to be empty.

    What is thinner than rendering.threshold was never looked at in training, so it is not shown either.
    """
    planes = model.planes(code[None])[0]
    rendering = model.config.rendering
    grid = torch.zeros((rendering.cells,) * 3)
    emptiness = Emptiness(rendering, model.device)
    seen = emptiness.look(model.decoder, planes, grid, 0, "latent/look", 0)
    return model.decoder.field(planes, emptiness.occupied(seen))


@dataclass(frozen=True)
class Sampled:
    """Unconditional samples as pictures: what `evaluate_samples` asks for. steps: of DDIM."""

    model: LatentModel
    seed: int = 0
    steps: int = STEPS

    def __call__(self, numbers: Sequence[int], cameras: Sequence[Cameras]) -> list[Float[Tensor, "V H W 3"]]:
        codes = sample_codes(self.model, numbers, self.seed, steps=self.steps)
        return [look(self.model, code, views).rgb for code, views in zip(codes, cameras, strict=True)]


@torch.no_grad()
def look(model: LatentModel, code: Float[Tensor, "K R R"], cameras: Cameras) -> RenderOutput:
    """A code seen by cameras, on white; on the model's device."""
    return shown(model, scene_of(model, code), cameras)


@torch.no_grad()
def shown(model: LatentModel, scene: RadianceField, cameras: Cameras) -> RenderOutput:
    """The scene of a code (`scene_of`, which costs a look at all of it) seen by cameras, on white."""
    return on_white(model.renderer, scene, cameras.to(model.device))
