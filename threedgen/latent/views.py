"""Pictures of codes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras import orbit
from threedgen.latent.emptiness import Emptiness
from threedgen.latent.model import LatentModel, Viewpoint
from threedgen.renderers.base import on_white
from threedgen.renderers.volume import VolumeRenderer
from threedgen.types import Cameras, RadianceField, RenderOutput

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


@torch.no_grad()
def look(model: LatentModel, code: Float[Tensor, "K R R"], cameras: Cameras) -> RenderOutput:
    """A code seen by cameras, on white; on the model's device."""
    renderer = VolumeRenderer(VolumeRenderer.Config(samples=model.config.rendering.samples))
    return on_white(renderer, scene_of(model, code), cameras.to(model.device))
