"""Views of an object by a multi-view prior, and the Gaussians that a reconstructor makes of them.

Three ways: all views first, then one reconstruction (Hunyuan3D-1.0, Yang et al. 2024, arXiv:2411.02293); a
reconstruction at every step of the sampler, whose renders continue the trajectory (Gen-3Diffusion, Xue et al. 2024,
arXiv:2412.06698); and one at a few steps, of the answers with and without the condition, which are guided
afterwards (VideoMV, Zuo et al. 2024, arXiv:2403.12010).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from threedgen.cameras.orbit import spherical
from threedgen.core.random import generator
from threedgen.core.types import Cameras, GaussianCloud
from threedgen.guidance.priors.base import Condition, Prediction, Prior, ReferenceView, roles_of
from threedgen.reconstruction.network import GivenViews, Reconstructor
from threedgen.renderers.splatting import SplattingRenderer

_FIRST, _LAST = 0.99, 0.02  # noise levels of the first and the last step


@dataclass(frozen=True)
class Asked:
    """What the views shall show, and how they are drawn.

    prompt: a text, "" for none. picture: the given picture and its camera, or None. cameras: of the group, in order
    of rising azimuth, or those of the layout of the prior; of a clip, those of its frames. steps: of the sampler.
    scale: guidance at the first step for the view that is nearest to the picture's side, which falls to `least` at
    the last step and for the view that is farthest from it. seed: of the noise.
    """

    prompt: str
    picture: ReferenceView | None
    cameras: Cameras
    steps: int = 20
    scale: float = 1.5
    least: float = 1.0
    seed: int = 0


class Correction(Protocol):
    """What puts another clean sample in the place of the one that a prior estimates.

    each: whether the answers with and without the condition are corrected, and guided afterwards; else the guided
    one is.
    """

    each: bool

    def applies(self, step: int, steps: int) -> bool:
        """Whether a step of the sampler is one of those that are corrected."""
        ...

    def __call__(self, z: Tensor, estimate: Tensor, t: Float[Tensor, " B"]) -> Tensor:
        """What continues the trajectory of z in place of an estimate."""
        ...


@torch.no_grad()
def sample_views(
    prior: Prior, asked: Asked, correction: Correction | None = None
) -> Float[Tensor, "V H W 3"]:
    """The views of a group in [0, 1], by DDIM (Song et al. 2021) without noise of its own; if the prior has a
    layout, the tiles of one sample, and the frames of one sample if it denoises clips."""
    roles, side, device = roles_of(prior), prior.image_size, asked.cameras.device
    layout, pictures = roles.layout, len(asked.cameras)
    shape, cameras, times = (side, side), asked.cameras, None
    if roles.frames > 1:
        times, cameras = torch.linspace(0.0, 1.0, pictures, device=device)[None], asked.cameras[:1]
    elif layout is not None:
        pictures, shape, cameras = 1, (layout.rows * side, layout.columns * side), None
    like = prior.encode(torch.zeros(pictures, *shape, 3, device=device))
    count = len(like)
    z = torch.randn(like.shape, generator=generator(asked.seed, "multi-view sample", 0)).to(device)
    condition = Condition((asked.prompt,) * count, cameras=cameras, reference=asked.picture, times=times)
    levels = torch.linspace(_FIRST, _LAST, asked.steps)
    estimate = like
    for index, level in enumerate(levels):
        t = level.expand(count).to(device)
        strength = spread(prior, scales(asked, index), z)
        change = correction if correction is not None and correction.applies(index, asked.steps) else None
        inner = change if change is not None and change.each else None
        estimate = guided(prior, z, t, condition, strength, inner).x0
        if not prior.latent:
            estimate = estimate.clamp(-1.0, 1.0)
        if change is not None and inner is None:
            estimate = change(z, estimate, t)
        if index + 1 < len(levels):
            eps = Prediction.from_x0(z, estimate, prior.alpha(t), prior.sigma(t)).eps
            z = prior.add_noise(estimate, eps, levels[index + 1].expand(count).to(device))
    shown = prior.decode(estimate).clamp(0.0, 1.0)
    return shown if layout is None else layout.cut(shown)


def spread(
    prior: Prior, strength: Float[Tensor, " V"], z: Float[Tensor, "B C h w"]
) -> Float[Tensor, "#B #C #h #w"]:
    """A number for each view, in the place that the view has in samples z of a prior."""
    roles = roles_of(prior)
    if roles.layout is not None:
        return roles.layout.spread(strength, z.shape[2], z.shape[3])
    if roles.frames == 1:
        return strength[:, None, None, None]
    frames = roles.latent_frames or roles.frames  # of a latent that has fewer, each stands for several
    each = F.interpolate(strength[None, None], (frames,), mode="linear", align_corners=True)[0, 0]
    return each.repeat_interleave(z.shape[1] // frames)[None, :, None, None]


def guided(
    prior: Prior,
    z: Tensor,
    t: Tensor,
    condition: Condition,
    scale: Float[Tensor, "#B #C #h #w"],
    change: Correction | None = None,
) -> Prediction:
    """The prediction with classifier-free guidance of its own strength for each sample, or for parts of one.

    change: corrects the clean samples of both answers before they are combined.
    """
    answers = [prior.predict(z, t, condition)]
    if not bool((scale == 1.0).all()):
        answers.append(prior.predict(z, t, condition.unconditional()))
    if change is None and len(answers) == 1:
        return answers[0]
    clean = [answer.x0 for answer in answers]
    if change is not None:
        clean = [change(z, x0 if prior.latent else x0.clamp(-1.0, 1.0), t) for x0 in clean]
    x0 = clean[-1] + scale.to(z) * (clean[0] - clean[-1])
    return Prediction.from_x0(z, x0, prior.alpha(t), prior.sigma(t))


def scales(asked: Asked, step: int) -> Float[Tensor, " V"]:
    """The guidance of each view at a step: strong at first and near the picture, where what is to be seen is known;
    weak at the end and behind, where guidance would only exaggerate colours (Hunyuan3D-1.0, adaptive guidance)."""
    near = torch.ones(len(asked.cameras))
    if asked.picture is not None:
        turn = spherical(asked.cameras)[0].cpu() - asked.picture.azimuth
        near = 0.5 + 0.5 * torch.deg2rad(turn).cos()
    left = 1.0 - step / max(asked.steps - 1, 1)
    return asked.least + (asked.scale - asked.least) * left * near


def at_places(places: Sequence[float], step: int, steps: int) -> bool:
    """Whether a step of the sampler is at one of some shares of it, in [0, 1]."""
    return step in {round(place * steps) for place in places}


class Corrector:
    """Reconstructs the estimates of steps and continues with their renders. cloud: the last Gaussians.

    picture: in [-1, 1] on white, at the size of the reconstructor, with its camera, or None. places: shares of the
    sampler, in [0, 1], after which a step is corrected; None: all steps are. each: see Correction. Of more than
    MOST views it reconstructs every so many, and renders all.
    """

    def __init__(
        self,
        prior: Prior,
        reconstructor: Reconstructor,
        cameras: Cameras,
        picture: tuple[Float[Tensor, "1 3 H W"], Cameras] | None,
        places: Sequence[float] | None = None,
        each: bool = False,
    ) -> None:
        self.prior, self.reconstructor, self.cameras, self.picture = prior, reconstructor, cameras, picture
        self.places, self.each = places, each
        self.cloud: GaussianCloud | None = None
        self._renderer = SplattingRenderer()

    def applies(self, step: int, steps: int) -> bool:
        return self.places is None or at_places(self.places, step, steps)

    def __call__(self, z: Tensor, estimate: Tensor, t: Tensor) -> Tensor:
        size, chosen = self.reconstructor.size, spaced(len(self.cameras))
        pictures, noisy = (_signed(self.prior.decode(value), size)[chosen] for value in (estimate, z))
        self.cloud = reconstruct(
            self.reconstructor, pictures, self.cameras[chosen], self.picture, noisy, round(float(t[0]) * 999)
        )
        seen = self._renderer(self.cloud, self.cameras.resized(size, size), torch.ones(3))
        return self.prior.encode(seen.rgb.clamp(0.0, 1.0))


MOST = 8
"""Views that a reconstruction takes."""
_SPACED = 4  # of more views


def spaced(views: int) -> Int[Tensor, " K"]:
    """Which of the views around an object are reconstructed: all up to MOST, or four a quarter turn apart."""
    return torch.arange(views) if views <= MOST else torch.arange(_SPACED) * views // _SPACED


@torch.no_grad()
def reconstruct(
    reconstructor: Reconstructor,
    views: Float[Tensor, "V 3 H W"],
    cameras: Cameras,
    picture: tuple[Float[Tensor, "1 3 H W"], Cameras] | None = None,
    noisy: Float[Tensor, "V 3 H W"] | None = None,
    timestep: int = 0,
) -> GaussianCloud:
    """The Gaussians of one object, from its views in [-1, 1] on white, at the size of the reconstructor.

    picture: a further view. noisy, timestep: what the views are estimates of, and the noise level in 0..999.
    """
    given = GivenViews(
        views[None],
        (views if noisy is None else noisy)[None],
        torch.tensor([timestep]),
        cameras,
        None if picture is None else picture[0],
        None if picture is None else picture[1],
        None if picture is None else torch.ones(1),
    )
    return reconstructor(given)[0]


def _signed(images: Float[Tensor, "V H W 3"], size: int) -> Float[Tensor, "V 3 size size"]:
    pictures = images.permute(0, 3, 1, 2)
    if pictures.shape[-1] != size:
        pictures = F.interpolate(pictures, (size, size), mode="bicubic", antialias=True, align_corners=False)
    return 2.0 * pictures - 1.0
