"""Real spherical harmonics up to degree 3 in the basis of 3D Gaussian Splatting, and their rotation.

The signs are those of Condon and Shortley (degree 1 is -y, z, -x), as in Kerbl et al. 2023 and in the glTF
extension KHR_gaussian_splatting.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

DC = 0.28209479177387814  # Y_00 = 1 / (2 sqrt(pi))


def dc_from_rgb(rgb: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape 3"]:
    """The constant coefficient that gives the colour `rgb`: colour = 0.5 + DC * coefficient."""
    return (rgb - 0.5) / DC


def basis(directions: Float[Tensor, "M 3"], degree: int) -> Float[Tensor, "M K"]:
    """The K = (degree + 1)^2 basis functions at unit `directions`. Raises ValueError unless degree is 0 to 3."""
    if not 0 <= degree <= 3:
        raise ValueError(f"degree must be 0, 1, 2 or 3, got {degree}")
    x, y, z = directions.unbind(-1)
    columns = [torch.full_like(x, DC)]
    if degree >= 1:
        c = math.sqrt(3.0 / (4.0 * math.pi))
        columns += [-c * y, c * z, -c * x]
    if degree >= 2:
        c = math.sqrt(15.0 / (4.0 * math.pi))
        columns += [
            c * x * y,
            -c * y * z,
            math.sqrt(5.0 / (16.0 * math.pi)) * (2 * z * z - x * x - y * y),
            -c * x * z,
            0.5 * c * (x * x - y * y),
        ]
    if degree >= 3:
        a, b = math.sqrt(35.0 / (32.0 * math.pi)), math.sqrt(21.0 / (32.0 * math.pi))
        c = math.sqrt(105.0 / (4.0 * math.pi))
        columns += [
            -a * y * (3 * x * x - y * y),
            c * x * y * z,
            -b * y * (4 * z * z - x * x - y * y),
            math.sqrt(7.0 / (16.0 * math.pi)) * z * (2 * z * z - 3 * x * x - 3 * y * y),
            -b * x * (4 * z * z - x * x - y * y),
            0.5 * c * z * (x * x - y * y),
            -a * x * (x * x - 3 * y * y),
        ]
    return torch.stack(columns, dim=-1)


def rotate(sh: Float[Tensor, "N K 3"], rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "N K 3"]:
    """Coefficients of the function turned by `rotation`: the new colour at R d is the old colour at d.

    They are the least-squares fit over more directions than there are coefficients. A rotation maps each degree to
    itself, so the fit is exact up to rounding; it is computed in float64.
    """
    degree = math.isqrt(sh.shape[1]) - 1
    if degree == 0:
        return sh
    directions = _directions()
    fitted = basis(directions, degree)
    turned = basis(directions @ rotation.double().cpu(), degree)  # rows are R^T d
    matrix = torch.linalg.lstsq(fitted, turned).solution
    whole = matrix.round()  # half turns about an axis only change signs: they shall be exact
    matrix = torch.where((matrix - whole).abs() < 1e-12, whole, matrix)
    return torch.einsum("kl,nlc->nkc", matrix.to(sh), sh)


@cache
def _directions() -> Float[Tensor, "64 3"]:
    """A Fibonacci lattice on the unit sphere."""
    index = torch.arange(64, dtype=torch.float64) + 0.5
    z = 1.0 - 2.0 * index / 64
    angle = index * (math.pi * (3.0 - math.sqrt(5.0)))
    radius = torch.sqrt(1.0 - z * z)
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle), z], dim=-1)
