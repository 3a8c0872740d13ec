"""What the backends of the volume renderer share: rays, how they are marched, and how a field is evaluated.

The segment of a ray inside the field's box is cut into intervals of `step` world units, the last one shorter.
Each has one sample, in its middle or, with jitter, at a random fraction of it, which is the same for all
intervals of a ray. The samples in cells that are empty according to the field's occupancy are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedgen.core.transfer import constant, sent_as
from threedgen.core.types import Cameras, RadianceField

BAD_DENSITY = "field.query returned a density that is negative or not finite"


@dataclass(frozen=True)
class Rays:
    """R rays in world space, in float64 if the device has it, so that the cell of a sample does not depend on
    rounding.

    origins: [R, 3]. directions: [R, 3] unit vectors. starts, ends: [R] distances between which the ray is
    inside the box and between the camera's near and far planes; end <= start if it never is. slopes: [R] camera
    z for a unit of distance. fractions: [R] the place of a sample in its interval, in [0, 1).
    """

    origins: Float[Tensor, "R 3"]
    directions: Float[Tensor, "R 3"]
    starts: Float[Tensor, " R"]
    ends: Float[Tensor, " R"]
    slopes: Float[Tensor, " R"]
    fractions: Float[Tensor, " R"]

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, rows: slice) -> Rays:
        return Rays(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})


@dataclass(frozen=True)
class Marching:
    """How rays are marched.

    step: length of an interval in world units. limit: the largest number of intervals on a ray. early_stop:
    transmittance below which samples do not count. probe: distance in world units from a sample at which
    densities are evaluated for its normal; None: no normals. distortion: whether each ray's distortion is
    computed.
    """

    step: float
    limit: int
    early_stop: float
    probe: float | None
    distortion: bool


@dataclass(frozen=True)
class Composited:
    """What R rays show.

    features: [R, F] see `evaluate`. alpha: [R]. depth: [R] sum of weight x camera z. distortion: [R], or None if it
    was not requested.
    """

    features: Float[Tensor, "R F"]
    alpha: Float[Tensor, " R"]
    depth: Float[Tensor, " R"]
    distortion: Float[Tensor, " R"] | None


@dataclass(frozen=True)
class Samples:
    """M samples in the order of the rays and their distances.

    ray: [M] the row of each sample's ray. points, directions: [M, 3] in the world. z: [M] camera z. lengths:
    [M] of the intervals in world units.
    """

    ray: Int[Tensor, " M"]
    points: Float[Tensor, "M 3"]
    directions: Float[Tensor, "M 3"]
    z: Float[Tensor, " M"]
    lengths: Float[Tensor, " M"]


def camera_rays(cameras: Cameras, bounds: Float[Tensor, "2 3"], rng: torch.Generator | None) -> Rays:
    """One ray through each pixel centre, R = B x H x W in that order. Fractions are drawn from `rng`, or all
    0.5."""
    device = bounds.device
    exact = torch.float32 if device.type == "mps" else torch.float64
    poses, intrinsics = cameras.world_from_camera.to(exact), cameras.intrinsics.to(exact)
    low, high = bounds.to(exact)
    y = torch.arange(cameras.height, device=device, dtype=exact) + 0.5
    x = torch.arange(cameras.width, device=device, dtype=exact) + 0.5
    focal, principal = intrinsics.diagonal(dim1=1, dim2=2)[:, :2], intrinsics[:, :2, 2]
    across = (x - principal[:, :1]) / focal[:, :1]
    down = (y - principal[:, 1:]) / focal[:, 1:]
    shape = (len(cameras), cameras.height, cameras.width)
    across, down = across[:, None, :].expand(shape), down[:, :, None].expand(shape)
    local = torch.stack([across, down, torch.ones_like(across)], dim=-1)
    length = torch.linalg.vector_norm(local, dim=-1, keepdim=True)
    directions = torch.einsum("bij,bhwj->bhwi", poses[:, :3, :3], local / length).reshape(-1, 3)
    origins = poses[:, None, None, :3, 3].expand(*shape, 3).reshape(-1, 3)
    slopes = (1 / length).reshape(-1)
    # The distances at which a ray enters and leaves each slab. A direction of 0 is made tiny, to avoid 0 / 0.
    safe = torch.where(directions == 0, torch.finfo(exact).tiny, directions)
    first, second = (low - origins) / safe, (high - origins) / safe
    starts = torch.maximum(torch.minimum(first, second).amax(-1), cameras.near / slopes)
    ends = torch.minimum(torch.maximum(first, second).amin(-1), cameras.far / slopes)
    if rng is None:
        fractions = torch.full_like(starts, 0.5)
    else:
        fractions = sent_as(torch.rand(shape, generator=rng).reshape(-1), starts)
    return Rays(origins, directions, starts, ends, slopes, fractions)


def in_occupied_cell(field: RadianceField, points: Float[Tensor, "M 3"]) -> Bool[Tensor, " M"]:
    """Whether each point's cell may hold something according to the field's occupancy; true if the field has none.
    Points outside the box belong to the nearest cell."""
    if field.occupancy is None:
        return torch.ones(len(points), dtype=torch.bool, device=points.device)
    cells = len(field.occupancy)
    low, high = field.bounds.to(points)
    cell = ((points - low) / (high - low) * cells).floor().long().clamp(0, cells - 1)
    return field.occupancy.to(points.device)[cell[:, 0], cell[:, 1], cell[:, 2]]


def evaluate(
    field: RadianceField,
    points: Float[Tensor, "M 3"],
    directions: Float[Tensor, "M 3"],
    probe: float | None,
) -> tuple[Float[Tensor, " M"], Float[Tensor, "M F"]]:
    """The density, and the features that are composited: rgb (F = 3), with `probe` followed by the unit normal
    (F = 6).

    The normal points against the density's gradient, which is estimated from four densities at the corners of a
    tetrahedron around the sample. So every field has it, and it is differentiable if the field is. It is zero
    if the density does not change. Raises ValueError if the field returns wrong shapes or, on the CPU, a density
    that is negative or not finite. On a GPU such a density becomes NaN.
    """
    density, rgb = field.query(points, directions)
    count = len(points)
    if tuple(density.shape) != (count,) or tuple(rgb.shape) != (count, 3):
        raise ValueError(
            f"field.query must return density [{count}] and rgb [{count}, 3], "
            f"got {tuple(density.shape)} and {tuple(rgb.shape)}"
        )
    density = _refused(density)
    if probe is None:
        return density, rgb
    corners = constant([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], points)
    gradient = torch.zeros_like(points)
    for corner in corners:
        beside = points + probe * corner
        inside = ((beside >= field.bounds[0]) & (beside <= field.bounds[1])).all(-1)
        value = torch.where(inside, field.query(beside, directions)[0], 0.0)
        gradient = gradient + value[:, None] * corner
    return density, torch.cat([rgb, -torch.nn.functional.normalize(gradient, dim=-1)], dim=1)


def _refused(density: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
    """The densities, if none is negative or not finite; else a ValueError, or NaN for those on a GPU.

    A GPU would have to be waited for in every step. NaN reaches the picture, where the renderer refuses it, and in
    training the loss, which the watchdog reads anyway.
    """
    if density.device.type != "cpu":
        return torch.where((density >= 0) & (density < torch.inf), density, torch.nan)
    if len(density) > 0:
        least, most = torch.aminmax(density.detach())
        if not (least >= 0 and most < torch.inf):
            raise ValueError(f"{BAD_DENSITY} (between {float(least)} and {float(most)})")
    return density
