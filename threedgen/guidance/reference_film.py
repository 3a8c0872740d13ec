"""A reference film as guidance: from the camera of the film the moving scene must look like the film, and from
other sides as a view-conditioned prior predicts from its pictures (DreamGaussian4D, Ren et al. 2023,
arXiv:2312.17142, section 3.2).

It acts on the views that `threedgen.cameras.film` adds to each step. The size of the filmed object and its position
in the picture are unknown: the film is aligned with the render so that in its first picture, before any motion,
both objects have the same mean position and the same spread.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.cameras.reference import free_views, views_at
from threedgen.core.errors import UserError
from threedgen.core.pictures import psnr, resize, silhouette_iou
from threedgen.core.roles import GuidanceRoles
from threedgen.core.settings import at_least, settings
from threedgen.core.transfer import on_cpu
from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.datasets.films import read_film
from threedgen.guidance.given_pictures import require_white
from threedgen.guidance.priors.base import Condition, Prior, ReferenceView
from threedgen.guidance.score_distillation import ScoreDistillation

_LEAST = 1e-3  # share of a picture that an object must cover at least to have a position


def places(
    alpha: Float[Tensor, "B H W 1"],
) -> tuple[Float[Tensor, "B 2"], Float[Tensor, " B"], Float[Tensor, " B"]]:
    """The mean position (x, y) of alpha, the root mean square distance from it, and the mean alpha.

    Positions go from -1 to 1 across a square picture, x to the right and y down. Differentiable, and 0 for a
    picture that shows nothing.
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
    """The pictures of a film, aligned with renders."""

    def __init__(self, folder: str, device: torch.device | str = "cpu") -> None:
        """Raises UserError if there is no film, or if its first picture shows nothing."""
        if not folder:
            raise UserError(
                "the `film` of this guidance names no film: `threedgen text-to-4d --video FILM` makes one"
            )
        self._frames = read_film(folder).to(device)
        middle, spread, seen = places(self._frames[:1, ..., 3:])
        if float(seen) < _LEAST:
            raise UserError(f"the first picture of '{folder}' shows nothing: choose another film")
        self._middle, self._spread = middle[0], spread[0]

    def __len__(self) -> int:
        return len(self._frames)

    @torch.no_grad()
    def over(
        self, rest: Float[Tensor, "H W 1"], numbers: Int[Tensor, " n"], size: int
    ) -> tuple[Float[Tensor, "n S S 3"], Float[Tensor, "n S S 1"]]:
        """Pictures `numbers` on white and their alpha, `size` pixels on each side.

        They are aligned with `rest`, the alpha of a render at rest from the camera of the film. Raises UserError if
        `rest` shows nothing.
        """
        middle, spread, seen = places(rest[None].to(self._frames))
        if float(seen) < _LEAST:
            raise UserError(
                "the camera of the film does not see the object that is to move: set --video-view"
            )
        ratio = float(self._spread / spread)  # of lengths in the film to those in the render
        # Reduced first until its pixels are as large as those of the render: sampling alone would skip pixels.
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
    """The numbers of the views of a step that show a film, in the order of its pictures.

    Raises UserError if the first picture is not among them.
    """
    index = None if cameras.index is None else on_cpu(cameras.index)
    if index is None or not bool((index == 0).any()):
        raise UserError(
            "no view is that of the film: this guidance needs cameras.name=filmed-clips or "
            "cameras.name=filmed-orbit"
        )
    found = (index >= 0).nonzero().squeeze(1)
    return found[index[found].argsort()]


