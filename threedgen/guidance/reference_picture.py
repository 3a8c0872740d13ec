"""Reference pictures as guidance: renders from the cameras of given pictures must look like them (image to 3D).

It acts only on the views that `cameras.name=reference` adds to each step. Pictures are compared on white, so the
background must be white, as for the guidance "pictures".
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from threedgen.cameras.reference import views_at
from threedgen.core.errors import UserError
from threedgen.core.pictures import psnr, resize, silhouette_iou
from threedgen.core.random import generator
from threedgen.core.roles import GuidanceRoles
from threedgen.core.settings import SettingError, at_least, settings
from threedgen.core.transfer import Number, exact, on_cpu
from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.datasets.cut_outs import read_cut_out, read_nearness
from threedgen.guidance import reference_geometry as geometry
from threedgen.guidance.given_pictures import require_white

_SOLID = 0.5  # alpha above which a pixel has a depth


@settings
class Depth:
    """A depth picture of the reference picture, and the weights of the two terms that use it.

    Attributes:
        image: File of the depth picture of the cut-out, where nearer is brighter. `threedgen image-to-3d --depth`
            sets it.
        correlation: Weight of the term on the correlation of depths.
        order: Weight of the term on the order of the depths of pairs of pixels.
    """

    image: str = ""
    correlation: Annotated[float, at_least(0.0)] = 30.0
    order: Annotated[float, at_least(0.0)] = 30.0


class ReferencePicture(GuidanceRoles):
    """L = rgb mean((C - C')^2) + mask mean((a - a')^2) + normal_smoothness roughness + depth.correlation (1 - r)
    + depth.order misorder.

    Means are over pixels, channels and given views; depth is compared in the first view only. The weights are those
    of DreamGaussian (Tang et al. 2023, and its code) beside score distillation of weight 1. (Those of threestudio,
    divided by its weight of score distillation, are 5000 to 10000 and 500.) r: correlation of nearness, as in
    Magic123 and threestudio; it and the other two terms are in `guidance.reference_geometry`. They use the pixels
    where both picture and render are solid.
    """

    picture_setting = "image"

    @settings
    class Config:
        """Reference pictures, and the weights of the terms that compare renders with them; a weight of 0 is off.

        Attributes:
            image: File of the cut-out, a square picture with transparency. `threedgen image-to-3d` sets it.
            views: Files of the cut-outs of further pictures, in the order of cameras.views.
            rgb: Weight of the squared difference of colours on white.
            mask: Weight of the squared difference of alpha.
            normal_smoothness: Weight of the total variation of the normals.
            depth: Depth picture of `image`.
        """

        image: str = ""
        views: tuple[str, ...] = ()
        rgb: Annotated[float, at_least(0.0)] = 10000.0
        mask: Annotated[float, at_least(0.0)] = 1000.0
        normal_smoothness: Annotated[float, at_least(0.0)] = 0.0
        depth: Depth = field(default_factory=Depth)

        def __post_init__(self) -> None:
            if not (self.rgb or self.mask):
                raise UserError("rgb and mask are both 0: one of them must be positive")
            if self.depth.image and not (self.depth.correlation or self.depth.order):
                raise SettingError(
                    "depth.image", "has no effect: set depth.correlation or depth.order too, or leave it out"
                )

    def __init__(self, config: Config, device: torch.device | str = "cpu") -> None:
        """Raises UserError if a picture cannot be read, and for weights of a depth picture that is not given."""
        if not config.image:
            raise UserError(
                'the `image` of guidance "reference" names no cut-out: `threedgen image-to-3d PICTURE` makes one'
            )
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
        """The distance of the renders of the given views from the pictures, at the size of the renders.

        Differentiable in output.rgb, alpha, depth and normal. Metrics: psnr (dB) and mask_iou, means over the
        pictures; for terms with a weight, roughness, depth_correlation and depth_misorder (world units). Preview:
        the pictures, side by side. Raises UserError for cameras without the views of the pictures, for a background
        that is not white, and for renders without the depth that a term needs.
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
        """The views of the pictures, in the order of the pictures."""
        index = [] if cameras.index is None else on_cpu(cameras.index).tolist()
        known = sorted((number, place) for place, number in enumerate(index) if number >= 0)
        if not known:
            raise UserError(
                'no view is that of the picture: guidance "reference" needs cameras.name=reference'
            )
        if [number for number, _ in known] != list(range(len(self._images))):
            raise UserError(
                f"{len(self._images)} pictures for {len(known)} given views: the views of the guidance and "
                "cameras.views must be equally many, one pose for each picture"
            )
        return views_at(output, cameras, torch.tensor([place for _, place in known]))

    def targets(self, output: RenderOutput) -> tuple[Float[Tensor, "V H W 3"], Float[Tensor, "V H W 1"]]:
        """The pictures on white and their alpha, in the size and type of a render."""
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
    ) -> tuple[Float[Tensor, ""], dict[str, Number]]:
        """The weighted sum of the terms on shape, and their metrics."""
        config, loss, metrics = self.config, output.rgb.new_zeros(()), {}
        if config.normal_smoothness:
            normal, known = geometry.normals(output, cameras, seen)
            rough = geometry.roughness(normal, known, image[:, : normal.shape[1], : normal.shape[2]])
            loss = loss + config.normal_smoothness * rough
            metrics["roughness"] = rough.detach()
        if self._nearness is not None:
            solid = seen[0]
            depth = geometry.expected_depth(output)[0][solid]
            nearness = self._nearness_at(*solid.shape[:2]).to(depth)[solid]
            away = geometry.decorrelation(depth, nearness)
            wrong = geometry.misorder(depth, nearness, rng)
            loss = loss + config.depth.correlation * away + config.depth.order * wrong
            metrics |= {"depth_correlation": 1.0 - exact(away), "depth_misorder": wrong.detach()}
        return loss, metrics

    def _nearness_at(self, height: int, width: int) -> Float[Tensor, "h w 1"]:
        """The depth picture at the size of a render, averaged over pixels of the object only."""
        assert self._nearness is not None
        solid = (self._alphas[0] > _SOLID).float()
        near, cover = (resize(values, height, width) for values in (self._nearness * solid, solid))
        return (near / cover.clamp_min(1e-6))[0]

    @torch.no_grad()
    def scores(self, output: RenderOutput) -> list[dict[str, float]]:
        """psnr (dB) and mask_iou (alpha > 0.5) of a render of the view of each picture, in their order."""
        return _scores(output, *self.targets(output))


def _scores(output: RenderOutput, image: Tensor, alpha: Tensor) -> list[dict[str, float]]:
    rows = zip(psnr(output.rgb, image).tolist(), silhouette_iou(output.alpha, alpha).tolist(), strict=True)
    return [{"psnr": ratio, "mask_iou": overlap} for ratio, overlap in rows]


@torch.no_grad()
def _mean_scores(output: RenderOutput, image: Tensor, alpha: Tensor) -> dict[str, Number]:
    """The means over the pictures, which stay on the device."""
    scores = {"psnr": psnr(output.rgb, image), "mask_iou": silhouette_iou(output.alpha, alpha)}
    return {name: sum(exact(values).unbind()) / len(values) for name, values in scores.items()}
