"""A film as guidance: what moves must look, from where the film was taken, as the film shows it (DreamGaussian4D,
Ren et al. 2023, section 3.2; METHODS 8.3), and a prior that turns the film's pictures says how from elsewhere.

It acts on the views that `threedgen.cameras.film` adds to each step. Nobody knows how large what was filmed is, nor
where it is in the picture: the film is laid over the render so that in its first picture, where nothing has moved
yet, both objects have the same middle and the same spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.cameras.reference import free_views, views_at
from threedgen.core.errors import UserError
from threedgen.core.pictures import psnr, resize, silhouette_iou
from threedgen.core.roles import GuidanceRoles
from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.datasets.films import read_film
from threedgen.guidance.given_pictures import require_white
from threedgen.guidance.priors.base import Condition, Prior, Reference
from threedgen.guidance.score_distillation import ScoreDistillation

_LEAST = 1e-3  # share of a picture that an object covers at least, to have a place


def places(
    alpha: Float[Tensor, "B H W 1"],
) -> tuple[Float[Tensor, "B 2"], Float[Tensor, " B"], Float[Tensor, " B"]]:
    """The mean place (x, y) of what alpha shows, the root mean square distance from there, and the mean alpha.

    Places go from -1 to 1 across a square picture, x to the right and y down. Differentiable, and 0 where nothing
    is seen.
    """
    height, width = alpha.shape[1:3]
    weight = alpha[..., 0]
    total = weight.sum((1, 2)).clamp_min(1e-6)
    y = (torch.arange(height, device=alpha.device, dtype=alpha.dtype) + 0.5) * (2.0 / height) - 1.0
    x = (torch.arange(width, device=alpha.device, dtype=alpha.dtype) + 0.5) * (2.0 / width) - 1.0
    middle = torch.stack([(weight.sum(1) * x).sum(1), (weight.sum(2) * y).sum(1)], dim=1) / total[:, None]
    square = (x - middle[:, :1])[:, None].square() + (y - middle[:, 1:])[:, :, None].square()
    spread = ((weight * square).sum((1, 2)) / total + 1e-8).sqrt()
    return middle, spread, weight.mean((1, 2))


class AlignedFilm:
    """A film's pictures, laid over renders."""

    def __init__(self, folder: str, device: torch.device | str = "cpu") -> None:
        """Raises UserError where there is no film."""
        if not folder:
            raise UserError("guidance.film names no film: `threedgen text-to-4d --video FILM` makes one")
        self._frames = read_film(folder).to(device)
        middle, spread, seen = places(self._frames[:1, ..., 3:])
        if float(seen) < _LEAST:
            raise UserError(f"the first picture of '{folder}' shows nothing")
        self._middle, self._spread = middle[0], spread[0]

    def __len__(self) -> int:
        return len(self._frames)

    @torch.no_grad()
    def over(
        self, rest: Float[Tensor, "H W 1"], numbers: Int[Tensor, " n"], size: int
    ) -> tuple[Float[Tensor, "n S S 3"], Float[Tensor, "n S S 1"]]:
        """Pictures on white and their alpha, `size` pixels a side, as a camera would show them from which alpha at
        rest is `rest`. Raises UserError where that shows nothing."""
        middle, spread, seen = places(rest[None].to(self._frames))
        if float(seen) < _LEAST:
            raise UserError(
                "nothing of what is to move is seen from where the film was taken: set --video-view"
            )
        ratio = float(self._spread / spread)  # the film's lengths over the render's
        # Reduced first to where its pixels are as large as the render's: sampling alone would skip some.
        own = self._frames.shape[1]
        frames = self._frames[numbers.to(self._frames.device)]
        side = max(8, min(own, round(size / ratio)))
        frames = resize(frames, side, side).permute(0, 3, 1, 2)
        steps = (torch.arange(size, device=frames.device, dtype=frames.dtype) + 0.5) * (2.0 / size) - 1.0
        grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=2)
        grid = self._middle + ratio * (grid - middle[0])
        found = F.grid_sample(frames, grid.expand(len(frames), -1, -1, -1), align_corners=False)
        found = found.permute(0, 2, 3, 1)
        alpha = found[..., 3:]
        return found[..., :3] + (1.0 - alpha), alpha


def film_places(cameras: Cameras) -> Int[Tensor, " n"]:
    """Which views of a step are a film's, in the order of its pictures, the first among them. UserError: none."""
    index = None if cameras.index is None else cameras.index.cpu()
    if index is None or not bool((index == 0).any()):
        raise UserError(
            "no view is the film's: this guidance needs cameras.name=filmed-clips or cameras.name=filmed-orbit"
        )
    found = (index >= 0).nonzero().squeeze(1)
    return found[index[found].argsort()]


