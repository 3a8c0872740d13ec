"""Meshes for the tests of the renderer, and a render with all of its gradients."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import trimesh
from torch import Tensor

from threedgen.core.types import Cameras, TriMesh
from threedgen.renderers.mesh import Config, MeshRenderer

LEAVES = ("vertices", "vertex_colors", "normals", "uvs", "texture")


def ball(subdivisions: int = 2, radius: float = 0.7, textured: bool = False, bumps: float = 0.1) -> TriMesh:
    """A bumpy sphere with random colours, or uvs (a plane projection) and a random texture."""
    body = trimesh.creation.icosphere(subdivisions=subdivisions)
    vertices = torch.tensor(np.asarray(body.vertices))
    vertices = radius * vertices * (1 + bumps * torch.sin(5 * vertices).prod(1, keepdim=True))
    rng = torch.Generator().manual_seed(0)
    faces = torch.tensor(np.asarray(body.faces)).long()
    colors = torch.rand(len(vertices), 3, generator=rng)
    if not textured:
        return TriMesh(vertices.float(), faces, vertex_colors=colors)
    texture = torch.rand(9, 13, 3, generator=rng)
    return TriMesh(vertices.float(), faces, uvs=(0.5 + 0.6 * vertices[:, :2]).float(), texture=texture)


def disc(corners: int, rings: int) -> TriMesh:
    """A flat polygon of radius 1 in the plane z = 0, facing +Z, in float64; more rings give smaller triangles."""
    angle = torch.arange(corners, dtype=torch.float64) * (2 * math.pi / corners)
    rim = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], dim=1)
    vertices = [torch.zeros(1, 3, dtype=torch.float64)] + [rim * (k + 1) / rings for k in range(rings)]
    here = torch.arange(corners)
    after = (here + 1) % corners
    faces = [torch.stack([torch.zeros_like(here), 1 + here, 1 + after], dim=1)]
    for ring in range(1, rings):
        inner, outer = 1 + (ring - 1) * corners, 1 + ring * corners
        faces.append(torch.stack([inner + here, outer + here, outer + after], dim=1))
        faces.append(torch.stack([inner + here, outer + after, inner + after], dim=1))
    return TriMesh(torch.cat(vertices), torch.cat(faces))


def front_camera(size: int, distance: float = 3.0, fov: float = 40.0, width: int | None = None) -> Cameras:
    """One camera on +Z that looks at the origin."""
    from threedgen.cameras.orbit import orbit

    zero = torch.zeros(1)
    return orbit(zero, zero, torch.full((1,), distance), fov, size, width or size)


def cast(mesh: TriMesh, dtype: torch.dtype) -> TriMesh:
    given = {name: getattr(mesh, name) for name in LEAVES}
    values: dict[str, Any] = {
        name: None if value is None else value.to(dtype) for name, value in given.items()
    }
    return TriMesh(faces=mesh.faces, **values)


@dataclass
class Rendered:
    """images: rgb, alpha, depth, normal. gradients: of a random linear functional of them, by leaf."""

    images: dict[str, Tensor]
    gradients: dict[str, Tensor]


def render_with_gradients(
    mesh: TriMesh,
    cameras: Cameras,
    config: Config | None = None,
    images: tuple[str, ...] = ("rgb", "alpha", "depth"),
) -> Rendered:
    """The functional is the same for every dtype and backend."""
    dtype = mesh.vertices.dtype
    leaves = {
        name: getattr(mesh, name).detach().clone().requires_grad_()
        for name in LEAVES
        if getattr(mesh, name) is not None
    }
    leaves["background"] = torch.tensor([0.2, 0.7, 0.4], dtype=dtype, requires_grad=True)
    scene = dataclasses.replace(mesh, **{name: leaves[name] for name in leaves if name != "background"})
    output = MeshRenderer(config)(scene, cameras, leaves["background"])
    rng = torch.Generator().manual_seed(1)
    loss = torch.zeros((), dtype=dtype)
    found = {name: getattr(output, name) for name in ("rgb", "alpha", "depth", "normal")}
    for name in images:
        weights = torch.randn(found[name].shape, generator=rng, dtype=torch.float64)
        loss = loss + (found[name] * weights.to(dtype)).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return Rendered(
        {name: image.detach() for name, image in found.items()}, dict(zip(leaves, gradients, strict=True))
    )


def relative_error(value: Tensor, truth: Tensor) -> float:
    return float((value.double() - truth).norm() / truth.norm().clamp(min=1e-30))
