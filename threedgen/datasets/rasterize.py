"""Pictures of exact meshes: the z-buffer kernel, barycentric interpolation, and a box filter.

The same three arrays (face id, perspective-correct barycentrics, 1/z) come from the compiled kernel or, where
there is none, from a plain torch twin.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.kernels import load_native
from threedgen.types import Cameras, TriMesh


@dataclass(frozen=True)
class Visibility:
    """face_id: [B, H, W] int32, -1 where nothing is seen. bary: [B, H, W, 3]. inverse_z: [B, H, W]."""

    face_id: Int[Tensor, "B H W"]
    bary: Float[Tensor, "B H W 3"]
    inverse_z: Float[Tensor, "B H W"]


def rasterize(mesh: TriMesh, cameras: Cameras) -> Visibility:
    """Which face each pixel centre sees. Triangles are clipped at the near plane; both sides are drawn."""
    native = load_native()
    vertices = mesh.vertices.detach().to("cpu", torch.float32).contiguous()
    faces = mesh.faces.to("cpu", torch.int64).contiguous()
    views = cameras.camera_from_world.to("cpu", torch.float32).contiguous()
    intrinsics = cameras.intrinsics.to("cpu", torch.float32).contiguous()
    shape = (len(cameras), cameras.height, cameras.width)
    if native is None:
        return _rasterize_torch(vertices, faces, views, intrinsics, cameras.near, shape)
    face_id = torch.empty(shape, dtype=torch.int32)
    bary, inverse_z = torch.empty(*shape, 3), torch.empty(shape)
    native.zbuffer(
        vertices.numpy(),
        faces.numpy(),
        views.numpy(),
        intrinsics.numpy(),
        cameras.near,
        face_id.numpy(),
        bary.numpy(),
        inverse_z.numpy(),
    )
    return Visibility(face_id, bary, inverse_z)


def _rasterize_torch(
    vertices: Tensor,
    faces: Tensor,
    views: Tensor,
    intrinsics: Tensor,
    near: float,
    shape: tuple[int, int, int],
) -> Visibility:
    """The plain twin: homogeneous 2D rasterisation, one face at a time, no clipping needed.

    For a pixel's ray direction d, solve [a b c] w = d for the camera-space corners a, b, c: the ray meets the
    triangle at barycentrics w / sum(w) and depth 1 / sum(w) when all w are non-negative.
    """
    count, height, width = shape
    face_id = torch.full(shape, -1, dtype=torch.int32)
    bary, inverse_z = torch.zeros(*shape, 3), torch.zeros(shape)
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    for view in range(count):
        fx, fy, cx, cy = (intrinsics[view][i] for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
        rays = torch.stack([(columns - cx) / fx, (rows - cy) / fy, torch.ones_like(rows)], dim=-1).double()
        corners = (vertices @ views[view, :3, :3].T + views[view, :3, 3])[faces].double()
        for index in range(len(faces)):
            matrix = corners[index].T
            if (corners[index][:, 2] < near).all() or matrix.det().abs() < 1e-14:
                continue
            weights = rays @ torch.linalg.inv(matrix).T
            total = weights.sum(dim=-1)
            hit = (weights >= 0).all(dim=-1) & (total > inverse_z[view]) & (total <= 1.0 / near)
            face_id[view][hit] = index
            inverse_z[view][hit] = total[hit].float()
            bary[view][hit] = (weights[hit] / total[hit, None]).float()
    return Visibility(face_id, bary, inverse_z)


def interpolate(
    visibility: Visibility, faces: Int[Tensor, "F 3"], values: Float[Tensor, "V C"]
) -> Float[Tensor, "B H W C"]:
    """Per-vertex values at each pixel, zero where nothing is seen."""
    seen = visibility.face_id >= 0
    corners = values[faces[visibility.face_id[seen].long()]]
    out = values.new_zeros(*seen.shape, values.shape[1])
    out[seen] = (visibility.bary[seen].to(values.dtype).unsqueeze(-1) * corners).sum(dim=1)
    return out


def box_filter(images: Float[Tensor, "B H W C"], factor: int) -> Float[Tensor, "B h w C"]:
    """Averages factor x factor blocks of pixels."""
    count, height, width, channels = images.shape
    blocks = images.reshape(count, height // factor, factor, width // factor, factor, channels)
    return blocks.mean(dim=(2, 4))
