"""Pictures of exact meshes: which face each pixel sees, barycentric interpolation, and a box filter.

The face ids come from the compiled z-buffer or, if it was not built, from the torch backend.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.core.types import Cameras, TriMesh
from threedgen.kernels import load_native
from threedgen.renderers import mesh_shading
from threedgen.renderers.backends import torch_mesh
from threedgen.renderers.mesh_shading import box_filter

__all__ = ["Visibility", "box_filter", "interpolate", "rasterize"]


@dataclass(frozen=True)
class Visibility:
    """What each pixel centre sees.

    face_id: [B, H, W] int32, -1 if it sees no face. bary: [B, H, W, 3] barycentric coordinates. inverse_z: [B,
    H, W] one over camera z. Both are 0 if it sees no face.
    """

    face_id: Int[Tensor, "B H W"]
    bary: Float[Tensor, "B H W 3"]
    inverse_z: Float[Tensor, "B H W"]


@torch.no_grad()
def rasterize(mesh: TriMesh, cameras: Cameras) -> Visibility:
    """The face that each pixel centre sees, on the CPU. Triangles are clipped at the near plane; both sides are
    drawn."""
    cameras = cameras.to("cpu", torch.float32)
    faces = mesh.faces.to("cpu", torch.int64)
    points = mesh_shading.to_camera(mesh.vertices.detach().to("cpu", torch.float32), cameras)
    if load_native() is None:
        return _rasterize_torch(points, faces, cameras)
    from threedgen.renderers.backends import native_mesh

    return Visibility(*native_mesh.zbuffer(points, faces, cameras, cull=False))


def _rasterize_torch(
    points: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], cameras: Cameras
) -> Visibility:
    face_id = torch_mesh.visible_faces(points, faces, cameras, cull=False)
    view, row, column = torch.nonzero(face_id >= 0, as_tuple=True)
    corners = points[view[:, None], faces[face_id[view, row, column].long()]]
    weights = mesh_shading.corner_weights(corners, cameras.intrinsics[view], row, column)
    weights = weights / weights.sum(-1, keepdim=True)
    bary, inverse_z = points.new_zeros(*face_id.shape, 3), points.new_zeros(face_id.shape)
    bary[view, row, column] = weights
    inverse_z[view, row, column] = 1.0 / (weights * corners[..., 2]).sum(-1)
    return Visibility(face_id, bary, inverse_z)


def interpolate(
    visibility: Visibility, faces: Int[Tensor, "F 3"], values: Float[Tensor, "V C"]
) -> Float[Tensor, "B H W C"]:
    """Values of vertices at each pixel, zero if it sees no face."""
    seen = visibility.face_id >= 0
    corners = values[faces[visibility.face_id[seen].long()]]
    out = values.new_zeros(*seen.shape, values.shape[1])
    out[seen] = (visibility.bary[seen].to(values.dtype).unsqueeze(-1) * corners).sum(dim=1)
    return out
