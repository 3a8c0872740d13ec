"""The world of a capture, which programs that find poses choose freely: turned upright, centred and scaled.

An asset stands at the origin of a world with +Y up and fills the unit sphere there. Cameras tell where it is:
people hold them level and point them at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.types import Cameras
from threedgen.datasets.multiview import PosedPictures, object_reach

RADIUS = 0.9  # world units, of the ball to which an object with a known outline is scaled
_CLEAR = 0.1  # smallest share of the variance of right-hand axes that makes the level plane clear
_AROUND = 1e-3  # smallest eigenvalue, a camera, of the system of optical axes that meet somewhere
_NEAR, _TOO_SMALL, _TOO_LARGE = 0.5, 0.25, 2.0  # in world units: what is left where it is


def level(poses: Float[Tensor, "B 4 4"]) -> tuple[Float[Tensor, " 3"], bool]:
    """The upward direction of a world with these OpenCV camera-to-world matrices, and whether it is clear.

    The right-hand axes of cameras that are not rolled are level, so up is perpendicular to all of them. If they do
    not span a plane, up is the mean of the upward axes of the cameras, and it is not clear.
    """
    right, upward = poses[:, :3, 0], -poses[:, :3, 1].mean(0)
    values, vectors = torch.linalg.eigh(right.T @ right / len(right))
    if values[1] - values[0] < _CLEAR or upward.norm() < _CLEAR:
        return F.normalize(upward, dim=0), False
    normal = vectors[:, 0]
    return normal * torch.sign(normal @ upward), True


def turn_upright(poses: Float[Tensor, "B 4 4"]) -> Float[Tensor, "4 4"]:
    """The smallest rotation of the world that makes +Y its upward direction (see `level`)."""
    up, target = level(poses)[0], poses.new_tensor([0.0, 1.0, 0.0])
    axis, cosine = torch.linalg.cross(up, target), float(up @ target)
    matrix = torch.eye(4, dtype=poses.dtype)
    if cosine < -1.0 + 1e-9:
        matrix[1, 1] = matrix[2, 2] = -1.0
        return matrix
    x, y, z = axis.tolist()
    cross = poses.new_tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    matrix[:3, :3] += cross + cross @ cross / (1.0 + cosine)
    return matrix


def focus(pictures: PosedPictures) -> Float[Tensor, " 3"]:
    """The point nearest, in the sense of least squares, to the rays through the middle of what the pictures show.

    That is the mean of the opaque pixels of a picture, the middle of one without alpha. If the rays are parallel,
    it is the point of them that is nearest to the origin.
    """
    cameras = pictures.cameras
    alpha = pictures.alpha[..., 0].double()
    rows, columns = (torch.arange(side, dtype=torch.float64) + 0.5 for side in alpha.shape[1:])
    total = alpha.sum((1, 2))
    seen = total > 0.0
    middle = torch.stack([(alpha.sum(1) * columns).sum(1), (alpha.sum(2) * rows).sum(1)], dim=1)
    pixels = torch.cat([middle[seen] / total[seen, None], torch.ones(int(seen.sum()), 1)], dim=1)
    poses, matrices = cameras.world_from_camera[seen].double(), cameras.intrinsics[seen].double()
    rays = torch.einsum("bij,bj->bi", poses[:, :3, :3] @ torch.linalg.inv(matrices), pixels)
    rays = F.normalize(rays, dim=1)
    across = torch.eye(3, dtype=torch.float64) - rays[:, :, None] * rays[:, None, :]
    system, right = across.mean(0), (across @ poses[:, :3, 3:]).mean(0)[:, 0]
    values, vectors = torch.linalg.eigh(system)
    inverse = torch.where(values > _AROUND, 1.0 / values.clamp(min=1e-12), torch.zeros_like(values))
    return (vectors * inverse) @ (vectors.T @ right)


def ball_in_view(cameras: Cameras, center: Float[Tensor, " 3"]) -> float:
    """Radius, in world units, of the ball around `center` that fills the pictures; the median over the cameras."""
    half = (
        0.5
        * torch.tensor([cameras.width, cameras.height])
        / torch.stack([cameras.intrinsics[:, 0, 0], cameras.intrinsics[:, 1, 1]], dim=1)
    )
    distance = (cameras.centers.double() - center).norm(dim=1)
    return float((distance * half.amin(1).atan().sin()).median())


def moved(pictures: PosedPictures, center: Float[Tensor, " 3"], scale: float) -> PosedPictures:
    """The same pictures in a world in which `center` is the origin and everything is `scale` times as large."""
    poses = pictures.cameras.world_from_camera.double()
    poses[:, :3, 3] = (poses[:, :3, 3] - center) * scale
    origin, back = pictures.origin, pictures.origin.capture_from_world
    if back is not None:
        here = torch.eye(4, dtype=torch.float64)
        here[:3, :3] /= scale
        here[:3, 3] = center
        back = back @ here
    return replace(
        pictures,
        cameras=replace(pictures.cameras, world_from_camera=poses.float()),
        depths=None if pictures.depths is None else pictures.depths * scale,
        origin=replace(origin, points=((origin.points - center) * scale).float(), capture_from_world=back),
    )


def centred(pictures: PosedPictures) -> tuple[PosedPictures, str]:
    """The pictures with their object at the origin, in the unit ball, and what was done to it, "" if nothing.

    A world in which the object, or without alpha the ball that fills the pictures, lies around the origin and has a
    suitable size stays as it is. With alpha, an object around the origin that reaches out of the unit ball is
    scaled about the origin.
    """
    center, reach = focus(pictures), object_reach(pictures)
    near = float(center.norm()) <= _NEAR
    if reach > 0.0 and near and reach >= _TOO_SMALL:
        if reach <= 1.0:
            return pictures, ""
        return moved(pictures, torch.zeros(3, dtype=torch.float64), RADIUS / reach), (
            f"the object reached {reach:.2f} from the origin and was scaled into a ball of radius {RADIUS:g}"
        )
    if reach > 0.0:
        scale = RADIUS / object_reach(moved(pictures, center, 1.0))
    else:
        size = ball_in_view(pictures.cameras, center)
        if (near and _TOO_SMALL <= size <= _TOO_LARGE) or not size > 0.0:
            return pictures, ""
        scale = 1.0 / size
    return moved(pictures, center, scale), placed(pictures, center, scale)


def in_box(pictures: PosedPictures, box: Sequence[float]) -> tuple[PosedPictures, str, Float[Tensor, "2 3"]]:
    """The pictures with a box at the origin, in the ball of RADIUS; what was done; and the box in that world.

    box: its lower and its upper corner in the coordinates of the files. The result is the box with axes of the
    world that holds the eight corners. Raises UserError for corners in the wrong order.
    """
    low, high = torch.tensor(box, dtype=torch.float64).reshape(2, 3)
    if not bool(torch.isfinite(torch.stack([low, high])).all() and (low < high).all()):
        raise UserError(
            "--box needs the lower corner before the upper one: X Y Z X Y Z, smaller numbers first"
        )
    corners = torch.cartesian_prod(*torch.stack([low, high], dim=1))
    back = pictures.origin.capture_from_world
    if back is not None:
        corners = (corners - back[:3, 3]) @ torch.linalg.inv(back[:3, :3]).T
    center = corners.mean(0)
    scale = RADIUS / float((corners - center).norm(dim=1).max())
    corners = (corners - center) * scale
    done = placed(pictures, center, scale)
    return moved(pictures, center, scale), done, torch.stack([corners.amin(0), corners.amax(0)]).float()


def placed(pictures: PosedPictures, center: Float[Tensor, " 3"], scale: float) -> str:
    """That the world of `pictures` was moved, in the coordinates of their files."""
    back = pictures.origin.capture_from_world
    if back is not None:
        center, scale = back[:3, :3] @ center + back[:3, 3], scale / float(back[:3, 0].norm())
    place = ", ".join(f"{value:.3g}" for value in center.tolist())
    return f"the capture was centred on ({place}) and scaled by {scale:.3g}, which `export --in-place` undoes"
