"""Similarities of meshes and of clouds of Gaussians, including its colours that depend on the direction, and
quaternions.

The conventions are those of docs/methods.md, "Gaussian splatting".
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.spherical_harmonics import rotate
from threedgen.core.types import GaussianCloud, TriMesh


def transform(
    cloud: GaussianCloud,
    rotation: Float[Tensor, "3 3"] | None = None,
    translation: Float[Tensor, " 3"] | None = None,
    scale: float = 1.0,
) -> GaussianCloud:
    """The cloud under x' = scale * rotation @ x + translation.

    rotation: a proper rotation (determinant +1), because no quaternion is a mirror image. translation: in world
    units. Raises ValueError for a matrix that is not a rotation or a scale that is not positive.
    """
    if not scale > 0.0:
        raise ValueError(f"scale must be positive, got {scale}")
    means, quats, sh = cloud.means, cloud.quats, cloud.sh
    if rotation is not None:
        check_rotation(rotation)
        turn = rotation.to(means)
        means = means @ turn.T
        quats = quat_multiply(quat_from_matrix(rotation).to(quats), quats)
        sh = rotate(sh, rotation)
    means = scale * means
    if translation is not None:
        means = means + translation.to(means)
    return GaussianCloud(means, quats, scale * cloud.scales, cloud.opacities, sh)


def transform_mesh(
    mesh: TriMesh, rotation: Float[Tensor, "3 3"], translation: Float[Tensor, " 3"], scale: float
) -> TriMesh:
    """The mesh under x' = scale * rotation @ x + translation; see `transform`."""
    check_rotation(rotation)
    turn = rotation.to(mesh.vertices)
    return replace(
        mesh,
        vertices=scale * mesh.vertices @ turn.T + translation.to(mesh.vertices),
        normals=None if mesh.normals is None else mesh.normals @ turn.T,
    )


def check_rotation(rotation: Float[Tensor, "3 3"]) -> None:
    """Raises ValueError unless the matrix is orthonormal with determinant +1 (within 1e-4)."""
    matrix = rotation.detach().double().cpu()
    error = (matrix @ matrix.T - torch.eye(3, dtype=torch.float64)).abs().max()
    if not (error < 1e-4 and torch.linalg.det(matrix) > 0):
        raise ValueError("rotation must be a proper rotation matrix (orthonormal, determinant +1)")


def quat_from_matrix(rotation: Float[Tensor, "3 3"]) -> Float[Tensor, " 4"]:
    """The unit quaternion (w, x, y, z) of a rotation matrix, with w >= 0; computed in float64.

    It is the eigenvector of the largest eigenvalue of a symmetric 4x4 matrix (Bar-Itzhack 2000), which needs no
    special case near half turns.
    """
    r = rotation.detach().double().cpu()
    (a, b, c), (d, e, f), (g, h, i) = r.tolist()
    matrix = torch.tensor(
        [
            [a + e + i, h - f, c - g, d - b],
            [h - f, a - e - i, b + d, c + g],
            [c - g, b + d, e - a - i, f + h],
            [d - b, c + g, f + h, i - a - e],
        ],
        dtype=torch.float64,
    )
    quat = torch.linalg.eigh(matrix).eigenvectors[:, -1]
    return (-quat if quat[0] < 0 else quat).to(rotation)


def quat_from_vector(vectors: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape 4"]:
    """The unit quaternions (w, x, y, z) of rotation vectors, axes times angles in radians; smooth at zero."""
    half = 0.5 * vectors
    # The slope of a length is not finite at 0. Below the clamp both cos(x) and sin(x) / x are 1 to the last bit.
    angle = half.square().sum(-1, keepdim=True).clamp_min(1e-24).sqrt()
    return torch.cat([angle.cos(), half * (angle.sin() / angle)], dim=-1)


def vector_from_quat(quats: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape 3"]:
    """The rotation vectors of unit quaternions, the shortest way round: lengths in [0, pi]; smooth at 0."""
    quats = torch.where(quats[..., :1] < 0.0, -quats, quats)
    sine = quats[..., 1:].square().sum(-1, keepdim=True).clamp_min(1e-24).sqrt()
    return quats[..., 1:] * (2.0 * torch.atan2(sine, quats[..., :1]) / sine)


def quat_multiply(p: Float[Tensor, "*#shape 4"], q: Float[Tensor, "*#shape 4"]) -> Float[Tensor, "*shape 4"]:
    """The Hamilton product of quaternions (w, x, y, z): the rotation q followed by p."""
    p, q = torch.broadcast_tensors(p, q)
    (pw, pv), (qw, qv) = (value.split((1, 3), dim=-1) for value in (p, q))
    vector = pw * qv + qw * pv + torch.linalg.cross(pv, qv, dim=-1)
    return torch.cat([pw * qw - (pv * qv).sum(-1, keepdim=True), vector], dim=-1)


def matrix_from_quat(quats: Float[Tensor, "N 4"]) -> Float[Tensor, "N 3 3"]:
    """The rotation matrices of quaternions (w, x, y, z) of any length but zero; columns are the rotated axes."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def covariances(cloud: GaussianCloud) -> Float[Tensor, "N 3 3"]:
    """R S S^T R^T of each Gaussian, in world units squared (Kerbl et al. 2023, equation 6)."""
    factor = matrix_from_quat(cloud.quats) * cloud.scales[:, None, :]
    return factor @ factor.transpose(1, 2)
