"""Visibility by nvdiffrast's CUDA rasteriser (Laine et al. 2020); everything else is in mesh_shading.

Its licence allows no commercial use, so that it is taken only if it is named.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.core.types import Cameras
from threedgen.renderers.mesh_shading import facing, interpolate

__all__ = ["interpolate", "visible_faces"]


@torch.no_grad()
def visible_faces(
    points: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], cameras: Cameras, cull: bool
) -> Int[Tensor, "B H W"]:
    """The same as torch_mesh.visible_faces.

    Clip space is chosen so that row 0 of nvdiffrast's image, its lowest, is the top row here, and nothing must be
    flipped. The CUDA rasteriser needs sides that are multiples of 8, so that the image is extended to the right and
    below.
    """
    import nvdiffrast.torch as dr  # pyright: ignore[reportMissingImports]

    height, width = -(-cameras.height // 8) * 8, -(-cameras.width // 8) * 8
    near, far = cameras.near, cameras.far
    x, y, z = points.unbind(-1)
    fx, fy, cx, cy = (cameras.intrinsics[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    depth = ((far + near) * z - 2.0 * far * near) / (far - near)
    clip = torch.stack(
        [2.0 / width * (fx * x + cx * z) - z, 2.0 / height * (fy * y + cy * z) - z, depth, z], -1
    )
    face_id = torch.full((len(cameras), cameras.height, cameras.width), -1, dtype=torch.int32).to(
        points.device
    )
    front = facing(points, faces)
    for view in range(len(cameras)):
        drawn = (
            torch.nonzero(front[view]).squeeze(-1) if cull else torch.arange(len(faces), device=points.device)
        )
        if len(drawn) == 0:
            continue
        triangles = faces[drawn].to(torch.int32).contiguous()
        image, _ = dr.rasterize(
            _context(points.device),
            clip[view : view + 1].contiguous(),
            triangles,
            (height, width),
            grad_db=False,
        )
        number = image[0, : cameras.height, : cameras.width, 3].long()  # 0 for none, else the triangle + 1
        face_id[view] = torch.where(number > 0, drawn[(number - 1).clamp(min=0)], -1).to(torch.int32)
    return face_id


@functools.cache
def _context(device: torch.device) -> Any:
    import nvdiffrast.torch as dr  # pyright: ignore[reportMissingImports]

    return dr.RasterizeCudaContext(device=device)
