"""Radiance fields and cameras for the volume tests, and a render with all of its gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras, RadianceField
from threedgen.kernels.plane_sampling import sample_planes
from threedgen.renderers.volume import VolumeRenderer

NAMES = ("planes", "hidden", "out")


def box(dtype: torch.dtype = torch.float64, size: float = 1.0) -> Tensor:
    return torch.tensor([[-size] * 3, [size] * 3], dtype=dtype)


def fog(
    density: float, color: tuple[float, float, float], dtype: torch.dtype = torch.float64
) -> RadianceField:
    """A field that is the same everywhere in the box."""

    def query(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return points.new_full((len(points),), density), points.new_tensor(color).expand(len(points), 3)

    return RadianceField(query, box(dtype))


def ball(density: float, radius: float, dtype: torch.dtype = torch.float64) -> RadianceField:
    """A ball with a smooth edge whose colour at the point p is (p + 1) / 2."""

    def query(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        inside = torch.sigmoid((radius - torch.linalg.vector_norm(points, dim=-1)) * 40.0)
        return density * inside, 0.5 * (points + 1.0)

    return RadianceField(query, box(dtype))


def leaves(seed: int = 0, resolution: int = 12, channels: int = 8) -> dict[str, Tensor]:
    """Three planes and a decoder of one hidden layer in float64, whose field has all densities."""
    draw = torch.Generator().manual_seed(seed)
    shapes = ((3, resolution, resolution, channels), (16, 3 * channels), (4, 16))
    values = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
    return dict(zip(NAMES, (values[0], 0.4 * values[1], 0.6 * values[2]), strict=True))


def field_of(values: dict[str, Tensor], occupancy: Tensor | None = None) -> RadianceField:
    planes, hidden, out = (values[name] for name in NAMES)

    def query(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.tanh(sample_planes(planes, points).flatten(1) @ hidden.T) @ out.T
        return 3.0 * torch.nn.functional.softplus(features[:, 0]), torch.sigmoid(features[:, 1:])

    return RadianceField(query, box(planes.dtype), occupancy)


def around(height: int, width: int, radius: float = 3.0, views: int = 2) -> Cameras:
    azimuth, elevation = torch.tensor([25.0, 200.0])[:views], torch.tensor([15.0, -50.0])[:views]
    return orbit(azimuth, elevation, torch.full((views,), radius), 45.0, height, width)


@dataclass
class Rendered:
    """images: rgb, alpha, depth, and the gradients of a random linear functional of them by leaf name."""

    images: dict[str, Tensor]
    gradients: dict[str, Tensor]


def render_with_gradients(
    values: dict[str, Tensor],
    cameras: Cameras,
    dtype: torch.dtype,
    occupancy: Tensor | None = None,
    seed: int | None = 0,
    **config: object,
) -> Rendered:
    """Float64 uses the implementation in torch, float32 the native kernels. seed: of the jitter, None for no
    jitter."""
    cast = {name: value.to(dtype, copy=True).requires_grad_() for name, value in values.items()}
    background = torch.tensor([0.2, 0.5, 0.9], dtype=dtype, requires_grad=True)
    rng = None if seed is None else torch.Generator().manual_seed(seed)
    renderer = VolumeRenderer(VolumeRenderer.Config(**config))  # pyright: ignore[reportArgumentType]
    output = renderer(field_of(cast, occupancy), cameras, background, rng)
    images = {"rgb": output.rgb, "alpha": output.alpha, "depth": output.depth, "normal": output.normal}
    images["distortion"] = output.distortion
    images = {name: image for name, image in images.items() if image is not None}
    draw = torch.Generator().manual_seed(1)
    loss = torch.zeros((), dtype=dtype)
    for image in images.values():
        loss = loss + (image * torch.randn(image.shape, generator=draw, dtype=torch.float64).to(dtype)).sum()
    wanted = {**cast, "background": background}
    gradients = torch.autograd.grad(loss, list(wanted.values()), materialize_grads=True)
    return Rendered(
        {name: image.detach() for name, image in images.items()},
        dict(zip(wanted, gradients, strict=True)),
    )


def relative_error(value: Tensor, truth: Tensor) -> float:
    return float((value.double() - truth).norm() / truth.norm().clamp(min=1e-30))
