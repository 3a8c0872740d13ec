"""A triplane in the frame of the source camera (NerfDiff, Gu et al. 2023, section 3.1).

The xy plane is the plane of the source picture: the place of a point on it is its pixel, so a feature there belongs
to that pixel. The third coordinate goes linearly from the near to the far side of the sphere of the scene. The pose
of the object is not needed: only poses relative to the source view matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from threedgen.core.transfer import constant, sent
from threedgen.core.types import Cameras, RadianceField
from threedgen.kernels.plane_sampling import sample_planes
from threedgen.representations.triplane import decode

GAIN = 25.0  # density, per radius of the scene, of a unit of the output of the decoder
_CELLS = 32  # cells along each side of the grid of the sphere


@dataclass(frozen=True)
class SourceFrame:
    """The frame of a source view.

    camera_from_world: [4, 4]. focal, principal: [2], as shares of the width and height of the picture. radius: of
    the sphere about the origin that holds the scene, in world units.
    """

    camera_from_world: Float[Tensor, "4 4"]
    focal: Float[Tensor, " 2"]
    principal: Float[Tensor, " 2"]
    radius: float

    def to(self, device: torch.device | str) -> SourceFrame:
        pose, focal, principal = (
            sent(value, device) for value in (self.camera_from_world, self.focal, self.principal)
        )
        return SourceFrame(pose, focal, principal, self.radius)

    def coordinates(
        self, points: Float[Tensor, "M 3"], resolution: int
    ) -> tuple[Float[Tensor, "M 3"], Bool[Tensor, " M"]]:
        """The coordinates of world points on planes of `resolution` texels along each side, and whether the points
        are on them: in front of the camera, inside its picture, and between the near and the far side.

        Texels are the pixels of the picture or blocks of them. `sample_planes` has the outermost centres at +-1,
        half a texel inside the edge of the picture.
        """
        local = points @ self.camera_from_world[:3, :3].T + self.camera_from_world[:3, 3]
        distance = torch.linalg.vector_norm(self.camera_from_world[:3, 3])
        depth = local[:, 2:]
        across = 2.0 * (self.focal * local[:, :2] / depth.clamp_min(1e-6) + self.principal) - 1.0
        along = (depth - distance) / self.radius
        places = torch.cat([across, along], dim=1)
        inside = (depth[:, 0] > 0.0) & (places.abs() <= 1.0).all(dim=1)
        return places * (resolution / (resolution - 1.0)), inside


def scene_radius(cameras: Cameras) -> float:
    """The radius of the largest sphere about the origin that every view sees whole, in world units. The scene is
    assumed to be inside.

    Published data sets give no sizes of objects, but their cameras frame the objects.
    """
    half = 0.5 * torch.tensor([cameras.width, cameras.height]).to(cameras.intrinsics)
    focal = cameras.intrinsics.diagonal(dim1=1, dim2=2)[:, :2]
    sine = (half / torch.hypot(half, focal)).amin(dim=1)
    return float((cameras.centers.norm(dim=1) * sine).amin())


def source_frame(source: Cameras, radius: float) -> SourceFrame:
    """The frame of the one view `source`. radius: of the sphere of the scene, in world units."""
    size = source.intrinsics.new_tensor([source.width, source.height])
    intrinsics = source.intrinsics[0]
    focal = torch.stack([intrinsics[0, 0], intrinsics[1, 1]]) / size
    return SourceFrame(source.camera_from_world[0], focal, intrinsics[:2, 2] / size, radius)


def camera_field(
    planes: Float[Tensor, "3 R R C"],
    weights: Iterable[Tensor],
    biases: Iterable[Tensor],
    frame: SourceFrame,
    occupancy: Bool[Tensor, "G G G"] | None = None,
) -> RadianceField:
    """The radiance field density = GAIN / radius softplus(d), colour = sigmoid(c) of the decoded planes.

    The density is 0 outside of the source view and outside of the sphere. weights, biases: of the layers of the
    decoder. occupancy: cells of the box around the sphere that may hold something; None for the whole sphere.
    Differentiable in planes, weights and biases.
    """
    weights, biases = list(weights), list(biases)

    def query(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        places, inside = frame.coordinates(points, planes.shape[1])
        values = decode(sample_planes(planes, places), weights, biases)
        inside = inside & (points.square().sum(dim=1) <= frame.radius**2)
        density = torch.where(inside, GAIN / frame.radius * F.softplus(values[:, 0]), 0.0)
        return density, torch.sigmoid(values[:, 1:])

    bounds = constant([[-frame.radius] * 3, [frame.radius] * 3], planes)
    occupied = sent(sphere_cells(_CELLS), planes.device) if occupancy is None else occupancy
    return RadianceField(query, bounds, occupied)


@cache
def sphere_cells(cells: int) -> Bool[Tensor, "G G G"]:
    """The cells of a box that its inscribed sphere touches. cells: G, number of cells along each side."""
    edges = torch.linspace(-1.0, 1.0, cells + 1)
    nearest = torch.where(edges[:-1] > 0, edges[:-1], torch.where(edges[1:] < 0, edges[1:], 0.0)).square()
    return nearest[:, None, None] + nearest[None, :, None] + nearest[None, None, :] <= 1.0