class ReferenceFilm(GuidanceRoles):
    """L = rgb mean((C - C')^2) + mask mean((a - a')^2) + place mean(|m - m'|^2 + (log s / s')^2), over the views of
    the film in a step.

    C, a: the render on white and its alpha; m, s: mean position and spread of alpha, see `places`. The first two
    terms and their weights are those of DreamGaussian4D beside score distillation of weight 1. They have no
    useful gradient if render and picture do not overlap; the third term then brings them together. Deterministic.
    """

    film_setting = "film"

    @settings
    class Config:
        """A reference film, and the weights of the terms that compare renders with it; a weight of 0 is off.

        Attributes:
            film: Folder of the cut-outs of the film. `threedgen text-to-4d --video` sets it.
            rgb: Weight of the squared difference of colours on white.
            mask: Weight of the squared difference of alpha.
            place: Weight of the difference of mean position and spread.
        """

        film: str = ""
        rgb: Annotated[float, at_least(0.0)] = 10000.0
        mask: Annotated[float, at_least(0.0)] = 1000.0
        place: Annotated[float, at_least(0.0)] = 1000.0

        def __post_init__(self) -> None:
            if not any((self.rgb, self.mask, self.place)):
                raise UserError("rgb, mask and place are all 0: one of them must be positive")

    def __init__(self, config: Config, device: torch.device | str = "cpu") -> None:
        """Raises UserError if the film cannot be read."""
        self.config = config
        self.film = AlignedFilm(config.film, device)

    def __call__(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        """The distance of the renders of the views of the film from its pictures, at the size of the renders.

        Differentiable in output.rgb and alpha. Metrics: psnr (dB), mask_iou, means over the pictures. Preview: the
        pictures, side by side. Raises UserError for cameras without views of the film and for a background that is
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
        """The pictures of the film on white and their alpha, for its views `cameras`, of which the first is
        picture 0.

        Raises UserError if the film has fewer pictures.
        """
        assert cameras.index is not None
        if int(on_cpu(cameras.index).max()) >= len(self.film):
            raise UserError(f"the film has {len(self.film)} pictures: set cameras.pictures={len(self.film)}")
        image, alpha = self.film.over(output.alpha[0].detach(), cameras.index, output.alpha.shape[1])
        return image.to(output.rgb), alpha.to(output.alpha)

    @torch.no_grad()
    def scores(self, output: RenderOutput, cameras: Cameras) -> dict[str, float]:
        """film_psnr (dB) and film_mask_iou (alpha > 0.5), means over renders of the views of the film."""
        means = _mean_scores(output, *self.targets(output, cameras))
        return {f"film_{name}": round(value, 4) for name, value in means.items()}


class TurnedFilm(ScoreDistillation):
    """Score distillation with a view-conditioned prior that receives the picture of the film at the moment of a
    step.

    `reference` in its settings has the pose of the camera of the film; its image, the first picture of the film,
    stands for all pictures.
    """

    film_setting = "film"

    @settings
    class Config(ScoreDistillation.Config):
        """Settings of score distillation from the pictures of a film.

        Attributes:
            film: Folder of the cut-outs of the film. `threedgen text-to-4d --video` sets it.
        """

        film: str = ""

    config: Config

    def __init__(
        self, config: Config, device: torch.device | str = "cpu", prior: Prior | None = None
    ) -> None:
        super().__init__(config, device, prior)
        self._film = AlignedFilm(config.film, device)
        self._shown: ReferenceView | None = None

    def forward(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        chosen = film_places(cameras)
        known, moments = views_at(output, cameras, chosen)
        assert moments.index is not None
        size = self.prior.image_size
        image, _ = self._film.over(known.alpha[0].detach(), moments.index[-1:], size)
        pose = self.config.reference
        self._shown = ReferenceView(image[0], pose.azimuth, pose.elevation, pose.distance)
        return super().forward(*free_views(output, cameras), prompt, step, total, seed)

    def _condition(
        self, prompt: str, cameras: Cameras, step: int, total: int, output: RenderOutput
    ) -> Condition:
        return replace(super()._condition(prompt, cameras, step, total, output), reference=self._shown)


def _apart(alpha: Float[Tensor, "n H W 1"], other: Float[Tensor, "n H W 1"]) -> Float[Tensor, ""]:
    """mean(|m - m'|^2 + (log s / s')^2) over the pictures in which both show an object, see `places`."""
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
