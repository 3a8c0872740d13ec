"""What every renderer is: a callable from a primitive, cameras and a background to pictures."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.types import Cameras, Frames, RenderOutput

PrimitiveT = TypeVar("PrimitiveT", contravariant=True)

Background = Float[Tensor, "3"] | Float[Tensor, "B 3"] | Float[Tensor, "B H W 3"]


class Renderer(Protocol[PrimitiveT]):
    """Renders one kind of primitive (RadianceField, GaussianCloud or TriMesh).

    A renderer says which by a class attribute `primitive`, so that a recipe that pairs it with another kind is
    refused before anything runs.
    """

    def __call__(
        self,
        primitive: PrimitiveT,
        cameras: Cameras,
        background: Background,
        /,
        rng: torch.Generator | None = None,
    ) -> RenderOutput:
        """Differentiable pictures of a primitive, one a camera.

        rng: a CPU generator for renderers that sample (jittered steps along a ray); None asks for the
        same picture every time.

        background: linear RGB seen where alpha is below 1: one colour, one a view, or a picture a view.
        """
        ...


def on_white(renderer: Renderer[PrimitiveT], primitive: PrimitiveT, cameras: Cameras) -> RenderOutput:
    """rgb, alpha and (where the renderer has it) depth of every view on white, one at a time: renderers keep more
    than their pictures, and memory does not grow with the number of views. On the cameras' device."""
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
    background: Background,
    rng: torch.Generator | None,
) -> RenderOutput:
    """Each camera's picture of its own moment, in the order of the cameras; no statistics for density control.

    Raises ValueError where there are not as many moments as cameras.
    """
    if len(moving.index) != len(cameras):
        raise ValueError(f"moments of {len(moving.index)} cameras for {len(cameras)}")
    outputs, rows = [], []
    for number, primitive in enumerate(moving.frames):
        row = (moving.index == number).nonzero().squeeze(1)
        if not len(row):
            continue
        behind = background if background.ndim == 1 else background[row.to(background.device)]
        outputs.append(renderer(primitive, cameras[row.to(cameras.device)], behind, rng=rng))
        rows.append(row)
    order = torch.cat(rows).argsort()

    def joined(name: str) -> Tensor | None:
        parts = [getattr(output, name) for output in outputs]
        return None if parts[0] is None else torch.cat(parts)[order.to(parts[0].device)]

    rgb, alpha = joined("rgb"), joined("alpha")
    assert rgb is not None
    assert alpha is not None
    return RenderOutput(
        rgb, alpha, depth=joined("depth"), normal=joined("normal"), distortion=joined("distortion")
    )


def split_background(background: Background, cameras: Cameras) -> tuple[Tensor, Tensor | None]:
    """A solid colour a view [B, 3] for a backend, and the pictures (if any) to composite over black afterwards.

    Raises ValueError on a background of another shape.
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
