"""Small clouds with known surfaces."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from threedgen.core.random import generator
from threedgen.core.types import GaussianCloud

_DC = 0.28209479177387814


def cloud_at(points: Tensor, colors: Tensor, deviation: float, opacity: float = 0.9) -> GaussianCloud:
    """Round Gaussians of one size at the given points."""
    count = len(points)
    quats = torch.randn(count, 4, generator=generator(0, "quats", 0))
    return GaussianCloud(
        means=points.float(),
        quats=quats,
        scales=torch.full((count, 3), deviation),
        opacities=torch.full((count,), opacity),
        sh=((colors - 0.5) / _DC).unsqueeze(1).float(),
    )


def ball(radius: float = 0.6, spacing: float = 0.1, deviation: float = 0.06) -> GaussianCloud:
    """A full ball on a cubic lattice, coloured by position: rgb = (p / radius + 1) / 2."""
    side = torch.arange(-radius, radius + 1e-6, spacing, dtype=torch.float64)
    points = torch.cartesian_prod(side, side, side)
    points = points[points.norm(dim=1) <= radius + 1e-6]
    return cloud_at(points, (points / radius + 1) / 2, deviation)


def sphere_skin(radius: float = 0.6, count: int = 1500, deviation: float = 0.04) -> GaussianCloud:
    """An empty sphere: Gaussians on its surface only (a Fibonacci lattice)."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    height = 1 - 2 * index / count
    angle = math.pi * (1 + math.sqrt(5)) * index
    ring = (1 - height**2).sqrt()
    points = radius * torch.stack([ring * angle.cos(), height, ring * angle.sin()], dim=1)
    return cloud_at(points, (points / radius + 1) / 2, deviation)


def torus(ring: float = 0.6, tube: float = 0.2, deviation: float = 0.05) -> GaussianCloud:
    """A full torus around +Y."""
    turns = torch.arange(0, 2 * math.pi, 2 * math.pi / 60, dtype=torch.float64)
    side = torch.arange(-tube, tube + 1e-6, 0.06, dtype=torch.float64)
    section = torch.cartesian_prod(side, side)
    section = section[section.norm(dim=1) <= tube]
    across, up = section[None, :, 0], section[None, :, 1]
    distance = ring + across
    points = torch.stack(
        [distance * turns.cos()[:, None], up.expand(len(turns), -1), distance * turns.sin()[:, None]], dim=2
    )
    points = points.reshape(-1, 3)
    return cloud_at(points, torch.full_like(points, 0.5), deviation)


def joined(*clouds: GaussianCloud) -> GaussianCloud:
    return GaussianCloud(
        *(
            torch.cat([getattr(cloud, name) for cloud in clouds])
            for name in ("means", "quats", "scales", "opacities", "sh")
        )
    )
