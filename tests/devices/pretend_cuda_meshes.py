"""A stand-in for pytorch3d on the pretend GPU, as pretend_cuda_splatting is one for gsplat."""

from __future__ import annotations

import torch
from pretend_cuda import Pretended
from pretend_cuda_splatting import cameras_below
from torch import Tensor

from threedgen.core.types import Cameras
from threedgen.renderers.backends import native_mesh
from threedgen.renderers.mesh_shading import interpolate

__all__ = ["interpolate", "visible_faces"]


@torch.no_grad()
def visible_faces(points: Tensor, faces: Tensor, cameras: Cameras, cull: bool) -> Tensor:
    """As that of every backend (see threedgen.renderers.backends.pytorch3d)."""
    if not isinstance(points, Pretended) or not isinstance(faces, Pretended):
        raise RuntimeError("pytorch3d takes tensors on cuda only")
    return Pretended(native_mesh.visible_faces(points._host, faces._host, cameras_below(cameras), cull))
