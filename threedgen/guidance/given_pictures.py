"""Given pictures as guidance: the distance of each render from the picture of its view.

Pictures are compared on white, and if they have an alpha channel it is compared with that of the render; so are
depths, where they are known. A guidance
does not know the background of a render, so the background must be white: a render with another colour where its
alpha is 0 is an error.
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.pictures import SSIM_WINDOW, nearest, resize
from threedgen.core.roles import GuidanceRoles
from threedgen.core.settings import at_least, settings
from threedgen.core.transfer import exact, on_cpu, sent
from threedgen.core.types import Cameras, RenderOutput, Signal
from threedgen.datasets.given import read_pictures

_ROUND = 0.01  # world units
_EMPTY, _WHITE = (
    1e-4,
    1e-2,
)  # alpha below which a pixel shows only background; its largest distance from white


class Pictures(GuidanceRoles):
    """L = 1/B sum over pixels of l2 2|d|^2 + l1 2|d| + ssim (1 - SSIM) + alpha 2 (a - a')^2 + depth 2 |r|, where
    d = render - picture.

    The first term is half the squared distance of pictures in [-1, 1]. That is the scale of score distillation with
    the true picture in place of a prior, so the same learning rates and regularizers suit both. SSIM: Wang et al.
    2004, its map summed over pixels and channels. r = D - a z, with the rendered depth D, alpha a, and the depth z
    of the picture, is the sum of weight x (depth - z) along a ray: it needs no division by alpha. |r| is rounded
    below _ROUND, and it is not squared, so that depths that are wrong do not outweigh the others. Deterministic,
    without random draws.
    """

    @settings
    class Config:
        """Given pictures, and the weights of the terms that compare renders with them; a weight of 0 is off.

        Attributes:
            path: Folder of the pictures, the same as cameras.path.
            l2: Weight of the squared difference.
            l1: Weight of the absolute difference.
            ssim: Weight of 1 - SSIM.
            alpha: Weight of the squared difference of alpha, without effect on pictures without transparency.
            depth: Weight of the difference of depth, in world units, without effect on pictures without depths.
        """

        path: str = ""
        l2: Annotated[float, at_least(0.0)] = 1.0
        l1: Annotated[float, at_least(0.0)] = 0.0
        ssim: Annotated[float, at_least(0.0)] = 0.0
        alpha: Annotated[float, at_least(0.0)] = 1.0
        depth: Annotated[float, at_least(0.0)] = 0.5

        def __post_init__(self) -> None:
            if not any((self.l2, self.l1, self.ssim, self.alpha)):
                raise UserError("l2, l1, ssim and alpha are all 0: one of them must be positive")

    def __init__(self, config: Config, device: torch.device | str = "cpu") -> None:
        """Raises UserError if the folder cannot be read, or if its pictures lack the alpha that is asked for."""
        if not config.path:
            raise UserError(
                'the `path` of guidance "pictures" names no folder of pictures: `threedgen fit FOLDER` sets it'
            )
        self.config = config
        pictures = read_pictures(config.path, depths=config.depth > 0.0)
        self.depths = None if pictures.depths is None else pictures.depths.to(device)
        self.images = pictures.images.to(device)
        self.alpha = pictures.alpha.to(device) if bool((pictures.alpha < 1.0).any()) else None
        if self.alpha is None and not (config.l2 or config.l1 or config.ssim):
            raise UserError(
                "only the alpha of the pictures has a weight, but they have no alpha: set l2, l1 or ssim"
            )

    def __call__(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int
    ) -> Signal:
        """The distance of the renders from the pictures that `cameras.index` names, at the size of the renders.

        Differentiable in output.rgb, output.alpha and output.depth. Metrics: mse (mean over pixels and channels),
        psnr (dB), and with depths depth_error (mean of |r| over known pixels, in world units). Preview: the
        pictures, side by side in the order of the views. Raises UserError for cameras without given pictures, for a
        background that is not white, and for a render without depth if the pictures have depths.
        """
        if cameras.index is None or bool((on_cpu(cameras.index) < 0).any()):
            raise UserError('these cameras have no pictures: guidance "pictures" needs cameras.name=given')
        require_white(output)
        config, count = self.config, len(cameras)
        height, width = output.rgb.shape[1:3]
        index = sent(cameras.index, self.images.device)
        target = resize(self.images[index], height, width).to(output.rgb)
        difference = output.rgb - target
        square = difference.square()
        loss = 2.0 * config.l2 * square.sum()
        if config.l1:
            loss = loss + 2.0 * config.l1 * difference.abs().sum()
        if config.ssim:
            loss = loss + config.ssim * _dissimilarity(output.rgb, target)
        if config.alpha and self.alpha is not None:
            alpha = resize(self.alpha[index], height, width).to(output.alpha)
            loss = loss + 2.0 * config.alpha * (output.alpha - alpha).square().sum()
        mse = exact(square.mean())
        psnr = -10.0 * mse.clamp_min(1e-10).log10()
        metrics = {"mse": mse, "psnr": psnr}
        if self.depths is not None:
            off = _depth_differences(output, nearest(self.depths[index], height, width))
            loss = loss + 2.0 * config.depth * ((off.square() + _ROUND**2).sqrt() - _ROUND).sum()
            if len(off):
                metrics["depth_error"] = off.detach().abs().mean()
        return Signal(loss / count, metrics, lambda: torch.cat(list(target), dim=1))


def _depth_differences(output: RenderOutput, depths: Float[Tensor, "B H W"]) -> Float[Tensor, " n"]:
    """The differences r (see `Pictures`) of the pixels whose depth is known, in world units."""
    if output.depth is None:
        raise UserError("this renderer gives no depth to compare with that of the pictures: set depth=0")
    known = depths.isfinite()
    expected = depths[known].to(output.depth)
    return output.depth[..., 0][known] - output.alpha[..., 0][known] * expected


def _dissimilarity(rendered: Float[Tensor, "B H W 3"], target: Float[Tensor, "B H W 3"]) -> Float[Tensor, ""]:
    from kornia.metrics import ssim

    height, width = rendered.shape[1:3]
    if min(height, width) <= SSIM_WINDOW // 2:  # SSIM mirrors half a window at the border
        raise UserError(
            f"renders of {width} x {height} pixels are too small for SSIM, which needs {SSIM_WINDOW // 2 + 1} "
            "on each side: raise cameras.resolution, or set ssim=0 for this guidance"
        )
    planes = (picture.permute(0, 3, 1, 2) for picture in (rendered, target))
    return (1.0 - ssim(*planes, window_size=SSIM_WINDOW)).sum()


def require_white(output: RenderOutput) -> None:
    """Raises UserError if the background of a render is not white."""
    behind = output.background
    if output.rgb.device.type != "cpu" and behind is not None and behind.ndim == 2:
        # A GPU would be waited for to look at the pictures. What the loop sent to it is known without asking.
        colored = bool(((on_cpu(behind) - 1.0).abs() > _WHITE).any())
    else:
        unlike = (output.rgb.detach() - 1.0).abs() > _WHITE
        colored = bool((unlike & (output.alpha.detach() < _EMPTY)).any())
    if colored:
        raise UserError(
            "given pictures are compared on white: set background.color=[1,1,1] and background.random=0"
        )
