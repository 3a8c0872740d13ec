"""Given pictures as guidance: the views that they were taken from must look like them (image to 3D).

It acts on the views that `cameras.name=reference` adds to each step and on no other. Pictures are compared on
white, so the background must be white, as for the guidance "pictures".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from threedgen.cameras.reference import views_at
from threedgen.core.errors import UserError
from threedgen.core.pictures import psnr, resize, silhouette_iou
from threedgen.core.random import generator
from threedgen.core.roles import GuidanceRoles
from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.datasets.cut_outs import read_cut_out, read_nearness
from threedgen.guidance import reference_geometry as geometry
from threedgen.guidance.given_pictures import require_white

_SOLID = 0.5  # alpha from which on a pixel has a depth


@dataclass(frozen=True)
class Depth:
    """image: the depth picture of the cut-out, nearer is brighter; `threedgen image-to-3d --depth` puts it into the
    run. correlation, order: weights of the two terms, see `guidance.reference_geometry`."""

    image: str = ""
    correlation: float = 30.0
    order: float = 30.0


class Reference(GuidanceRoles):
    """L = rgb mean((C - C')^2) + mask mean((a - a')^2) + normal_smoothness roughness + depth.correlation (1 - r)
    + depth.order misorder.

    Means are over pixels, channels and given views; depth is compared in the first of them alone. Weights are those
    of DreamGaussian beside score distillation of weight 1 (METHODS 10.5; threestudio's, divided by its weight of
    that, are 5000 to 10000 and 500). r: correlation of nearness, as Magic123 and threestudio have it; this and
    the other two terms are in `guidance.reference_geometry`. They look where picture and render are solid.
    """

    picture_setting = "image"

    @dataclass(frozen=True)
    class Config:
        """image: the cut-out, a square picture with transparency; `threedgen image-to-3d` puts it into the run.
        views: those of further pictures, in the order of cameras.views. rgb, mask, normal_smoothness: weights of
        the terms, 0 leaves one out. depth: a depth picture of `image`."""

        image: str = ""
        views: tuple[str, ...] = ()
        rgb: float = 10000.0
        mask: float = 1000.0
        normal_smoothness: float = 0.0
        depth: Depth = field(default_factory=Depth)

        def __post_init__(self) -> None:
            weights = (self.rgb, self.mask)
            more = (self.normal_smoothness, self.depth.correlation, self.depth.order)
            if not all(0.0 <= weight < math.inf for weight in (*weights, *more)) or not any(weights):
                raise UserError("weights must be numbers >= 0, and rgb or mask positive")
            if self.depth.image and not (self.depth.correlation or self.depth.order):
                raise UserError(
                    "nothing reads depth.image: set depth.correlation or depth.order, or leave it out"
                )

    def __init__(self, config: Config, device: torch.device | str = "cpu") -> None:
        """Raises UserError where a picture cannot be read."""
        if not config.image:
            raise UserError("guidance.image names no cut-out: `threedgen image-to-3d PICTURE` makes one")
        if not config.depth.image and config.depth != Depth():
            raise UserError(
                "depth.correlation and depth.order need a depth picture: set depth.image (--depth)"
            )
        self.config = config
        cut_outs = [read_cut_out(path) for path in (config.image, *config.views)]
        self._images = [image[None].to(device) for image, _ in cut_outs]
        self._alphas = [alpha[None].to(device) for _, alpha in cut_outs]
        self._nearness = None
        if config.depth.image:
            self._nearness = read_nearness(config.depth.image, config.image)[None].to(device)

    def __call__(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        """How far the renders of the pictures' views are from the pictures, at the renders' size.

        Differentiable in output.rgb, alpha, depth and normal. Metrics: psnr (dB) and mask_iou, means over the
        pictures; of the terms that are asked for, roughness, depth_correlation and depth_misorder (world units).
        Preview: the pictures, side by side. Raises UserError for cameras without the pictures' views, for a
        background that is not white, and for renders without the depth that a term needs.
        """
        output, cameras = self._given(output, cameras)
        require_white(output)
        config = self.config
        image, alpha = self.targets(output)
        loss = config.rgb * (output.rgb - image).square().mean()
        loss = loss + config.mask * (output.alpha - alpha).square().mean()
        metrics = _mean_scores(output, image, alpha)
        if config.normal_smoothness or self._nearness is not None:
            if output.depth is None and (output.normal is None or self._nearness is not None):
                raise UserError("this renderer gives no depth: set normal_smoothness=0 and leave depth out")
            seen = (alpha > _SOLID) & (output.alpha.detach() > _SOLID)
            shape, more = self._shape(output, cameras, image, seen, generator(seed, "reference", step))
            loss, metrics = loss + shape, {**metrics, **more}
        return Signal(loss, metrics, lambda: torch.cat(list(image), dim=1))

    def _given(self, output: RenderOutput, cameras: Cameras) -> tuple[RenderOutput, Cameras]:
        """The views of the pictures, in the pictures' order."""
        index = [] if cameras.index is None else cameras.index.tolist()
        known = sorted((number, place) for place, number in enumerate(index) if number >= 0)
        if not known:
            raise UserError('no view is the picture\'s: guidance "reference" needs cameras.name=reference')
        if [number for number, _ in known] != list(range(len(self._images))):
            raise UserError(
                f"{len(self._images)} pictures for {len(known)} given views: the guidance's views and "
                "cameras.views must be as many, one pose a picture"
            )
        return views_at(output, cameras, torch.tensor([place for _, place in known]))

    def targets(self, output: RenderOutput) -> tuple[Float[Tensor, "V H W 3"], Float[Tensor, "V H W 1"]]:
        """The pictures on white and their alpha, at the size of a render and in its type."""
        size = output.rgb.shape[1:3]
        return (
            torch.cat([resize(image, *size) for image in self._images]).to(output.rgb),
            torch.cat([resize(alpha, *size) for alpha in self._alphas]).to(output.alpha),
        )

    def _shape(
        self,
        output: RenderOutput,
        cameras: Cameras,
        image: Float[Tensor, "V H W 3"],
        seen: Bool[Tensor, "V H W 1"],
        rng: torch.Generator,
    ) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """The weighted terms on shape, and what they measure."""
        config, loss, metrics = self.config, output.rgb.new_zeros(()), {}
        if config.normal_smoothness:
            normal, known = geometry.normals(output, cameras, seen)
            rough = geometry.roughness(normal, known, image[:, : normal.shape[1], : normal.shape[2]])
            loss = loss + config.normal_smoothness * rough
            metrics["roughness"] = rough.item()
        if self._nearness is not None:
            solid = seen[0]
            depth = geometry.expected_depth(output)[0][solid]
            nearness = self._nearness_at(*solid.shape[:2]).to(depth)[solid]
            away = geometry.decorrelation(depth, nearness)
            wrong = geometry.misorder(depth, nearness, rng)
            loss = loss + config.depth.correlation * away + config.depth.order * wrong
            metrics |= {"depth_correlation": 1.0 - away.item(), "depth_misorder": wrong.item()}
        return loss, metrics

    def _nearness_at(self, height: int, width: int) -> Float[Tensor, "h w 1"]:
        """The depth picture at the size of a render, of nothing but the object."""
        assert self._nearness is not None
        solid = (self._alphas[0] > _SOLID).float()
        near, cover = (resize(values, height, width) for values in (self._nearness * solid, solid))
        return (near / cover.clamp_min(1e-6))[0]

    @torch.no_grad()
    def scores(self, output: RenderOutput) -> list[dict[str, float]]:
        """psnr (dB) and mask_iou (alpha > 0.5) of a render of each picture's view, in the pictures' order."""
        return _scores(output, *self.targets(output))


def _scores(output: RenderOutput, image: Tensor, alpha: Tensor) -> list[dict[str, float]]:
    rows = zip(psnr(output.rgb, image).tolist(), silhouette_iou(output.alpha, alpha).tolist(), strict=True)
    return [{"psnr": ratio, "mask_iou": overlap} for ratio, overlap in rows]


@torch.no_grad()
def _mean_scores(output: RenderOutput, image: Tensor, alpha: Tensor) -> dict[str, float]:
    rows = _scores(output, image, alpha)
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
