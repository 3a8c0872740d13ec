"""Visibility by PyTorch3D's CUDA rasteriser; everything else is in mesh_shading."""

from __future__ import annotations

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

    PyTorch3D's screen has +X to the left and +Y up, and its shorter side is [-1, 1]; z is the camera's. Faces are
    culled before it gets them, so that its own convention of front and back does not matter.
    """
    from pytorch3d.renderer.mesh.rasterize_meshes import (  # pyright: ignore[reportMissingImports]
        rasterize_meshes,
    )
    from pytorch3d.structures import Meshes  # pyright: ignore[reportMissingImports]

    height, width = cameras.height, cameras.width
    empty = torch.full((len(cameras), height, width), -1, dtype=torch.int32, device=points.device)
    front = facing(points, faces) if cull else torch.ones(len(cameras), len(faces), dtype=torch.bool)
    drawn = [torch.nonzero(row).squeeze(-1).to(points.device) for row in front]
    original = torch.cat(drawn)
    if len(original) == 0:
        return empty
    z = points[..., 2:]
    z = torch.where(z.abs() < 1e-8, 1e-8, z)  # only to avoid a division by 0: clipping multiplies by z again
    pixels = points[..., :2] / z * cameras.intrinsics.diagonal(dim1=1, dim2=2)[:, None, :2]
    pixels = pixels + cameras.intrinsics[:, None, :2, 2]
    screen = (pixels.new_tensor([width, height]) / 2 - pixels) * (2.0 / min(height, width))
    meshes = Meshes(list(torch.cat([screen, z], dim=-1)), [faces[chosen] for chosen in drawn])
    # By default its bins hold a fifth of the faces, and leave out those for which there is no room. Here there is
    # room for all; a face that the near plane cuts can become two.
    packed, depth, _, _ = rasterize_meshes(
        meshes,
        (height, width),
        faces_per_pixel=1,
        max_faces_per_bin=2 * max(len(chosen) for chosen in drawn),
        perspective_correct=True,
        z_clip_value=cameras.near,
    )
    packed, depth = packed[..., 0], depth[..., 0]
    seen = (packed >= 0) & (depth <= cameras.far)
    return torch.where(seen, original[packed.clamp(min=0)].to(torch.int32), empty)