class ReferenceClip(GuidanceRoles):
    """L = rgb mean((C - C')^2) + mask mean((a - a')^2) + place mean(|m - m'|^2 + (log s / s')^2), over the film's
    views of a step.

    C, a: the render on white and its alpha; m, s: the middle and the spread of alpha, see `places`. The first two
    are DreamGaussian4D's with its weights, beside score distillation of weight 1; pictures that do not overlap pull
    at nothing in them, and the third brings these together. Deterministic.
    """

    film_setting = "film"

    @dataclass(frozen=True)
    class Config:
        """film: the folder of the film's cut-outs; `threedgen text-to-4d --video` puts it into the run. rgb, mask,
        place: weights of the terms, 0 leaves one out."""

        film: str = ""
        rgb: float = 10000.0
        mask: float = 1000.0
        place: float = 1000.0

        def __post_init__(self) -> None:
            weights = (self.rgb, self.mask, self.place)
            if not all(0.0 <= weight < math.inf for weight in weights) or not any(weights):
                raise UserError("rgb, mask and place must be numbers >= 0, and one of them positive")

    def __init__(self, config: Config, device: torch.device | str = "cpu") -> None:
        """Raises UserError where the film cannot be read."""
        self.config = config
        self.film = AlignedFilm(config.film, device)

    def __call__(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        """How far the renders of the film's views are from its pictures, at the renders' size.

        Differentiable in output.rgb and alpha. Metrics: psnr (dB), mask_iou, means over the pictures. Preview: the
        pictures, side by side. Raises UserError for cameras without the film's views and for a background that is
        not white.
        """
        output, cameras = views_at(output, cameras, film_places(cameras))
        require_white(output)
        image, alpha = self.targets(output, cameras)
        config = self.config
        loss = config.rgb * (output.rgb - image).square().mean()
        loss = loss + config.mask * (output.alpha - alpha).square().mean()
        loss = loss + config.place * _apart(output.alpha, alpha)
        return Signal(loss, _mean_scores(output, image, alpha), lambda: torch.cat(list(image), dim=1))

    def targets(
        self, output: RenderOutput, cameras: Cameras
    ) -> tuple[Float[Tensor, "n H W 3"], Float[Tensor, "n H W 1"]]:
        """The film's pictures on white and their alpha, for its views `cameras`, the first of them picture 0's.
        UserError: more than it has."""
        assert cameras.index is not None
        if int(cameras.index.max()) >= len(self.film):
            raise UserError(f"the film has {len(self.film)} pictures: set cameras.pictures={len(self.film)}")
        image, alpha = self.film.over(output.alpha[0].detach(), cameras.index, output.alpha.shape[1])
        return image.to(output.rgb), alpha.to(output.alpha)

    @torch.no_grad()
    def scores(self, output: RenderOutput, cameras: Cameras) -> dict[str, float]:
        """film_psnr (dB) and film_mask_iou (alpha > 0.5), means over renders of the film's views."""
        means = _mean_scores(output, *self.targets(output, cameras))
        return {f"film_{name}": round(value, 4) for name, value in means.items()}


class TurnedClip(ScoreDistillation):
    """Score distillation by a prior that turns pictures, told the film's of the moment that a step shows."""

    film_setting = "film"

    @dataclass(frozen=True)
    class Config(ScoreDistillation.Config):
        """See ScoreDistillation.Config. film: as of ReferenceClip. `reference` says where the film was taken from;
        its image, the film's first, stands for all of them."""

        film: str = ""

    config: Config

    def __init__(
        self, config: Config, device: torch.device | str = "cpu", prior: Prior | None = None
    ) -> None:
        super().__init__(config, device, prior)
        self._film = AlignedFilm(config.film, device)
        self._shown: Reference | None = None

    def forward(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        chosen = film_places(cameras)
        known, moments = views_at(output, cameras, chosen)
        assert moments.index is not None
        size = self.prior.image_size
        image, _ = self._film.over(known.alpha[0].detach(), moments.index[-1:], size)
        told = self.config.reference
        self._shown = Reference(image[0], told.azimuth, told.elevation, told.distance)
        return super().forward(*free_views(output, cameras), prompt, step, total, seed)

    def _condition(
        self, prompt: str, cameras: Cameras, step: int, total: int, output: RenderOutput
    ) -> Condition:
        return replace(super()._condition(prompt, cameras, step, total, output), reference=self._shown)


def _apart(alpha: Float[Tensor, "n H W 1"], other: Float[Tensor, "n H W 1"]) -> Float[Tensor, ""]:
    """mean(|m - m'|^2 + (log s / s')^2) over the pictures in which both show something, see `places`."""
    (middle, spread, seen), (middles, spreads, seens) = places(alpha), places(other)
    both = (seen.detach() > _LEAST) & (seens > _LEAST)
    far = (middle - middles).square().sum(1) + (spread / spreads).log().square()
    return torch.where(both, far, 0.0).mean()


@torch.no_grad()
def _mean_scores(output: RenderOutput, image: Tensor, alpha: Tensor) -> dict[str, float]:
    return {
        "psnr": float(psnr(output.rgb, image).mean()),
        "mask_iou": float(silhouette_iou(output.alpha, alpha).mean()),
    }
