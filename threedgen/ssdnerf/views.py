"""Pictures of codes, and of fields that codes describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras, RadianceField, RenderOutput
from threedgen.renderers.base import on_white
from threedgen.ssdnerf.model import LatentModel, Viewpoint
from threedgen.ssdnerf.occupancy import ObjectGrids
from threedgen.ssdnerf.sampling import STEPS, sample_codes

VIEWS = 6  # number of views of a code in contact sheets and grids


def turntable(viewpoint: Viewpoint, count: int = VIEWS, elevation: float = 25.0) -> Cameras:
    """`count` cameras on a circle at the distance of the training cameras, the first one 20 degrees from the front.

    elevation: in degrees.
    """
    full = torch.ones(count)
    azimuth = 20.0 + torch.arange(count) * 360.0 / count
    size = viewpoint.size
    return orbit(azimuth, elevation * full, viewpoint.distance * full, viewpoint.fov, size, size)


@torch.no_grad()
def field_of(model: LatentModel, code: Float[Tensor, "K R R"]) -> RadianceField:
    """The radiance field of a code, with the cells empty that training takes to be empty.

    Densities below rendering.threshold are never rendered in training, so they are not rendered here either.
    """
    planes = model.planes(code[None])[0]
    rendering = model.config.rendering
    grid = torch.zeros((rendering.cells,) * 3)
    grids = ObjectGrids(rendering, model.device)
    density = grids.update(model.decoder, planes, grid, 0, "latent/look", 0)
    return model.decoder.field(planes, grids.occupied(density))


@dataclass(frozen=True)
class Sampled:
    """Unconditional samples as pictures, in the form that `evaluate_samples` takes. steps: number of DDIM steps."""

    model: LatentModel
    seed: int = 0
    steps: int = STEPS

    def __call__(self, numbers: Sequence[int], cameras: Sequence[Cameras]) -> list[Float[Tensor, "V H W 3"]]:
        codes = sample_codes(self.model, numbers, self.seed, steps=self.steps)
        return [render_code(self.model, code, views).rgb for code, views in zip(codes, cameras, strict=True)]


@torch.no_grad()
def render_code(model: LatentModel, code: Float[Tensor, "K R R"], cameras: Cameras) -> RenderOutput:
    """Renders of a code on white, on the device of the model."""
    return render_field(model, field_of(model, code), cameras)


@torch.no_grad()
def render_field(model: LatentModel, field: RadianceField, cameras: Cameras) -> RenderOutput:
    """Renders of the field of a code on white. For several renders of one code, `field_of` is needed only once."""
    return on_white(model.renderer, field, cameras.to(model.device))
