"""The compiled z-buffer and the interpolation of attributes on the CPU, in float32.

The number of threads is torch's. No result depends on it.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.core.types import Cameras
from threedgen.kernels import _native  # pyright: ignore[reportAttributeAccessIssue]


def zbuffer(
    points: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], cameras: Cameras, cull: bool
) -> tuple[Int[Tensor, "B H W"], Float[Tensor, "B H W 3"], Float[Tensor, "B H W"]]:
    """The face that each pixel centre sees (int32, -1 for none), its perspective-correct barycentric
    coordinates and 1/z.

    points: vertices in the cameras' own axes. Triangles are clipped at the near plane, and pixels beyond the
    far plane are empty. cull: faces that look away from the camera are not drawn. Raises IndexError for a face
    that names a vertex that does not exist.
    """
    shape = (len(cameras), cameras.height, cameras.width)
    face_id = torch.empty(shape, dtype=torch.int32)
    bary, inverse_z = torch.empty(*shape, 3), torch.empty(shape)
    _native.zbuffer(
        _floats(points),
        _indices(faces),
        _floats(cameras.intrinsics),
        cameras.near,
        cameras.far,
        cull,
        torch.get_num_threads(),
        face_id,
        bary,
        inverse_z,
    )
    return face_id, bary, inverse_z


def visible_faces(
    points: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], cameras: Cameras, cull: bool
) -> Int[Tensor, "B H W"]:
    """The face that each pixel centre sees, -1 for none; the arguments are those of `zbuffer`."""
    return zbuffer(points, faces, cameras, cull)[0]


def interpolate(
    points: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    cameras: Cameras,
    face_id: Int[Tensor, "B H W"],
    attributes: Float[Tensor, "V C"],
) -> Float[Tensor, "B H W C+2"]:
    """The same as mesh_shading.interpolate; differentiable once in points and attributes."""
    intrinsics = _floats(cameras.intrinsics)
    given = (points, attributes, _indices(faces), intrinsics, face_id)
    return _Interpolate.apply(*given)  # type: ignore[return-value]


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, points: Tensor, attributes: Tensor, faces: Tensor, intrinsics: Tensor, face_id: Tensor
    ) -> Tensor:
        given = (_floats(points), faces, intrinsics, face_id.contiguous(), _floats(attributes))
        image = torch.empty(*face_id.shape, attributes.shape[1] + 2)
        _native.interpolate_forward(*given, torch.get_num_threads(), image)
        ctx.save_for_backward(*given)
        return image

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_image: Tensor) -> tuple[Tensor | None, ...]:
        points, *_, attributes = ctx.saved_tensors
        d_points, d_attributes = torch.empty_like(points), torch.empty_like(attributes)
        _native.interpolate_backward(
            *ctx.saved_tensors, _floats(d_image), torch.get_num_threads(), d_points, d_attributes
        )
        return d_points, d_attributes, None, None, None


def _floats(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32).contiguous()


def _indices(faces: Tensor) -> Tensor:
    return faces.detach().to(torch.int64).contiguous()
