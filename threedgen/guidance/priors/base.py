"""The contract between an objective and a frozen diffusion model.

A prior adds noise by z = alpha(t) x + sigma(t) eps with t in [0, 1], where t = 0 is clean. Its process is variance
preserving (alpha^2 + sigma^2 = 1), rectified flow (alpha + sigma = 1) or variance exploding (alpha = 1). `x` is
what the network denoises, channels first: pixels in [-1, 1] or scaled latents. All other pictures are channels
last, RGB in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.types import Cameras
from threedgen.guidance.priors.processes import SMALLEST_LEVEL, per_sample
from threedgen.guidance.priors.view_layout import ViewLayout

ImageCondition = Literal["none", "reference", "optional-reference", "pictures", "render"]
Shows = Literal["colors", "normals"]


@dataclass(frozen=True)
class Prediction:
    """The output of a denoiser in its equivalent forms, each [B, C, h, w]; v = alpha eps - sigma x0.

    At fixed z each form is a linear function of each other form, so a combination of predictions whose coefficients
    sum to one may be computed on all three at once (docs/methods.md, "Predictions and their conversions").
    """

    eps: Float[Tensor, "B C h w"]
    x0: Float[Tensor, "B C h w"]
    v: Float[Tensor, "B C h w"]

    @property
    def flow(self) -> Float[Tensor, "B C h w"]:
        """The rectified-flow velocity eps - x0. It differs from `v`, which is a rotation of eps and x0."""
        return self.eps - self.x0

    @classmethod
    def from_eps(cls, z: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """From predicted noise. alpha, sigma: [B]; alpha must not be 0 (x0 is undefined there)."""
        a, s = per_sample(alpha, z), per_sample(sigma, z)
        x0 = (z - s * eps) / a
        return cls(eps=eps, x0=x0, v=a * eps - s * x0)

    @classmethod
    def from_v(cls, z: Tensor, v: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """From the v prediction of a variance-preserving process (Salimans and Ho 2022): exact at every t."""
        a, s = per_sample(alpha, z), per_sample(sigma, z)
        return cls(eps=s * z + a * v, x0=a * z - s * v, v=v)

    @classmethod
    def from_flow(cls, z: Tensor, flow: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """From a rectified-flow velocity, dz/dt = eps - x0, with alpha + sigma = 1: exact at every t."""
        a, s = per_sample(alpha, z), per_sample(sigma, z)
        eps, x0 = z + a * flow, z - s * flow
        return cls(eps=eps, x0=x0, v=a * eps - s * x0)

    @classmethod
    def from_x0(cls, z: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
        """From a predicted clean sample. At sigma = 0, where eps is undefined, eps is an arbitrary finite number:
        multiplied by a weight that vanishes there it gives 0."""
        a, s = per_sample(alpha, z), per_sample(sigma, z)
        eps = (z - a * x0) / s.clamp_min(SMALLEST_LEVEL)
        return cls(eps=eps, x0=x0, v=a * eps - s * x0)

    def chunk(self, count: int) -> tuple[Prediction, ...]:
        """Split along the batch into `count` equal pieces."""
        pieces = zip(self.eps.chunk(count), self.x0.chunk(count), self.v.chunk(count), strict=True)
        return tuple(Prediction(*piece) for piece in pieces)


@dataclass(frozen=True)
class Blend:
    """A mixture of texts, sum_i share_i embedding(text_i), for the prompt of a view between two sides.

    Raises ValueError if there are not as many shares as texts, or no text.
    """

    texts: tuple[str, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.shares) or not self.texts:
            raise ValueError(f"{len(self.texts)} texts for {len(self.shares)} shares")


Text = str | Blend


@dataclass(frozen=True)
class ReferenceView:
    """The given picture from which a view-conditioned prior starts, and the pose of its camera.

    image: [H, W, 3] in [0, 1]. azimuth, elevation: degrees, as cameras.spherical gives them. distance: world units.
    """

    image: Float[Tensor, "H W 3"]
    azimuth: float = 0.0
    elevation: float = 0.0
    distance: float = 1.0


@dataclass(frozen=True)
class Condition:
    """What each of B samples should show.

    prompts:   B texts. negative: the text of the unconditional branch, shared by all samples ("": the empty text).
    cameras:   the B views, or None if they are unknown; only camera-conditioned priors read them.
    opposed:   K texts with a weight <= 0 for each sample, or (): the texts that Perp-Neg pushes away from.
    reference: the picture of the object that the views show; only view-conditioned priors read it.
    pictures:  [B, H, W, 3] in [0, 1], one per sample: the input of a ControlNet or of an editing network.
    times:     [B, F] in [0, 1], the times of the frames of each sample, if samples are clips; the cameras are then
               one per clip.
    background: [B, 3] in [0, 1], the colours behind the objects, or None if they are not known; only priors with a
               field read it.
    dropped:   whether a sample belongs to the unconditional branch, in which reference and pictures are replaced in
               the way the network was trained with; one value for all samples, or one for each.

    Raises ValueError if cameras, opposed texts or pictures are not as many as the prompts.
    """

    prompts: tuple[Text, ...]
    negative: str = ""
    cameras: Cameras | None = None
    opposed: tuple[tuple[tuple[Text, float], ...], ...] = ()
    reference: ReferenceView | None = None
    pictures: Float[Tensor, "B H W 3"] | None = None
    times: Float[Tensor, "B F"] | None = None
    background: Float[Tensor, "B 3"] | None = None
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
        """The same views with the empty text, whatever the negative prompt is."""
        return replace(self, prompts=("",) * len(self), opposed=(), dropped=True)

    def saying(self, prompts: Iterable[Text]) -> Condition:
        """The same views with other texts."""
        return replace(self, prompts=tuple(prompts), opposed=())

    def drops(self) -> tuple[bool, ...]:
        """`dropped` for each sample."""
        return self.dropped if isinstance(self.dropped, tuple) else (self.dropped,) * len(self)

    def followed_by(self, *others: Condition) -> Condition:
        """All conditions as one batch. They may differ only in their texts and in `dropped`; else ValueError."""
        for other in others:
            for name in ("cameras", "reference", "pictures", "times", "background"):
                if getattr(other, name) is not getattr(self, name):
                    raise ValueError(f"only conditions over the same {name} can share a batch")
        branches = (self, *others)
        count = len(branches)
        cameras = self.cameras
        if cameras is not None:
            cameras = cameras[torch.arange(len(cameras)).repeat(count)]
        return replace(
            self,
            prompts=tuple(text for branch in branches for text in branch.prompts),
            cameras=cameras,
            opposed=(),
            pictures=None if self.pictures is None else self.pictures.repeat(count, 1, 1, 1),
            times=None if self.times is None else self.times.repeat(count, 1),
            background=None if self.background is None else self.background.repeat(count, 1),
            dropped=tuple(drop for branch in branches for drop in branch.drops()),
        )


class ParticleModel(Protocol):
    """A denoiser that learns the distribution of the renders of one scene: the second network of VSD
    (ProlificDreamer, Wang et al. 2023, arXiv:2305.16213).

    It is an nn.Module whose parameters are what it adds to a frozen prior, and nothing of the prior itself.
    """

    def predict(
        self, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> Prediction:
        """Its prediction, detached. It reads the texts and cameras of `condition` and applies no guidance."""
        ...

    def denoising_loss(
        self,
        x: Float[Tensor, "B C h w"],
        eps: Float[Tensor, "B C h w"],
        t: Float[Tensor, " B"],
        condition: Condition,
    ) -> Float[Tensor, ""]:
        """The mean squared error of its prediction, differentiable in its parameters; x is detached."""
        ...


@runtime_checkable
class Prior(Protocol):
    """A frozen denoiser. An implementation never tracks gradients through the network itself.

    What else guidances need to know of a prior is in PriorRoles, which an implementation may inherit.
    """

    image_size: int
    """Height and width, in pixels, of the pictures it was trained on."""
    latent: bool
    """True if z is a latent: decoding then costs a pass of a network."""
    camera_conditioned: bool
    """True if it reads `Condition.cameras`; without cameras it assumes any camera."""
    default_scale: float
    """The guidance scale that suits it: a property of the prior, not of the method."""

    def encode(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        """Pictures in [0, 1] of any size -> clean samples at the native size; differentiable."""
        ...

    def decode(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B H W 3"]:
        """Clean samples -> pictures, whose values may leave [0, 1] (clamp them before display)."""
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
        """The prediction of the denoiser, detached from every graph."""
        ...

    def prepare(self, prompts: Sequence[str]) -> None:
        """Embed these texts now; afterwards the text encoder may be removed from memory."""
        ...


class PriorRoles:
    """What a prior declares of itself beyond the contract, with the defaults of a text-to-image model.

    image_condition: the pictures it needs beside the text. reference: Condition.reference. optional-reference: it
        reads Condition.reference if there is one. pictures:
        Condition.pictures, one per sample, whatever they show. render: Condition.pictures, the renders themselves.
    reads_text: False if only pictures and cameras decide what it shows.
    needs_cameras: True if a condition without cameras is an error.
    frames: pictures per sample: 1, or the length of a clip.
    latent_frames: frames of the latent of a clip; 0: as many as `frames`.
    layout: how the views of an object lie in one picture, if that is a sample. `image_size` is then the side of a
        view, and pictures to encode have the shape of the layout.
    sampling_scale: the guidance scale that suits a sampler; None: `default_scale`.
    group: consecutive samples of a batch that are denoised together; their number is a multiple of it.
    shows: what its pictures show, colours or the normals of the object (`threedgen.datasets.normal_maps`).
    """

    image_condition: ImageCondition = "none"
    reads_text: bool = True
    needs_cameras: bool = False
    frames: int = 1
    latent_frames: int = 0
    layout: ViewLayout | None = None
    sampling_scale: float | None = None
    group: int = 1
    shows: Shows = "colors"

    def join(self, views: int) -> None:
        """Makes groups of `views` samples. Raises UserError if they cannot have another size."""
        if views % self.group:
            raise UserError(
                f"this prior draws {self.group} views together: set representation.views={self.group}"
            )

    def particle_model(self, kind: str, rank: int, seed: int) -> ParticleModel:
        """A second denoiser that starts as this one and learns the renders of one scene.

        kind: lora (low-rank changes of the attention), copy (all weights) or auto. rank: of the low-rank changes.
        Raises UserError if the prior has no such model.
        """
        raise UserError("the objective vsd needs a prior that can be adapted, and this one cannot: use sds")


def check_shows(name: str, shows: Shows, wanted: Shows) -> None:
    """Raises UserError unless the model `name` shows what is wanted."""
    if shows == wanted:
        return
    if wanted == "colors":
        raise UserError(
            f"the prior '{name}' shows normals, and colours are needed here: give it to the recipe direct2.5 as "
            "representation.normals, and a prior of colours here"
        )
    raise UserError(
        f"the prior '{name}' shows colours, and normals are needed here: train one with `threedgen train prior "
        "--kind multiview --shows normals`"
    )


def roles_of(prior: Prior) -> PriorRoles:
    """What a prior declares: the prior itself if it inherits PriorRoles, else the defaults."""
    return prior if isinstance(prior, PriorRoles) else PriorRoles()


class WrappedPrior(PriorRoles):
    """A prior in front of another one; a subclass overrides what it changes, and the rest is passed on."""

    def __init__(self, prior: Prior) -> None:
        roles = roles_of(prior)
        self.prior = prior
        self.image_size, self.latent = prior.image_size, prior.latent
        self.camera_conditioned, self.default_scale = prior.camera_conditioned, prior.default_scale
        self.image_condition, self.reads_text = roles.image_condition, roles.reads_text
        self.needs_cameras = roles.needs_cameras
        self.frames, self.latent_frames = roles.frames, roles.latent_frames
        self.layout, self.sampling_scale, self.group = roles.layout, roles.sampling_scale, roles.group
        self.shows = roles.shows

    def encode(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        return self.prior.encode(images)

    def decode(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B H W 3"]:
        return self.prior.decode(x)

    def alpha(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.prior.alpha(t)

    def sigma(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.prior.sigma(t)

    def add_noise(self, x: Tensor, eps: Tensor, t: Float[Tensor, " B"]) -> Float[Tensor, "B C h w"]:
        return self.prior.add_noise(x, eps, t)

    def predict(
        self, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> Prediction:
        return self.prior.predict(z, t, condition)

    def prepare(self, prompts: Sequence[str]) -> None:
        self.prior.prepare(prompts)

    def join(self, views: int) -> None:
        roles = roles_of(self.prior)
        roles.join(views)
        self.group = roles.group

    def particle_model(self, kind: str, rank: int, seed: int) -> Any:
        return roles_of(self.prior).particle_model(kind, rank, seed)
