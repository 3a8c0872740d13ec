"""The contract between an objective and a frozen diffusion model.

Every prior is variance preserving: z = alpha(t) x + sigma(t) eps with alpha^2 + sigma^2 = 1, and t in
[0, 1] with 0 = clean. `x` is what the network denoises, channels first: pixels in [-1, 1] or scaled
latents. Pictures outside this contract are channels-last RGB in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.types import Cameras


def per_sample(values: Float[Tensor, " B"], like: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
    """[B] -> [B, 1, 1, ...] so that it multiplies one number onto each sample of `like`."""
    return values.to(like).reshape(-1, *(1,) * (like.ndim - 1))


@dataclass(frozen=True)
class Prediction:
    """One denoiser's answer in its three equivalent forms, each [B, C, h, w]; v = alpha eps - sigma x0.

    Each form is a linear function of each other one at fixed z, so a combination of predictions whose
    coefficients sum to one may be formed on all three at once (METHODS 0.2).
    """

    eps: Float[Tensor, "B C h w"]
    x0: Float[Tensor, "B C h w"]
    v: Float[Tensor, "B C h w"]

    @classmethod
    def from_eps(cls, z: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """From a noise prediction. alpha, sigma: [B]; alpha must not be 0 (x0 is undefined there)."""
        a, s = per_sample(alpha, z), per_sample(sigma, z)
        x0 = (z - s * eps) / a
        return cls(eps=eps, x0=x0, v=a * eps - s * x0)

    @classmethod
    def from_v(cls, z: Tensor, v: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """From a velocity prediction (variance-preserving v, not the flow v): exact at every t."""
        a, s = per_sample(alpha, z), per_sample(sigma, z)
        return cls(eps=s * z + a * v, x0=a * z - s * v, v=v)

    @classmethod
    def from_x0(cls, z: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """From a prediction of the clean sample. sigma must not be 0 (eps is undefined there)."""
        a, s = per_sample(alpha, z), per_sample(sigma, z)
        eps = (z - a * x0) / s
        return cls(eps=eps, x0=x0, v=a * eps - s * x0)

    def chunk(self, parts: int) -> tuple[Prediction, ...]:
        """Split along the batch into equal parts."""
        pieces = zip(self.eps.chunk(parts), self.x0.chunk(parts), self.v.chunk(parts), strict=True)
        return tuple(Prediction(*piece) for piece in pieces)


@dataclass(frozen=True)
class Condition:
    """What each of B samples shall show.

    prompts:   B texts. negative: the text of the unconditional branch ("" = none), shared by all.
    cameras:   the B views, or None when unknown; read by camera-conditioned priors only.
    """

    prompts: tuple[str, ...]
    negative: str = ""
    cameras: Cameras | None = None

    def __post_init__(self) -> None:
        if self.cameras is not None and len(self.cameras) != len(self.prompts):
            raise ValueError(f"{len(self.prompts)} prompts for {len(self.cameras)} cameras")

    def __len__(self) -> int:
        return len(self.prompts)

    def unconditional(self) -> Condition:
        """The same views with the negative prompt: the other branch of classifier-free guidance."""
        return replace(self, prompts=(self.negative,) * len(self))

    def followed_by(self, other: Condition) -> Condition:
        """Both conditions as one batch. The cameras must be the same (or absent in both)."""
        if self.cameras is None:
            return replace(self, prompts=self.prompts + other.prompts)
        if other.cameras is not self.cameras:
            raise ValueError("only conditions over the same cameras can share a batch")
        twice = torch.arange(len(self.cameras), device=self.cameras.device).repeat(2)
        return replace(self, prompts=self.prompts + other.prompts, cameras=self.cameras[twice])


@runtime_checkable
class Prior(Protocol):
    """A frozen denoiser. Implementations never track gradients through the network itself."""

    image_size: int
    """Height and width in pixels of the pictures it was trained on."""
    latent: bool
    """True when z is a latent: decoding then costs a network pass."""
    camera_conditioned: bool
    """True when it reads `Condition.cameras`; without them it is told "any camera"."""
    default_scale: float
    """The guidance scale that suits it: a property of the prior, not of the method."""

    def encode(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        """Pictures in [0, 1] of any size -> clean samples at the native size; differentiable."""
        ...

    def decode(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B H W 3"]:
        """Clean samples -> pictures; values may leave [0, 1] (clamp to show)."""
        ...

    def alpha(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Signal level at t in [0, 1]."""
        ...

    def sigma(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Noise level at t in [0, 1]."""
        ...

    def add_noise(self, x: Tensor, eps: Tensor, t: Float[Tensor, " B"]) -> Float[Tensor, "B C h w"]:
        """z = alpha(t) x + sigma(t) eps."""
        ...

    def predict(
        self, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> Prediction:
        """The denoiser's answer, detached from every graph."""
        ...

    def prepare(self, prompts: Sequence[str]) -> None:
        """Embed these texts now; afterwards the text encoder may be dropped from memory."""
        ...


class NoiseSchedule:
    """alpha and sigma over t in [0, 1], read from a table of cumulative products.

    t maps to the table index clamp(round(t T), 0, T - 1), so t = 0.98 is step 980 of 1000 as in the
    reference implementations, and the network and the noise always see the same step.
    """

    def __init__(self, alphas_cumprod: Float[Tensor, " T"]) -> None:
        self.alphas_cumprod = alphas_cumprod.detach()

    @classmethod
    def scaled_linear(cls, steps: int = 1000, start: float = 0.00085, end: float = 0.012) -> NoiseSchedule:
        """Stable Diffusion's table: beta linear in its square root (METHODS 0.1), in float64."""
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()
        return cls(torch.cumprod(1.0 - betas, 0))

    def timestep(self, t: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The integer step the network is told."""
        steps = len(self.alphas_cumprod)
        return (t * steps).round().long().clamp(0, steps - 1)

    def _lookup(self, t: Tensor) -> Tensor:
        return self.alphas_cumprod.to(t.device)[self.timestep(t)]

    def alpha(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self._lookup(t).sqrt().to(t.dtype)

    def sigma(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return (1.0 - self._lookup(t)).sqrt().to(t.dtype)

    def add_noise(self, x: Tensor, eps: Tensor, t: Float[Tensor, " B"]) -> Tensor:
        return per_sample(self.alpha(t), x) * x + per_sample(self.sigma(t), x) * eps


def resize_images(images: Float[Tensor, "B H W 3"], size: int) -> Float[Tensor, "B size size 3"]:
    """Differentiable resize to a square: exact box average for whole factors, else antialiased bilinear.

    Without antialiasing a reduced render would pass its gradient to a few of its pixels only. Raises
    ValueError for pictures that are not square: a prior would be shown, and would teach, a stretched scene.
    """
    height, width = images.shape[1:3]
    if height != width:
        raise ValueError(f"a prior sees square pictures, got {height} x {width}")
    if height == size:
        return images
    planes = images.permute(0, 3, 1, 2)
    if height % size == 0:
        planes = F.avg_pool2d(planes, height // size)
    else:
        planes = F.interpolate(
            planes, (size, size), mode="bilinear", antialias=height > size, align_corners=False
        )
    return planes.permute(0, 2, 3, 1)
