"""The contract between an objective and a frozen diffusion model.

A prior noises by z = alpha(t) x + sigma(t) eps with t in [0, 1] and 0 = clean: variance preserving (alpha^2 +
sigma^2 = 1), rectified flow (alpha + sigma = 1) or variance exploding (alpha = 1). `x` is what the network
denoises, channels first: pixels in [-1, 1] or scaled latents. Pictures outside this contract are channels-last
RGB in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.types import Cameras
from threedgen.guidance.priors.processes import SMALLEST_LEVEL, per_sample


@dataclass(frozen=True)
class Prediction:
    """One denoiser's answer in its equivalent forms, each [B, C, h, w]; v = alpha eps - sigma x0.

    Each form is a linear function of each other one at fixed z, so a combination of predictions whose
    coefficients sum to one may be formed on all three at once (METHODS 0.2).
    """

    eps: Float[Tensor, "B C h w"]
    x0: Float[Tensor, "B C h w"]
    v: Float[Tensor, "B C h w"]

    @property
    def flow(self) -> Float[Tensor, "B C h w"]:
        """The rectified-flow velocity, eps - x0: another v than `v`, which is a rotation of both."""
        return self.eps - self.x0

    @classmethod
    def from_eps(cls, z: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """From a noise prediction. alpha, sigma: [B]; alpha must not be 0 (x0 is undefined there)."""
        a, s = per_sample(alpha, z), per_sample(sigma, z)
        x0 = (z - s * eps) / a
        return cls(eps=eps, x0=x0, v=a * eps - s * x0)

    @classmethod
    def from_v(cls, z: Tensor, v: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """From a variance-preserving velocity prediction: exact at every t of such a process."""
        a, s = per_sample(alpha, z), per_sample(sigma, z)
        return cls(eps=s * z + a * v, x0=a * z - s * v, v=v)

    @classmethod
    def from_flow(cls, z: Tensor, flow: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """From a rectified-flow velocity, dz/dt = eps - x0, where alpha + sigma = 1: exact at every t."""
        a, s = per_sample(alpha, z), per_sample(sigma, z)
        eps, x0 = z + a * flow, z - s * flow
        return cls(eps=eps, x0=x0, v=a * eps - s * x0)

    @classmethod
    def from_x0(cls, z: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """From a prediction of the clean sample. At sigma = 0, where eps is undefined, it is finite and no more:
        a weight that vanishes there makes 0 of it."""
        a, s = per_sample(alpha, z), per_sample(sigma, z)
        eps = (z - a * x0) / s.clamp_min(SMALLEST_LEVEL)
        return cls(eps=eps, x0=x0, v=a * eps - s * x0)

    def chunk(self, parts: int) -> tuple[Prediction, ...]:
        """Split along the batch into equal parts."""
        pieces = zip(self.eps.chunk(parts), self.x0.chunk(parts), self.v.chunk(parts), strict=True)
        return tuple(Prediction(*piece) for piece in pieces)


@dataclass(frozen=True)
class Blend:
    """A mixture of texts: sum_i share_i embedding(text_i), for prompts between two views (METHODS 1.4, 1.11)."""

    texts: tuple[str, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.shares) or not self.texts:
            raise ValueError(f"{len(self.texts)} texts for {len(self.shares)} shares")


Text = str | Blend


@dataclass(frozen=True)
class Reference:
    """The picture that view-conditioned priors start from, and where it was seen from.

    image: [H, W, 3] in [0, 1]. azimuth, elevation: degrees, as cameras.spherical gives them. distance: world units.
    """

    image: Float[Tensor, "H W 3"]
    azimuth: float = 0.0
    elevation: float = 0.0
    distance: float = 1.0


@dataclass(frozen=True)
class Condition:
    """What each of B samples shall show.

    prompts:   B texts. negative: the text of the unconditional branch ("" = none), shared by all.
    cameras:   the B views, or None when unknown; read by camera-conditioned priors only.
    opposed:   K texts with a weight <= 0 for each sample, or (): what Perp-Neg pushes away from (METHODS 1.11).
    reference: the picture the views belong to, read by view-conditioned priors only.
    pictures:  [B, H, W, 3] in [0, 1], one a sample: what a control or editing network follows.
    times:     [B, F] in [0, 1], when the frames of each sample are, where samples are clips; the cameras are then
               those of the clips.
    dropped:   the unconditional branch: reference and pictures are replaced as the network was trained to.
    """

    prompts: tuple[Text, ...]
    negative: str = ""
    cameras: Cameras | None = None
    opposed: tuple[tuple[tuple[Text, float], ...], ...] = ()
    reference: Reference | None = None
    pictures: Float[Tensor, "B H W 3"] | None = None
    times: Float[Tensor, "B F"] | None = None
    dropped: bool | tuple[bool, ...] = False

    def __post_init__(self) -> None:
        if self.cameras is not None and len(self.cameras) != len(self.prompts):
            raise ValueError(f"{len(self.prompts)} prompts for {len(self.cameras)} cameras")
        if self.opposed and len(self.opposed) != len(self.prompts):
            raise ValueError(f"{len(self.opposed)} opposed texts for {len(self.prompts)} prompts")
        if self.pictures is not None and len(self.pictures) != len(self.prompts):
            raise ValueError(f"{len(self.pictures)} pictures for {len(self.prompts)} prompts")

    def __len__(self) -> int:
        return len(self.prompts)

    def unconditional(self) -> Condition:
        """The same views with the negative prompt: the other branch of classifier-free guidance."""
        return replace(self, prompts=(self.negative,) * len(self), opposed=(), dropped=True)

    def null(self) -> Condition:
        """The same views with the empty text, whatever the negative prompt says."""
        return replace(self, prompts=("",) * len(self), opposed=(), dropped=True)

    def saying(self, prompts: Iterable[Text]) -> Condition:
        """The same views with other texts."""
        return replace(self, prompts=tuple(prompts), opposed=())

    def drops(self) -> tuple[bool, ...]:
        """`dropped` for each sample."""
        return self.dropped if isinstance(self.dropped, tuple) else (self.dropped,) * len(self)

    def followed_by(self, *others: Condition) -> Condition:
        """All conditions as one batch. They may differ in texts and in what is dropped, in nothing else."""
        for other in others:
            for name in ("cameras", "reference", "pictures", "times"):
                if getattr(other, name) is not getattr(self, name):
                    raise ValueError(f"only conditions over the same {name} can share a batch")
        parts = (self, *others)
        cameras = self.cameras
        if cameras is not None:
            cameras = cameras[torch.arange(len(cameras), device=cameras.device).repeat(len(parts))]
        return replace(
            self,
            prompts=tuple(text for part in parts for text in part.prompts),
            cameras=cameras,
            opposed=(),
            pictures=None if self.pictures is None else self.pictures.repeat(len(parts), 1, 1, 1),
            times=None if self.times is None else self.times.repeat(len(parts), 1),
            dropped=tuple(drop for part in parts for drop in part.drops()),
        )


class ParticleModel(Protocol):
    """A denoiser that learns the distribution of one scene's renders: VSD's second network (METHODS 1.7).

    An nn.Module whose parameters are what it adds to a frozen prior, nothing of the prior itself.
    """

    def predict(
        self, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> Prediction:
        """Its answer, detached. The texts and cameras of `condition` are read, no guidance is applied."""
        ...

    def denoising_loss(
        self,
        x: Float[Tensor, "B C h w"],
        eps: Float[Tensor, "B C h w"],
        t: Float[Tensor, " B"],
        condition: Condition,
    ) -> Float[Tensor, ""]:
        """Mean squared error of its own prediction target, differentiable in its parameters; x is detached."""
        ...


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
