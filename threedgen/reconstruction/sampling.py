"""Views of an object by a multi-view prior, and the Gaussians that a reconstructor makes of them.

Two ways: all views first, then one reconstruction (Hunyuan3D-1.0, Yang et al. 2024, arXiv:2411.02293), and a
reconstruction at every step of the sampler, whose renders continue the trajectory (Gen-3Diffusion, Xue et al. 2024,
arXiv:2412.06698).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
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
    of rising azimuth, or those of the layout of the prior. steps: of the sampler. scale: guidance at the first step
    for the view that is nearest to the picture's side, which falls to `least` at the last step and for the view
    that is farthest from it. seed: of the noise.
    """

    prompt: str
    picture: ReferenceView | None
    cameras: Cameras
    steps: int = 20
    scale: float = 1.5
    least: float = 1.0
    seed: int = 0


Correction = Callable[[Float[Tensor, "V C h w"], Float[Tensor, "V C h w"], Float[Tensor, " V"]], Tensor]


@torch.no_grad()
def sample_views(prior: Prior, asked: Asked, correct: Correction | None = None) -> Float[Tensor, "V H W 3"]:
    """The views of a group in [0, 1], by DDIM (Song et al. 2021) without noise of its own; if the prior has a
    layout, the tiles of one sample.

    correct: takes z, the clean sample that the prior estimates of it, and t; what it returns continues the
    trajectory in place of the estimate.
    """
    layout, side, device = roles_of(prior).layout, prior.image_size, asked.cameras.device
    if layout is None:
        count, shape, cameras = len(asked.cameras), (side, side), asked.cameras
    else:
        count, shape, cameras = 1, (layout.rows * side, layout.columns * side), None
    like = prior.encode(torch.zeros(count, *shape, 3, device=device))
    z = torch.randn(like.shape, generator=generator(asked.seed, "multi-view sample", 0)).to(device)
    condition = Condition((asked.prompt,) * count, cameras=cameras, reference=asked.picture)
    levels = torch.linspace(_FIRST, _LAST, asked.steps)
    estimate = like
    for index, level in enumerate(levels):
        t = level.expand(count).to(device)
        strength = scales(asked, index)
        if layout is None:
            strength = strength[:, None, None, None]
        else:
            strength = layout.spread(strength, z.shape[2], z.shape[3])
        estimate = guided(prior, z, t, condition, strength).x0
        if not prior.latent:
            estimate = estimate.clamp(-1.0, 1.0)
        if correct is not None:
            estimate = correct(z, estimate, t)
        if index + 1 < len(levels):
            eps = Prediction.from_x0(z, estimate, prior.alpha(t), prior.sigma(t)).eps
            z = prior.add_noise(estimate, eps, levels[index + 1].expand(count).to(device))
    shown = prior.decode(estimate).clamp(0.0, 1.0)
    return shown if layout is None else layout.cut(shown)


def guided(
    prior: Prior, z: Tensor, t: Tensor, condition: Condition, scale: Float[Tensor, "#B 1 #h #w"]
) -> Prediction:
    """The prediction with classifier-free guidance of its own strength for each sample, or for parts of one."""
    found = prior.predict(z, t, condition)
    if bool((scale == 1.0).all()):
        return found
    other = prior.predict(z, t, condition.unconditional())
    x0 = other.x0 + scale.to(z) * (found.x0 - other.x0)
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


class Corrector:
    """Reconstructs the estimate of each step and continues with its renders. clouds: the last Gaussians.

    picture: in [-1, 1] on white, at the size of the reconstructor, with its camera, or None.
    """

    def __init__(
        self,
        prior: Prior,
        reconstructor: Reconstructor,
        cameras: Cameras,
        picture: tuple[Float[Tensor, "1 3 H W"], Cameras] | None,
    ) -> None:
        self.prior, self.reconstructor, self.cameras, self.picture = prior, reconstructor, cameras, picture
        self.cloud: GaussianCloud | None = None
        self._renderer = SplattingRenderer()

    def __call__(self, z: Tensor, estimate: Tensor, t: Tensor) -> Tensor:
        size = self.reconstructor.size
        pictures, noisy = (_signed(self.prior.decode(value), size) for value in (estimate, z))
        self.cloud = reconstruct(
            self.reconstructor, pictures, self.cameras, self.picture, noisy, round(float(t[0]) * 999)
        )
        seen = self._renderer(self.cloud, self.cameras.resized(size, size), torch.ones(3))
        return self.prior.encode(seen.rgb.clamp(0.0, 1.0))


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
