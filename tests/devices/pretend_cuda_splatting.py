"""A stand-in for gsplat on the pretend GPU: the compiled CPU kernels, whose inputs and results cross between the
devices unseen, as a kernel on the device would compute them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from pretend_cuda import Pretended
from torch import Tensor

from threedgen.core.types import Cameras, GaussianCloud
from threedgen.renderers.backends import native


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Pretended) -> Tensor:
        return tensor._host.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return Pretended(gradient)


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return Pretended(tensor.detach())

    @staticmethod
    def backward(ctx: Any, gradient: Pretended) -> Tensor:  # type: ignore[override]
        return gradient._host


def _down(value: Any) -> Any:
    return _Down.apply(value) if isinstance(value, Pretended) else value


def cameras_below(cameras: Cameras) -> Cameras:
    """The same cameras on the CPU."""
    return Cameras(**{item.name: _down(getattr(cameras, item.name)) for item in fields(cameras)})


def splat(cloud: GaussianCloud, cameras: Cameras, background: Tensor, means2d: Tensor) -> tuple[Tensor, ...]:
    """As that of every backend (see threedgen.renderers.backends.gsplat)."""
    below = GaussianCloud(**{item.name: _down(getattr(cloud, item.name)) for item in fields(cloud)})
    given = (below, cameras_below(cameras), _down(background), _down(means2d))
    return tuple(_Up.apply(out) for out in native.splat(*given))  # type: ignore[misc]


def splat_moments(
    clouds: Sequence[GaussianCloud], cameras: Cameras, background: Tensor
) -> tuple[Tensor, ...]:
    """As that of threedgen.renderers.backends.gsplat."""
    each = len(cameras) // len(clouds)
    drawn = []
    for number, cloud in enumerate(clouds):
        views = slice(number * each, (number + 1) * each)
        unused = torch.zeros_like(cloud.means[:, :2]).expand(each, -1, -1)
        drawn.append(splat(cloud, cameras[views], background[views], unused)[:3])
    return tuple(torch.cat(parts) for parts in zip(*drawn, strict=True))
