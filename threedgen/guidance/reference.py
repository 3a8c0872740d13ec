"""One given picture as guidance: the view that it was taken from must look like it (image to 3D).

It acts on the view that `cameras.name=reference` adds to each step and on no other. Pictures are compared on white,
so the background must be white, as for the guidance "pictures".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from threedgen.datasets.cut_outs import read_cut_out
from threedgen.errors import UserError
from threedgen.guidance.pictures import require_white, resize
from threedgen.metrics.images import psnr, silhouette_iou
from threedgen.reference_view import views_at
from threedgen.types import Cameras, RenderOutput, Signal


class Reference:
    """L = rgb mean((C - C')^2) + mask mean((a - a')^2), means over pixels, channels and views with the picture.

    Weights are those of DreamGaussian beside score distillation of weight 1 (METHODS 10.5; threestudio's, divided
    by its weight of that, are 5000 to 10000 and 500). Deterministic: nothing is drawn.
    """

    @dataclass(frozen=True)
    class Config:
        """image: the cut-out, a square picture with transparency; `threedgen image-to-3d` puts it into the run.
        rgb, mask: weights of the terms, 0 leaves one out."""

        image: str = ""
        rgb: float = 10000.0
        mask: float = 1000.0

        def __post_init__(self) -> None:
            weights = (self.rgb, self.mask)
            if not all(0.0 <= weight < math.inf for weight in weights) or not any(weights):
                raise UserError("rgb and mask must be numbers >= 0, and one of them positive")

    def __init__(self, config: Config, device: torch.device | str = "cpu") -> None:
        """Raises UserError where the picture cannot be read."""
        if not config.image:
            raise UserError("guidance.image names no cut-out: `threedgen image-to-3d PICTURE` makes one")
        self.config = config
        image, alpha = read_cut_out(config.image)
        self.image, self.alpha = image[None].to(device), alpha[None].to(device)

    def __call__(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        """How far the render of the picture's view is from the picture, at the render's size.

        Differentiable in output.rgb and output.alpha. Metrics: psnr (dB), mask_iou. Preview: the picture. Raises
        UserError for cameras without the picture's view and for a background that is not white.
        """
        known = None if cameras.index is None else (cameras.index >= 0).nonzero().squeeze(1)
        if known is None or len(known) == 0:
            raise UserError('no view is the picture\'s: guidance "reference" needs cameras.name=reference')
        output, cameras = views_at(output, cameras, known)
        require_white(output)
        height, width = output.rgb.shape[1:3]
        image = resize(self.image, height, width).to(output.rgb)
        alpha = resize(self.alpha, height, width).to(output.alpha)
        loss = self.config.rgb * (output.rgb - image).square().mean()
        loss = loss + self.config.mask * (output.alpha - alpha).square().mean()
        return Signal(loss, self.scores(output), lambda: image[0])

    @torch.no_grad()
    def scores(self, output: RenderOutput) -> dict[str, float]:
        """psnr (dB) and mask_iou (alpha > 0.5) of renders of the picture's view, means over them."""
        height, width = output.rgb.shape[1:3]
        count = len(output.rgb)
        image = resize(self.image, height, width).to(output.rgb).expand(count, -1, -1, -1)
        alpha = resize(self.alpha, height, width).to(output.alpha).expand(count, -1, -1, -1)
        return {
            "psnr": psnr(output.rgb, image).mean().item(),
            "mask_iou": silhouette_iou(output.alpha, alpha).mean().item(),
        }
