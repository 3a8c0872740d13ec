"""Priors whose score is known in closed form: the oracles of every objective's tests (METHODS 0.6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.guidance.priors.base import Condition, NoiseSchedule, Prediction, per_sample, resize_images

MeanImages = Callable[[Condition], Float[Tensor, "B K H W 3"]]


class MixturePrior:
    """p(x) = sum_k pi_k N(mu_k, s_k^2 I) over images in [-1, 1] (METHODS 0.6), any float type.

    means:   condition -> [B, K, H, W, 3] pictures in [0, 1]: the modes for each sample's prompt and camera.
    stds:    K standard deviations s_k > 0, in z units (a picture spans 2). weights: K, need not sum to 1.
    size:    H = W.
    """

    latent = False
    default_scale = 1.0

    def __init__(
        self,
        means: MeanImages,
        stds: Sequence[float],
        size: int,
        weights: Sequence[float] | None = None,
        camera_conditioned: bool = False,
        schedule: NoiseSchedule | None = None,
    ) -> None:
        weights = [1.0] * len(stds) if weights is None else weights
        if len(weights) != len(stds) or min(stds) <= 0.0 or min(weights) <= 0.0:
            raise ValueError("stds and weights must be equally many and positive")
        self.means = means
        self.stds = torch.tensor(stds, dtype=torch.float64)
        self.log_weights = torch.tensor(weights, dtype=torch.float64).log()
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
        return self.schedule.add_noise(x, eps, t)

    def prepare(self, prompts: Sequence[str]) -> None:
        """Nothing to embed."""

    @torch.no_grad()
    def predict(
        self, z: Float[Tensor, "B 3 h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> Prediction:
        """x0 = sum_k r_k [mu_k + alpha s_k^2 (z - alpha mu_k) / D_k] with D_k = alpha^2 s_k^2 + sigma^2."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        means = self.means(condition).to(z).permute(0, 1, 4, 2, 3) * 2.0 - 1.0
        a, s = per_sample(alpha, means), per_sample(sigma, means)
        variance = self.stds.to(z).square().reshape(1, -1, 1, 1, 1)
        spread = a.square() * variance + s.square()
        residual = z.unsqueeze(1) - a * means
        log_density = -0.5 * (residual.square() / spread + spread.log()).flatten(2).sum(2)
        share = torch.softmax(self.log_weights.to(z) + log_density, dim=1)
        modes = means + a * variance * residual / spread
        x0 = (share.reshape(*share.shape, 1, 1, 1) * modes).sum(1)
        return Prediction.from_x0(z, x0, alpha, sigma)


def by_prompt(images: Mapping[str, Float[Tensor, "H W 3"]]) -> MeanImages:
    """One mode a prompt: conditional, unconditional ("") and negative branches each with their own mean."""

    def means(condition: Condition) -> Tensor:
        return torch.stack([images[prompt] for prompt in condition.prompts]).unsqueeze(1)

    return means


class DiscPrior(MixturePrior):
    """A Gaussian around one disc on white, the same from every view: a prior without weights or text.

    What it distils into is a ball of the given colour, whatever the prompt: for trying a loop, a renderer
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
        # A one-pixel ramp at the rim: its area, and so the ball's size, is not quantised to pixels.
        inside = ((radius - distance) * size / 2.0 + 0.5).clamp(0.0, 1.0).unsqueeze(2)
        image = inside * torch.tensor(color, device=device) + (1.0 - inside)

        def means(condition: Condition) -> Tensor:
            return image.expand(len(condition), 1, *image.shape)

        super().__init__(means, [std], size)
