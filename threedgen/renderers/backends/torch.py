"""Splatting in plain torch: differentiable by autograd, in float32 or float64, on any device.

It defines the result that every other backend must reproduce (Kerbl et al. 2023, "3D Gaussian Splatting", equations
4-6; low-pass filter and frustum clamp as in gsplat, arXiv:2409.06765):

1. A Gaussian is drawn if near <= z <= far (camera z of its mean) and its opacity is at least 1/255.
2. Projected covariance J W S W^T J^T + 0.3 I pixels^2; in J, x/z and y/z are clamped to the image widened by
   0.3 tan(fov / 2) on each side.
3. Gaussians are composited by increasing camera z, and by index if z is equal, with alpha
   a = min(0.999, opacity exp(-p)), p being the exponent at the pixel centre. A Gaussian is skipped if a < 1/255,
   and if the transmittance before it is below 1e-4.
4. colour = max(0, 0.5 + sum_k sh_k Y_k(direction from the camera centre)).

It is exact and slow: it is the reference of tests, and the backend if no compiled kernel exists.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedgen.core.types import Cameras, GaussianCloud

LOW_PASS = 0.3
FRUSTUM_MARGIN = 0.3
MAX_ALPHA = 0.999
MIN_ALPHA = 1.0 / 255.0
MIN_TRANSMITTANCE = 1e-4

_C0 = 0.28209479177387814
_C1 = 0.4886025119029199
_C2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792, 0.5462742152960396)
_C3 = (
    -0.5900435899266435,
    2.890611442640554,
    -0.4570457994644658,
    0.3731763325901154,
    -0.4570457994644658,
    1.445305721320277,
    -0.5900435899266435,
)


def sh_basis(directions: Float[Tensor, "N 3"], count: int) -> Float[Tensor, "N K"]:
    """The first `count` (1, 4, 9 or 16) real spherical harmonics, in the order and with the signs of Kerbl et
    al. 2023."""
    x, y, z = directions.unbind(-1)
    terms = [torch.full_like(x, _C0)]
    if count > 1:
        terms += [-_C1 * y, _C1 * z, -_C1 * x]
    if count > 4:
        terms += [
            _C2[0] * x * y,
            _C2[1] * y * z,
            _C2[2] * (2 * z * z - x * x - y * y),
            _C2[3] * x * z,
            _C2[4] * (x * x - y * y),
        ]
    if count > 9:
        terms += [
            _C3[0] * y * (3 * x * x - y * y),
            _C3[1] * x * y * z,
            _C3[2] * y * (4 * z * z - x * x - y * y),
            _C3[3] * z * (2 * z * z - 3 * x * x - 3 * y * y),
            _C3[4] * x * (4 * z * z - x * x - y * y),
            _C3[5] * z * (x * x - y * y),
            _C3[6] * x * (x * x - 3 * y * y),
        ]
    return torch.stack(terms, dim=-1)


def rotation_matrices(quats: Float[Tensor, "N 4"]) -> Float[Tensor, "N 3 3"]:
    """The rotation matrices of wxyz quaternions of any length; a zero quaternion gives the identity."""
    q = quats / quats.square().sum(-1, keepdim=True).clamp(min=1e-24).sqrt()
    w, x, y, z = q.unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def splat(
    cloud: GaussianCloud,
    cameras: Cameras,
    background: Float[Tensor, "B 3"],
    means2d: Float[Tensor, "B N 2"],
    block: int | None = 16,
) -> tuple[
    Float[Tensor, "B H W 3"], Float[Tensor, "B H W 1"], Float[Tensor, "B H W 1"], Float[Tensor, "B N"]
]:
    """Renders a cloud; returns (rgb over the solid background, alpha, depth, radii in pixels).

    means2d: added to the projected means (pixels); its gradient is for density control, its values should be zeros.
    block: side in pixels of the square blocks that are composited at once, each with the Gaussians whose
    bounding box overlaps it (the others are below 1/255 in it); None: the whole image with all Gaussians. The
    memory grows with the sum over the blocks of pixels x Gaussians. The radius of a Gaussian that cannot be
    visible is 0.
    """
    rgb, alpha, depth, radii = [], [], [], []
    for view in range(len(cameras)):
        picture = _splat_view(cloud, cameras, view, background[view], means2d[view], block)
        for values, value in zip((rgb, alpha, depth, radii), picture, strict=True):
            values.append(value)
    return torch.stack(rgb), torch.stack(alpha), torch.stack(depth), torch.stack(radii)


def _splat_view(
    cloud: GaussianCloud,
    cameras: Cameras,
    view: int,
    background: Float[Tensor, " 3"],
    offsets: Float[Tensor, "N 2"],
    block: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    height, width = cameras.height, cameras.width
    camera_from_world = cameras.camera_from_world[view]
    with torch.no_grad():
        z = cloud.means @ camera_from_world[2, :3] + camera_from_world[2, 3]
        drawn = (z >= cameras.near) & (z <= cameras.far) & (cloud.opacities >= MIN_ALPHA)
        candidates = torch.nonzero(drawn).squeeze(-1)
        order = candidates[torch.argsort(z[candidates], stable=True)]

    points = cloud.means[order] @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
    covariance, determinant = _project_covariance(cloud, cameras, view, order, points)
    opacities = cloud.opacities[order]
    intrinsics = cameras.intrinsics[view]
    focal, principal = intrinsics.diagonal()[:2], intrinsics[:2, 2]
    centers = focal * points[:, :2] / points[:, 2:] + principal + offsets[order]
    directions = torch.nn.functional.normalize(cloud.means[order] - cameras.centers[view], dim=-1)
    basis = sh_basis(directions, cloud.sh.shape[1])
    colors = (0.5 + torch.einsum("nk,nkc->nc", basis, cloud.sh[order])).clamp(min=0)
    features = torch.cat([colors, points[:, 2:]], dim=1)

    extents, on_screen, radii = _bounds(covariance, opacities, centers, z, order, height, width)
    xx, xy, yy = covariance.unbind(1)
    conics = torch.stack([yy, -xy, xx], dim=1) / determinant[:, None]

    rows = []
    step = block or max(height, width)
    for top in range(0, height, step):
        row = []
        for left in range(0, width, step):
            bottom, right = min(top + step, height), min(left + step, width)
            if block is None:
                chosen = torch.arange(len(order), device=order.device)
            else:
                low, high = extents.new_tensor([left, top]), extents.new_tensor([right, bottom])
                meets = ((centers + extents >= low) & (centers - extents <= high)).all(-1)
                chosen = torch.nonzero(meets & on_screen).squeeze(-1)
            pixels = _pixel_centres(top, bottom, left, right, centers)
            values = _composite(centers[chosen], conics[chosen], opacities[chosen], features[chosen], pixels)
            row.append(values.reshape(bottom - top, right - left, 5))
        rows.append(torch.cat(row, dim=1))
    image = torch.cat(rows, dim=0)
    alpha = image[..., 4:]
    return image[..., :3] + (1 - alpha) * background, alpha, image[..., 3:4], radii


def _project_covariance(
    cloud: GaussianCloud, cameras: Cameras, view: int, order: Int[Tensor, " n"], points: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
    """(xx, xy, yy) of the 2D covariances after the low-pass filter, and their determinants."""
    intrinsics = cameras.intrinsics[view]
    x, y, z = points.unbind(-1)
    slopes = []
    for ratio, axis, size in ((x / z, 0, cameras.width), (y / z, 1, cameras.height)):
        focal, principal = intrinsics[axis, axis].item(), intrinsics[axis, 2].item()
        margin = FRUSTUM_MARGIN * 0.5 * size / focal
        slopes.append(ratio.clamp(-principal / focal - margin, (size - principal) / focal + margin))
    fx, fy = intrinsics[0, 0], intrinsics[1, 1]
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [
            torch.stack([fx / z, zero, -fx * slopes[0] / z], dim=-1),
            torch.stack([zero, fy / z, -fy * slopes[1] / z], dim=-1),
        ],
        dim=-2,
    )
    rotation = cameras.camera_from_world[view, :3, :3] @ rotation_matrices(cloud.quats[order])
    factor = jacobian @ rotation * cloud.scales[order][:, None, :]
    u, v = factor.unbind(1)
    uu, uv, vv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    # det(V V^T + e I) by the cross product, because xx yy - xy^2 loses all digits for very thin Gaussians.
    determinant = torch.linalg.cross(u, v).square().sum(-1) + LOW_PASS * (uu + vv) + LOW_PASS**2
    return torch.stack([uu + LOW_PASS, uv, vv + LOW_PASS], dim=-1), determinant


@torch.no_grad()
def _bounds(
    covariance: Float[Tensor, "n 3"],
    opacities: Float[Tensor, " n"],
    centers: Float[Tensor, "n 2"],
    z: Float[Tensor, " N"],
    order: Int[Tensor, " n"],
    height: int,
    width: int,
) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, " n"], Float[Tensor, " N"]]:
    """Half sizes of the boxes outside which a < 1/255, whether they overlap the image, and the radius of each
    Gaussian."""
    reach = (2 * (opacities / MIN_ALPHA).log().clamp(min=0)).sqrt()
    extents = reach[:, None] * covariance[:, [0, 2]].sqrt() * (1 + 1e-4) + 1e-2
    size = centers.new_tensor([width, height])
    on_screen = ((centers + extents > 0) & (centers - extents < size)).all(-1)
    middle = 0.5 * (covariance[:, 0] + covariance[:, 2])
    spread = torch.hypot(0.5 * (covariance[:, 0] - covariance[:, 2]), covariance[:, 1])
    radii = torch.zeros_like(z)
    radii[order] = torch.where(on_screen, reach * (middle + spread).sqrt(), 0.0)
    return extents, on_screen, radii


def _pixel_centres(top: int, bottom: int, left: int, right: int, like: Tensor) -> Float[Tensor, "P 2"]:
    y = torch.arange(top, bottom, dtype=like.dtype, device=like.device) + 0.5
    x = torch.arange(left, right, dtype=like.dtype, device=like.device) + 0.5
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)


def _composite(
    centers: Float[Tensor, "n 2"],
    conics: Float[Tensor, "n 3"],
    opacities: Float[Tensor, " n"],
    features: Float[Tensor, "n 4"],
    pixels: Float[Tensor, "P 2"],
) -> Float[Tensor, "P 5"]:
    """Gaussians in the order of their depth, blended from front to back: (r, g, b, depth, alpha) at each pixel."""
    dx, dy = (pixels[None] - centers[:, None]).unbind(-1)
    xx, xy, yy = (term[:, None] for term in conics.unbind(-1))
    exponent = (0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy).clamp(min=0)
    alpha = (opacities[:, None] * torch.exp(-exponent)).clamp(max=MAX_ALPHA)
    alpha = torch.where(alpha >= MIN_ALPHA, alpha, 0.0)
    passed = torch.cumprod(1 - alpha, dim=0)
    before = torch.cat([torch.ones_like(passed[:1]), passed[:-1]])
    weights = torch.where(before >= MIN_TRANSMITTANCE, alpha * before, 0.0)
    return torch.cat([weights.T @ features, weights.sum(0)[:, None]], dim=1)
