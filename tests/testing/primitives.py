"""A small primitive of each kind inside the unit sphere, for tests of the conformance kit."""

from __future__ import annotations

import numpy as np
import torch

from threedgen.core.types import GaussianCloud, RadianceField, TriMesh


def cloud() -> GaussianCloud:
    rng = torch.Generator().manual_seed(3)
    return GaussianCloud(
        means=0.3 * torch.randn(40, 3, generator=rng),
        quats=torch.randn(40, 4, generator=rng),
        scales=0.05 + 0.1 * torch.rand(40, 3, generator=rng),
        opacities=0.1 + 0.8 * torch.rand(40, generator=rng),
        sh=0.3 * torch.randn(40, 4, 3, generator=rng),
    )


def field() -> RadianceField:
    def query(points, directions):
        inside = torch.sigmoid(20.0 * (0.5 - points.norm(dim=1)))
        return 8.0 * inside, 0.5 + 0.4 * torch.sin(5.0 * points)

    return RadianceField(query, torch.tensor([[-0.8] * 3, [0.8] * 3]))


def mesh() -> TriMesh:
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.6)
    vertices = torch.tensor(np.array(ball.vertices), dtype=torch.float32)
    return TriMesh(
        vertices, torch.tensor(np.array(ball.faces)), vertex_colors=0.5 + 0.5 * torch.sin(4 * vertices)
    )
