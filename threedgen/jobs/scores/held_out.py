"""How well a scene shows the views of given pictures that it was not trained on."""

from __future__ import annotations

from typing import Any

import torch

from threedgen.core.pictures import psnr, silhouette_iou, ssim
from threedgen.datasets.given import GivenViews, read_pictures
from threedgen.guidance.reference_geometry import expected_depth
from threedgen.renderers.base import on_white


@torch.no_grad()
def held_out_scores(sampler: Any, scene: Any, renderer: Any) -> dict[str, float]:
    """Renders the held-out views of `sampler` on white, at the size of the pictures, and returns means over them.

    psnr (dB) and ssim, silhouette_iou if the pictures have alpha, and depth_error (world units, the mean difference
    of depth where it is known and the render is solid) if they have depths. Empty if no view is held out or if the
    views of the sampler are not given pictures. The scene is drawn as it was optimised.
    """
    if not isinstance(sampler, GivenViews) or len(sampler.held_out) == 0:
        return {}
    device = next(scene.parameters()).device
    pictures, primitive = read_pictures(sampler.config.path, depths=True), scene.at(None)
    output = on_white(renderer, primitive, sampler.cameras[sampler.held_out].to(device))
    rgb, alpha = output.rgb.cpu(), output.alpha.cpu()
    truth, cover = pictures.images[sampler.held_out], pictures.alpha[sampler.held_out]
    scores = {"psnr": psnr(rgb, truth).mean().item(), "ssim": ssim(rgb, truth).mean().item()}
    if bool((pictures.alpha < 1.0).any()):
        scores["silhouette_iou"] = silhouette_iou(alpha, cover).mean().item()
    if pictures.depths is not None and output.depth is not None:
        depths, solid = pictures.depths[sampler.held_out], alpha[..., 0] > 0.5
        away = (expected_depth(output).cpu()[..., 0] - depths).abs()[depths.isfinite() & solid]
        if len(away):
            scores["depth_error"] = away.mean().item()
    return {name: round(value, 4) for name, value in scores.items()}
