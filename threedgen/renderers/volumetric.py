"""What the backends of the volume renderer share: rays, how they are marched, and how a field is asked.

The way of a ray through the field's box is cut into intervals of `step` world units, the last one shorter. Each has
one sample, in its middle or, with jitter, at one random fraction of it per ray. A sample counts only where the
field's occupancy does not say that its cell is empty; the others cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedgen.core.types import Cameras, RadianceField


@dataclass(frozen=True)
class Rays:
    """R rays in world space, float64 wherever the device has it: which cell a sample lies in must not be rounded.

    origins: [R, 3]. directions: [R, 3] unit. starts, ends: [R] distances between which the ray is inside the box
    and between the camera's near and far planes; end <= start where it never is. slopes: [R] camera z a unit of
    distance. fractions: [R] where in its interval a sample lies, in [0, 1).
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
    """How rays are marched: interval length in world units; the most intervals on a ray; the transmittance below
    which nothing behind counts; how far from a sample the density is probed for its normal, None for no normals;
    and whether each ray's distortion is computed.
    """

    step: float
    limit: int
    early_stop: float
    probe: float | None
    distortion: bool


@dataclass(frozen=True)
class Composited:
    """What R rays show: features [R, F] (see `ask`), alpha [R], depth [R] (sum of weight x camera z), and
    distortion [R] where it was asked for.
    """

    features: Float[Tensor, "R F"]
    alpha: Float[Tensor, " R"]
    depth: Float[Tensor, " R"]
    distortion: Float[Tensor, " R"] | None


@dataclass(frozen=True)
class Samples:
    """M samples, by ray and by distance. ray: [M] row of the rays. points: [M, 3] and directions: [M, 3] in the
    world. z: [M] camera z. lengths: [M] of the intervals.
    """

    ray: Int[Tensor, " M"]
    points: Float[Tensor, "M 3"]
    directions: Float[Tensor, "M 3"]
    z: Float[Tensor, " M"]
    lengths: Float[Tensor, " M"]


def camera_rays(cameras: Cameras, bounds: Float[Tensor, "2 3"], rng: torch.Generator | None) -> Rays:
    """One ray through each pixel centre, R = B x H x W in that order; fractions from `rng`, or all 0.5."""
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
    # Where a ray enters and leaves each slab; a direction of 0 is made tiny, so that 0 / 0 does not arise.
    safe = torch.where(directions == 0, torch.finfo(exact).tiny, directions)
    first, second = (low - origins) / safe, (high - origins) / safe
    starts = torch.maximum(torch.minimum(first, second).amax(-1), cameras.near / slopes)
    ends = torch.minimum(torch.maximum(first, second).amin(-1), cameras.far / slopes)
    if rng is None:
        fractions = torch.full_like(starts, 0.5)
    else:
        fractions = torch.rand(shape, generator=rng).reshape(-1).to(starts)
    return Rays(origins, directions, starts, ends, slopes, fractions)


def in_occupied_cell(field: RadianceField, points: Float[Tensor, "M 3"]) -> Bool[Tensor, " M"]:
    """Whether the field's occupancy says that something may be there; everywhere where it has none. Points outside
    the box count to the nearest cell."""
    if field.occupancy is None:
        return torch.ones(len(points), dtype=torch.bool, device=points.device)
    cells = len(field.occupancy)
    low, high = field.bounds.to(points)
    cell = ((points - low) / (high - low) * cells).floor().long().clamp(0, cells - 1)
    return field.occupancy.to(points.device)[cell[:, 0], cell[:, 1], cell[:, 2]]


def ask(
    field: RadianceField,
    points: Float[Tensor, "M 3"],
    directions: Float[Tensor, "M 3"],
    probe: float | None,
) -> tuple[Float[Tensor, " M"], Float[Tensor, "M F"]]:
    """Density, and what is to be composited: rgb (F = 3), and with `probe` the unit normal behind it (F = 6).

    The normal points against the density's gradient, which is the difference of four densities at the corners of a
    tetrahedron around the sample: any field has it, and it is differentiable where the field is. It is zero where
    the density does not change. Raises ValueError where the field breaks its contract.
    """
    density, rgb = field.query(points, directions)
    count = len(points)
    if tuple(density.shape) != (count,) or tuple(rgb.shape) != (count, 3):
        raise ValueError(
            f"field.query must return density [{count}] and rgb [{count}, 3], "
            f"got {tuple(density.shape)} and {tuple(rgb.shape)}"
        )
    if count > 0:
        least, most = torch.aminmax(density.detach())
        if not (least >= 0 and most < torch.inf):
            raise ValueError(
                f"field.query returned a density that is negative or not finite (between {float(least)} and "
                f"{float(most)})"
            )
    if probe is None:
        return density, rgb
    corners = points.new_tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    gradient = torch.zeros_like(points)
    for corner in corners:
        beside = points + probe * corner
        inside = ((beside >= field.bounds[0]) & (beside <= field.bounds[1])).all(-1)
        value = torch.where(inside, field.query(beside, directions)[0], 0.0)
        gradient = gradient + value[:, None] * corner
    return density, torch.cat([rgb, -torch.nn.functional.normalize(gradient, dim=-1)], dim=1)
