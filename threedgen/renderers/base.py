"""What all renderers share: pictures on white, pictures of moving assets, and backgrounds."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from threedgen.core.rendering import BackgroundColors, Renderer
from threedgen.core.transfer import on_cpu, rows
from threedgen.core.types import Cameras, Frames, RenderOutput

PrimitiveT = TypeVar("PrimitiveT")


def on_white(renderer: Renderer[PrimitiveT], primitive: PrimitiveT, cameras: Cameras) -> RenderOutput:
    """rgb, alpha and, if the renderer gives it, depth of every view on white, on the cameras' device.

    The views are rendered one by one, because renderers keep more than their pictures: so the memory does not grow
    with the number of views.
    """
    white = torch.ones(3, device=cameras.device)
    views = [renderer(primitive, cameras[i : i + 1], white) for i in range(len(cameras))]
    depths = [view.depth for view in views if view.depth is not None]
    return RenderOutput(
        rgb=torch.cat([view.rgb for view in views]),
        alpha=torch.cat([view.alpha for view in views]),
        depth=torch.cat(depths) if depths else None,
    )


def render_frames(
    renderer: Renderer[Any],
    moving: Frames,
    cameras: Cameras,
    background: BackgroundColors,
    rng: torch.Generator | None,
) -> RenderOutput:
    """Each camera's picture of its own moment, in the order of the cameras; without statistics for density control.

    Raises ValueError if there are not as many moments as cameras.
    """
    if len(moving.index) != len(cameras):
        raise ValueError(f"there are {len(moving.index)} moments for {len(cameras)} cameras")
    outputs, found = [], []
    for number, primitive in enumerate(moving.frames):
        row = (on_cpu(moving.index) == number).nonzero().squeeze(1)
        if not len(row):
            continue
        behind = background if background.ndim == 1 else rows(background, row)
        outputs.append(renderer(primitive, cameras[row], behind, rng=rng))
        found.append(row)
    order = torch.cat(found).argsort()

    def joined(name: str) -> Tensor | None:
        pictures = [getattr(output, name) for output in outputs]
        return None if pictures[0] is None else rows(torch.cat(pictures), order)

    rgb, alpha = joined("rgb"), joined("alpha")
    assert rgb is not None
    assert alpha is not None
    return RenderOutput(
        rgb, alpha, depth=joined("depth"), normal=joined("normal"), distortion=joined("distortion")
    )


def split_background(background: BackgroundColors, cameras: Cameras) -> tuple[Tensor, Tensor | None]:
    """A solid colour for each view, [B, 3], for a backend, and the pictures [B, H, W, 3] that are to be composited
    behind afterwards (then the colours are black), or None.

    Raises ValueError for a background of another shape.
    """
    views = len(cameras)
    if background.shape in ((3,), (views, 3)):
        return background.expand(views, 3), None
    if background.shape == (views, cameras.height, cameras.width, 3):
        return background.new_zeros(views, 3), background
    raise ValueError(
        f"background must be [3], [{views}, 3] or [{views}, {cameras.height}, {cameras.width}, 3], "
        f"got {tuple(background.shape)}"
    )
