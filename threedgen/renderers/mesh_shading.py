"""What the mesh backends share: camera space, perspective-correct interpolation, textures and face normals.

Everything here is differentiable torch in the dtype and on the device of its arguments. Only which face a pixel
sees is computed by a backend.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedgen.core.types import Cameras


def to_camera(vertices: Float[Tensor, "V 3"], cameras: Cameras) -> Float[Tensor, "B V 3"]:
    """Vertices in each camera's own axes (x right, y down, z forward)."""
    matrix = cameras.camera_from_world
    return torch.baddbmm(matrix[:, None, :3, 3], vertices.expand(len(cameras), -1, -1), matrix[:, :3, :3].mT)


def facing(points: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"]) -> Bool[Tensor, "B F"]:
    """Whether each camera sees the corners of each face counter-clockwise."""
    a, b, c = (points.detach()[:, faces[:, i]] for i in range(3))
    return (torch.linalg.cross(b - a, c - a) * a).sum(-1) < 0


def face_normals(vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "F 3"]:
    """Unit normals on the side from which the corners are counter-clockwise; zero for a face without area."""
    a, b, c = (vertices.index_select(0, faces[:, i]) for i in range(3))
    return torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1, eps=1e-30)


def corner_weights(
    corners: Float[Tensor, "*N 3 3"],
    intrinsics: Float[Tensor, "*N 3 3"],
    row: Int[Tensor, "*N"],
    column: Int[Tensor, "*N"],
) -> Float[Tensor, "*N 3"]:
    """d.(b x c), d.(c x a), d.(a x b) for camera-space corners and the rays d = (dx, dy, 1) of pixel centres.

    They are computed from X - dx Z and Y - dy Z, the corners' offsets from the ray, in which no digits cancel.
    All have one sign if the ray meets the face (on either side of the camera); divided by their sum they are
    the perspective-correct barycentric coordinates.
    """
    dx, dy = rays(intrinsics, row, column)
    z = corners[..., 2]
    x, y = corners[..., 0] - dx[..., None] * z, corners[..., 1] - dy[..., None] * z
    # Of the corner after each one, and of the last: turned, because a GPU is waited for if a list is an index.
    (x_after, y_after), (x_last, y_last) = (x.roll(-1, -1), y.roll(-1, -1)), (x.roll(1, -1), y.roll(1, -1))
    return x_after * y_last - x_last * y_after


def rays(
    intrinsics: Float[Tensor, "*N 3 3"], row: Int[Tensor, "*N"], column: Int[Tensor, "*N"]
) -> tuple[Float[Tensor, "*N"], Float[Tensor, "*N"]]:
    """x and y of the rays (x, y, 1) through pixel centres."""
    dx = (column + 0.5 - intrinsics[..., 0, 2]) / intrinsics[..., 0, 0]
    dy = (row + 0.5 - intrinsics[..., 1, 2]) / intrinsics[..., 1, 1]
    return dx, dy


def interpolate(
    points: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    cameras: Cameras,
    face_id: Int[Tensor, "B H W"],
    attributes: Float[Tensor, "V C"],
) -> Float[Tensor, "B H W C+2"]:
    """The attributes at each pixel, then 1 and camera z; all zero if face_id is -1.

    points: vertices in the cameras' own axes. Differentiable in points and attributes. Weights that are negative by
    rounding count as zero, so that values stay within those of the corners.
    """
    view, row, column = torch.nonzero(face_id >= 0, as_tuple=True)
    triangles = faces[face_id[view, row, column].long()]
    corners = points.flatten(0, 1)[triangles + (view * points.shape[1])[:, None]]
    weights = corner_weights(corners, cameras.intrinsics[view], row, column)
    weights = (weights * torch.where(weights.detach().sum(-1, keepdim=True) < 0, -1.0, 1.0)).clamp(min=0)
    total = weights.sum(-1, keepdim=True)
    edge_on = total <= 0
    weights = torch.where(edge_on, 1.0 / 3.0, weights / torch.where(edge_on, 1.0, total))
    values = (weights[..., None] * attributes[triangles]).sum(1)
    depth = (weights * corners[..., 2]).sum(-1, keepdim=True)
    image = points.new_zeros(*face_id.shape, attributes.shape[1] + 2)
    return image.index_put((view, row, column), torch.cat([values, torch.ones_like(depth), depth], dim=-1))


def sample_texture(texture: Float[Tensor, "H W 3"], uvs: Float[Tensor, "P 2"]) -> Float[Tensor, "P 3"]:
    """Bilinear colours at uvs. v = 0 is at the top, texel centres are at (i + 0.5) / size, and the border is
    repeated.

    Differentiable in texture and uvs.
    """
    sampled = torch.nn.functional.grid_sample(
        texture.permute(2, 0, 1)[None],
        (2.0 * uvs - 1.0)[None, None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return sampled[0, :, 0].T


def box_filter(images: Float[Tensor, "B H W C"], factor: int) -> Float[Tensor, "B h w C"]:
    """The averages of blocks of factor x factor pixels."""
    count, height, width, channels = images.shape
    blocks = images.reshape(count, height // factor, factor, width // factor, factor, channels)
    return blocks.mean(dim=(2, 4))
