"""Clouds and cameras for the splatting tests, and a render with all of its gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras, GaussianCloud

FIELDS = ("means", "quats", "scales", "opacities", "sh")


def random_cloud(count: int, degree: int = 3, seed: int = 0, size: float = 0.08) -> GaussianCloud:
    rng = torch.Generator().manual_seed(seed)
    return GaussianCloud(
        means=torch.randn(count, 3, generator=rng) * 0.4,
        quats=torch.randn(count, 4, generator=rng),
        scales=torch.exp(torch.randn(count, 3, generator=rng) * 0.5) * size,
        opacities=torch.rand(count, generator=rng) * 0.99 + 0.01,
        sh=torch.randn(count, (degree + 1) ** 2, 3, generator=rng) * 0.4,
    )


def cameras_around(height: int, width: int, radius: float = 2.5, views: int = 3) -> Cameras:
    """Views from different sides; the last one is close: some Gaussians are beside or behind it."""
    azimuth = torch.tensor([20.0, 140.0, 265.0])[:views]
    elevation = torch.tensor([15.0, -40.0, 70.0])[:views]
    distance = torch.tensor([radius, radius * 1.3, radius * 0.4])[:views]
    return orbit(azimuth, elevation, distance, 45.0, height, width)


def cast(cloud: GaussianCloud, dtype: torch.dtype) -> GaussianCloud:
    return GaussianCloud(**{name: getattr(cloud, name).to(dtype, copy=True) for name in FIELDS})


@dataclass
class Rendered:
    """images: rgb, alpha, depth. gradients: those of a random linear functional of all three, by name."""

    images: dict[str, Tensor]
    gradients: dict[str, Tensor]
    radii: Tensor


def render_with_gradients(
    splat: Callable[..., Any], cloud: GaussianCloud, cameras: Cameras, background: Tensor, **options: Any
) -> Rendered:
    """Calls the `splat` of a backend; the functional is the same for every dtype and backend."""
    dtype = cloud.means.dtype
    leaves = {name: getattr(cloud, name).detach().clone().requires_grad_() for name in FIELDS}
    leaves["background"] = background.detach().to(dtype).clone().requires_grad_()
    leaves["means2d"] = torch.zeros(len(cameras), len(cloud), 2, dtype=dtype, requires_grad=True)
    *images, radii = splat(
        GaussianCloud(**{name: leaves[name] for name in FIELDS}),
        cameras.to("cpu", dtype),
        leaves["background"],
        leaves["means2d"],
        **options,
    )
    rng = torch.Generator().manual_seed(1)
    loss = torch.zeros((), dtype=dtype)
    for image in images:
        loss = loss + (image * torch.randn(image.shape, generator=rng, dtype=torch.float64).to(dtype)).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return Rendered(
        dict(zip(("rgb", "alpha", "depth"), (image.detach() for image in images), strict=True)),
        dict(zip(leaves, gradients, strict=True)),
        radii,
    )


def relative_error(value: Tensor, truth: Tensor) -> float:
    return float((value.double() - truth).norm() / truth.norm().clamp(min=1e-30))
