"""Priors whose score is known in closed form, for the tests of objectives (docs/methods.md, "Priors in closed
form")."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.cameras.orbit import spherical
from threedgen.core.errors import UserError
from threedgen.core.pictures import resize_images
from threedgen.guidance.priors.base import (
    Blend,
    Condition,
    ParticleModel,
    Prediction,
    Prior,
    PriorRoles,
    Text,
    WrappedPrior,
    roles_of,
)
from threedgen.guidance.priors.processes import NoiseSchedule, Process, add_noise, per_sample

MeanImages = Callable[[Condition], Float[Tensor, "B K H W 3"]]
Spreads = Callable[[Condition], Float[Tensor, "B K"]]
Form = Literal["vp", "ve", "flow"]
Network = Literal["eps", "v", "x0", "flow"]


class MixturePrior(PriorRoles):
    """p(x) = sum_k pi_k N(mu_k, s_k^2 I) over images in [-1, 1], of any float type.

    means:    condition -> [B, K, H, W, 3] pictures in [0, 1]: the modes for the prompt and camera of each sample.
    stds:     K standard deviations s_k > 0 in z units (a picture spans 2), or condition -> [B, K] of them.
    weights:  K, need not sum to 1. size: H = W in pixels. schedule: the process; None: variance preserving.

    Raises ValueError if stds and weights are not equally many and positive.
    """

    latent = False
    default_scale = 1.0

    def __init__(
        self,
        means: MeanImages,
        stds: Sequence[float] | Spreads,
        size: int,
        weights: Sequence[float] | None = None,
        camera_conditioned: bool = False,
        schedule: Process | None = None,
    ) -> None:
        if not callable(stds):
            weights = [1.0] * len(stds) if weights is None else weights
            if len(weights) != len(stds) or min(stds) <= 0.0 or min(weights) <= 0.0:
                raise ValueError("stds and weights must be equally many and positive")
        self.means = means
        self.stds = stds if callable(stds) else _everywhere(stds)
        self.log_weights = torch.tensor(weights or [1.0], dtype=torch.float64).log()
        self.image_size = size
        self.camera_conditioned = camera_conditioned
        self.schedule = schedule or NoiseSchedule.scaled_linear()

    def encode(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 h w"]:
        return resize_images(images, self.image_size).permute(0, 3, 1, 2) * 2.0 - 1.0

    def decode(self, x: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B H W 3"]:
        return (x.permute(0, 2, 3, 1) + 1.0) / 2.0

    def alpha(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.schedule.alpha(t)

    def sigma(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.schedule.sigma(t)

    def add_noise(self, x: Tensor, eps: Tensor, t: Float[Tensor, " B"]) -> Tensor:
        return add_noise(self.schedule, x, eps, t)

    def prepare(self, prompts: Sequence[str]) -> None:
        """There is nothing to embed."""

    @torch.no_grad()
    def predict(
        self, z: Float[Tensor, "B 3 h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> Prediction:
        """x0 = sum_k r_k [mu_k + alpha s_k^2 (z - alpha mu_k) / D_k] with D_k = alpha^2 s_k^2 + sigma^2.

        eps = sum_k r_k sigma (z - alpha mu_k) / D_k beside it: both are exact at alpha = 0 and at sigma = 0.
        """
        alpha, sigma = self.alpha(t), self.sigma(t)
        means = self.means(condition).to(z).permute(0, 1, 4, 2, 3) * 2.0 - 1.0
        a, s = per_sample(alpha, means), per_sample(sigma, means)
        stds = self.stds(condition).to(z)
        variance = stds.square().reshape(*stds.shape, 1, 1, 1)
        spread = a.square() * variance + s.square()
        residual = z.unsqueeze(1) - a * means
        density = (residual.square() / spread + spread.log()).flatten(2).sum(2)
        share = torch.softmax(self.log_weights.to(z) - 0.5 * density, dim=1)
        share = share.reshape(*share.shape, 1, 1, 1)
        x0 = (share * (means + a * variance * residual / spread)).sum(1)
        eps = (share * (s * residual / spread)).sum(1)
        return _prediction(eps, x0, alpha, sigma)

    def particle_model(self, kind: str, rank: int, seed: int) -> GaussianParticles:
        """A Gaussian of its own. kind: auto (fitted in closed form) or copy (learned by gradient descent)."""
        if kind == "lora":
            raise UserError("an analytic prior has no attention to adapt: set options.kind to auto or copy")
        return GaussianParticles(self, fitted=kind == "auto")


def _prediction(eps: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
    return Prediction(eps, x0, per_sample(alpha, eps) * eps - per_sample(sigma, x0) * x0)


def _everywhere(stds: Sequence[float]) -> Spreads:
    values = torch.tensor(stds, dtype=torch.float64)
    return lambda condition: values.expand(len(condition), -1)


def gaussian(image: Float[Tensor, "H W 3"], std: float, schedule: Process | None = None) -> MixturePrior:
    """N(image, std^2 I) for every prompt and camera."""
    return MixturePrior(
        lambda condition: image.expand(len(condition), 1, *image.shape), [std], len(image), schedule=schedule
    )


def by_prompt(images: Mapping[str, Float[Tensor, "H W 3"]]) -> MeanImages:
    """One mode for each prompt: the conditional, unconditional ("") and negative branches have means of their own.

    The mean of a Blend of prompts is the blend of their means.
    """

    def mean(text: Text) -> Tensor:
        if isinstance(text, Blend):
            weighted = zip(text.texts, text.shares, strict=True)
            return torch.stack([share * images[one] for one, share in weighted]).sum(0)
        return images[text]

    return lambda condition: torch.stack([mean(text) for text in condition.prompts]).unsqueeze(1)


def spread_by_prompt(stds: Mapping[str, float]) -> Spreads:
    """The standard deviation of the one mode of each prompt, to use with `by_prompt`."""
    return lambda condition: torch.tensor(
        [[stds[str(text)]] for text in condition.prompts], dtype=torch.float64
    )


def by_azimuth(images: Float[Tensor, "N H W 3"]) -> MeanImages:
    """One mode for each camera: the nearest of N pictures taken at equal angles around +Y, the first from the
    front."""

    def means(condition: Condition) -> Tensor:
        if condition.cameras is None:
            raise ValueError("this prior needs to know the cameras")
        turn = spherical(condition.cameras)[0] / 360.0 * len(images)
        return images[turn.round().long() % len(images)].unsqueeze(1)

    return means


class Rewritten(WrappedPrior):
    """The same prior in another form: the same answer to the same question, up to rounding.

    form:    vp, ve or flow: the process with the same ratio of noise to signal at each t; None: unchanged.
    network: eps, v, x0 or flow: the assumed output of the network behind the prior, from which all other forms are
             computed. v belongs to a vp process, flow to a flow process; anything else is a ValueError.
    """

    def __init__(self, prior: Prior, form: Form | None = None, network: Network | None = None) -> None:
        super().__init__(prior)
        if (network == "v" and form not in (None, "vp")) or (
            network == "flow" and form not in (None, "flow")
        ):
            raise ValueError(f"a {network} network does not belong to a {form} process")
        self.form, self.network = form, network

    def length(self, t: Tensor) -> Tensor:
        """The number by which z of the wrapped prior is divided."""
        alpha, sigma = self.prior.alpha(t), self.prior.sigma(t)
        if self.form == "vp":
            return (alpha.square() + sigma.square()).sqrt()
        if self.form == "ve":
            return alpha
        return alpha + sigma if self.form == "flow" else torch.ones_like(alpha)

    def alpha(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.prior.alpha(t) / self.length(t)

    def sigma(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.prior.sigma(t) / self.length(t)

    def add_noise(self, x: Tensor, eps: Tensor, t: Float[Tensor, " B"]) -> Tensor:
        return per_sample(self.alpha(t), x) * x + per_sample(self.sigma(t), x) * eps

    def predict(self, z: Tensor, t: Float[Tensor, " B"], condition: Condition) -> Prediction:
        alpha, sigma = self.alpha(t), self.sigma(t)
        inner = self.prior.predict(z * per_sample(self.length(t), z), t, condition)
        answer = _prediction(inner.eps, inner.x0, alpha, sigma)
        if self.network is None:
            return answer
        return getattr(Prediction, f"from_{self.network}")(z, getattr(answer, self.network), alpha, sigma)

    def particle_model(self, kind: str, rank: int, seed: int) -> RewrittenParticles:
        return RewrittenParticles(roles_of(self.prior).particle_model(kind, rank, seed), self)


class RewrittenParticles(nn.Module):
    """The particle model of the prior behind a Rewritten one, under the same change of process."""

    def __init__(self, model: ParticleModel, outer: Rewritten) -> None:
        super().__init__()
        self.model = model
        self._outer = outer

    def predict(self, z: Tensor, t: Float[Tensor, " B"], condition: Condition) -> Prediction:
        inner = self.model.predict(z * per_sample(self._outer.length(t), z), t, condition)
        return _prediction(inner.eps, inner.x0, self._outer.alpha(t), self._outer.sigma(t))

    def denoising_loss(
        self, x: Tensor, eps: Tensor, t: Float[Tensor, " B"], condition: Condition
    ) -> Float[Tensor, ""]:
        return self.model.denoising_loss(x, eps, t, condition)


class GaussianParticles(nn.Module):
    """A ParticleModel in closed form: the denoiser of N(mean, std^2) with a mean and a std for each pixel.

    fitted: mean and std are those of the last batch; otherwise they are learned by descent on the denoising loss.
    """

    def __init__(self, prior: MixturePrior, fitted: bool) -> None:
        super().__init__()
        shape = (3, prior.image_size, prior.image_size)
        self.mean = nn.Parameter(torch.zeros(shape))
        self.log_std = nn.Parameter(torch.zeros(shape))
        self._process, self._fitted = prior.schedule, fitted

    def _answer(self, z: Tensor, t: Tensor) -> Prediction:
        alpha, sigma = self._process.alpha(t), self._process.sigma(t)
        a, s = per_sample(alpha, z), per_sample(sigma, z)
        mean, variance = self.mean.to(z), (2.0 * self.log_std).exp().to(z)
        residual = (z - a * mean) / (a.square() * variance + s.square())
        return _prediction(s * residual, mean + a * variance * residual, alpha, sigma)

    @torch.no_grad()
    def predict(self, z: Tensor, t: Float[Tensor, " B"], condition: Condition) -> Prediction:
        return self._answer(z, t)

    def denoising_loss(
        self, x: Tensor, eps: Tensor, t: Float[Tensor, " B"], condition: Condition
    ) -> Float[Tensor, ""]:
        x = x.detach()
        if self._fitted:
            with torch.no_grad():
                self.mean.copy_(x.mean(0))
                self.log_std.copy_(x.std(0, unbiased=False).clamp_min(1e-6).log())
        loss = (self._answer(add_noise(self._process, x, eps, t), t).eps - eps).square().mean()
        # After a fit in closed form nothing is left for gradient descent.
        return loss.detach() + 0.0 * self.log_std.sum() if self._fitted else loss


class DiscPrior(MixturePrior):
    """A Gaussian around one disc on white, the same from every view: a prior without weights or text.

    Whatever the prompt, distillation with it gives a ball of the given colour. It serves to try a loop, a renderer
    or a recipe in seconds. size: pixels. radius: as a share of half the picture. std: in z units.
    """

    def __init__(
        self,
        size: int = 32,
        std: float = 0.2,
        radius: float = 0.6,
        color: tuple[float, float, float] = (0.8, 0.2, 0.2),
        device: torch.device | str = "cpu",
    ) -> None:
        axis = (torch.arange(size, device=device) + 0.5) * (2.0 / size) - 1.0
        distance = torch.sqrt(axis.square().unsqueeze(0) + axis.square().unsqueeze(1))
        # With a ramp of one pixel at the rim the area, and so the size of the ball, is not quantised to pixels.
        inside = ((radius - distance) * size / 2.0 + 0.5).clamp(0.0, 1.0).unsqueeze(2)
        image = inside * torch.tensor(color, device=device) + (1.0 - inside)

        def means(condition: Condition) -> Tensor:
            return image.expand(len(condition), 1, *image.shape)

        super().__init__(means, [std], size)
