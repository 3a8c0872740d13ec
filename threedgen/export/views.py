"""Pictures of an asset that its mesh must look like: renders from all around, and what it was made from."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras, GaussianCloud, Primitive, TriMesh
from threedgen.renderers.splatting import SplattingRenderer
from threedgen.renderers.volume import VolumeRenderer

_GOLDEN_ANGLE = 137.50776405  # degrees
_POLE = 0.95  # sine of the largest elevation
_FOV = 40.0  # degrees


@dataclass(frozen=True)
class View:
    """A picture of an asset.

    camera: the one camera that sees it. rgb: display-referred, over black. alpha: of the asset. trust: how much
    more it counts than a render where both show a place.
    """

    camera: Cameras
    rgb: Float[Tensor, "H W 3"]
    alpha: Float[Tensor, "H W 1"]
    trust: float = 1.0


def around(mesh: TriMesh, count: int, size: int) -> Cameras:
    """Cameras that look at a mesh from directions spread over the sphere, from so far that all of it is seen.

    size: width and height in pixels.
    """
    vertices = mesh.vertices.detach()
    middle = 0.5 * (vertices.amin(0) + vertices.amax(0))
    reach = float((vertices - middle).norm(dim=1).max())
    distance = 1.05 * reach / math.sin(math.radians(0.5 * _FOV))
    place = torch.arange(count) + 0.5
    elevation = torch.rad2deg(torch.asin(_POLE * (1.0 - 2.0 * place / count)))
    full = torch.full((count,), distance)
    cameras = orbit((_GOLDEN_ANGLE * place) % 360.0, elevation, full, _FOV, size, size)
    poses = cameras.world_from_camera.clone()
    poses[:, :3, 3] += middle
    near = 0.1 * (distance - reach)
    return dataclasses.replace(cameras, world_from_camera=poses, near=near, far=10.0 * distance)


@torch.no_grad()
def renders(primitive: Primitive, cameras: Cameras, trust: float = 1.0) -> list[View]:
    """What Gaussians or a field show to each camera, on the CPU."""
    renderer: Any = SplattingRenderer() if isinstance(primitive, GaussianCloud) else VolumeRenderer()
    views = []
    for index in range(len(cameras)):
        camera = cameras[index : index + 1]
        output = renderer(primitive, camera, torch.zeros(3))
        views.append(View(camera, output.rgb[0].float().cpu(), output.alpha[0].float().cpu(), trust))
    return views
