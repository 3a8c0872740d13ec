"""The code of given views: sampling that is guided through the renderer, then finetuning (SSDNeRF, Chen, Gu et al.
2023, image-guided sampling and finetuning, and its code)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.cameras.orbit import single_pixels
from threedgen.core.random import generator
from threedgen.core.types import Cameras, RenderOutput
from threedgen.datasets.multiview import PosedPictures
from threedgen.guidance.priors.processes import per_sample
from threedgen.ssdnerf.config import Finetuning, Guiding
from threedgen.ssdnerf.decoder import activate, as_pictures, deactivate
from threedgen.ssdnerf.losses import rendering_loss
from threedgen.ssdnerf.model import LatentModel
from threedgen.ssdnerf.occupancy import ObjectGrids
from threedgen.ssdnerf.sampling import draw_noise, integrate, require_plain
from threedgen.ssdnerf.views import render_code


@dataclass(frozen=True)
class Reconstruction:
    """How views become a code. None takes the settings of the recipe of the model."""

    guiding: Guiding | None = None
    finetuning: Finetuning | None = None

    def of(self, model: LatentModel) -> tuple[Guiding, Finetuning]:
        """The settings of both stages for a model."""
        return self.guiding or model.config.guiding, self.finetuning or model.config.finetuning


def reconstruct(
    model: LatentModel, views: PosedPictures, how: Reconstruction | None = None, seed: int = 0
) -> Float[Tensor, "K R R"]:
    """The code, in +-2, of the object that `views` show on white. The same seed gives the same code."""
    guiding, finetuning = (how or Reconstruction()).of(model)
    if guiding.steps:
        code = guided_sample(model, views, guiding, seed)
    else:
        code = model.codes_of(torch.zeros((1, *model.shape), device=model.device))[0]
    return finetuned(model, code, views, finetuning, seed)


def guided_sample(
    model: LatentModel, views: PosedPictures, guiding: Guiding, seed: int = 0
) -> Float[Tensor, "K R R"]:
    """A sample whose estimate at each step is moved towards the views: x_hat - gain sigma^(2 - 2 w)
    alpha^(2 w - 1) dL/dz, through decoder and denoiser, with w = diffusion.power.

    L is the squared error, summed over as many pixels of each view as a training picture has. So the effect of the
    gain does not depend on the size of the given pictures.
    """
    require_plain(model, "guided sampling")
    power = model.config.diffusion.power
    pixels = len(views.images) * model.viewpoint.size**2
    rays = _Rays(views, guiding.rays, model.device, seed, "latent/guide")

    def guided(z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = per_sample(model.schedule.alpha(t), z), per_sample(model.schedule.sigma(t), z)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            clean = model.clean(z, t)
            code = model.statistics.denormalise(clean)[0]
            loss = _squared_error(model, code, *next(rays)) * pixels
            (gradient,) = torch.autograd.grad(loss, z)
        step = guiding.gain * sigma ** (2 - 2 * power) * alpha ** (2 * power - 1)
        return model.within(clean.detach() - step * gradient)

    correct = _corrector(model, guided, guiding, seed) if guiding.correctors else None
    noise = draw_noise(model, [0], seed)
    return model.codes_of(integrate(guided, noise, model.schedule, guiding.steps, after=correct))[0].detach()


def finetuned(
    model: LatentModel,
    code: Float[Tensor, "K R R"],
    views: PosedPictures,
    finetuning: Finetuning,
    seed: int = 0,
) -> Float[Tensor, "K R R"]:
    """The code after steps of Adam along the gradients of both losses. The networks stay as they are."""
    if not finetuning.outer:
        return code
    rendering = model.config.rendering
    grids = ObjectGrids(rendering, model.device)
    density = torch.zeros((rendering.cells,) * 3)
    rays = _Rays(views, finetuning.rays, model.device, seed, "latent/finetune")
    parameters = nn.Parameter(deactivate(model.planes(code[None])[0]))
    adam = torch.optim.Adam([parameters], finetuning.learning_rate, fused=True)
    slower = torch.optim.lr_scheduler.ExponentialLR(adam, finetuning.decay)
    for outer in range(finetuning.outer):
        prior = _prior_gradient(model, parameters, finetuning.prior, seed, outer)
        density = grids.update(
            model.decoder, activate(parameters).detach(), density, seed, "latent/finetune/look", outer
        )
        occupied = grids.occupied(density)
        for inner in range(finetuning.inner):
            cameras, colors = next(rays)
            field = model.decoder.field(activate(parameters), occupied)
            jitter = generator(seed, "latent/finetune/jitter", outer * finetuning.inner + inner)
            rgb = model.renderer(field, cameras, torch.ones(3, device=model.device), rng=jitter).rgb
            loss = rendering_loss(rgb.reshape(-1, 3), colors, rendering.weight, len(views.images))
            adam.zero_grad()
            loss.backward()
            if prior is not None and parameters.grad is not None:
                parameters.grad += prior
            adam.step()
            slower.step()
    return as_pictures(activate(parameters.detach())[None])[0]


@dataclass(frozen=True)
class Reconstructed:
    """Other views of an object from given ones, in the form that `threedgen eval` takes."""

    model: LatentModel
    how: Reconstruction = field(default_factory=Reconstruction)

    def __call__(self, given: PosedPictures, cameras: Cameras, seed: int = 0) -> RenderOutput:
        return render_code(self.model, reconstruct(self.model, given, self.how, seed), cameras)


class _Rays:
    """Batches of `count` pixels of views, each drawn anew, or all pixels if the count is 0.

    pixels: number of pixels of all views together.
    """

    def __init__(
        self, views: PosedPictures, count: int, device: torch.device, seed: int, stream: str
    ) -> None:
        self.pixels = views.images.shape[:3].numel()
        self._cameras, self._colors = views.cameras.to(device), views.images.to(device)
        self._count, self._seed, self._stream, self._drawn = count, seed, stream, 0

    def __iter__(self) -> Iterator[tuple[Cameras, Float[Tensor, "N 3"]]]:
        return self

    def __next__(self) -> tuple[Cameras, Float[Tensor, "N 3"]]:
        if not 0 < self._count < self.pixels:
            return self._cameras, self._colors.reshape(-1, 3)
        rng = generator(self._seed, self._stream, self._drawn)
        self._drawn += 1
        chosen = torch.randint(self.pixels, (self._count,), generator=rng).to(self._colors.device)
        return single_pixels(self._cameras, chosen), self._colors.reshape(-1, 3)[chosen]


def _squared_error(
    model: LatentModel,
    code: Float[Tensor, "K R R"],
    cameras: Cameras,
    colors: Float[Tensor, "N 3"],
) -> Float[Tensor, ""]:
    """Half of the mean over pixels of the squared error, which is summed over rgb."""
    rgb = model.renderer(model.field(code), cameras, torch.ones(3, device=model.device)).rgb
    return 0.5 * (rgb.reshape(-1, 3) - colors).square().sum(1).mean()


def _prior_gradient(
    model: LatentModel, parameters: nn.Parameter, weight: float, seed: int, outer: int
) -> Tensor | None:
    """The gradient of lambda_diff L_diff in the parameters; None if the weight is 0."""
    if not weight:
        return None
    draws = [generator(seed, "latent/finetune/noise", outer)]
    loss = model.prior_loss(as_pictures(activate(parameters)[None]), draws)
    (gradient,) = torch.autograd.grad(model.statistics.weight(weight) * loss.sum(), parameters)
    return gradient


def _corrector(model: LatentModel, denoise: Any, guiding: Guiding, seed: int) -> Any:
    """Langevin steps at one noise level: z - 1/2 delta sigma eps_hat + sqrt(delta) sigma n."""

    def correct(z: Tensor, t: Tensor, step: int) -> Tensor:
        alpha, sigma = per_sample(model.schedule.alpha(t), z), per_sample(model.schedule.sigma(t), z)
        for number in range(guiding.correctors):
            eps = (z - alpha * denoise(z, t)) / sigma
            rng = generator(seed, f"latent/langevin/{number}", step)
            fresh = torch.randn(z.shape, generator=rng).to(z)
            z = z - 0.5 * guiding.delta * sigma * eps + guiding.delta**0.5 * sigma * fresh
        return z

    return correct
