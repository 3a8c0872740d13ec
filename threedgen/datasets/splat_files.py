"""Gaussian clouds as files: the .ply layout of 3D Gaussian Splatting (Kerbl et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.types import GaussianCloud

_MAX_LOGIT = 16.0  # opacities 0 and 1 have no finite logit; float32's sigmoid(+-16) is within 1.2e-7 of them


@dataclass(frozen=True)
class SplatParameters:
    """The numbers that such a file stores, before activation, in float32.

    means: [N, 3], world units. quats: [N, 4], (w, x, y, z), not normalised. log_scales: [N, 3], natural logarithms
    of world units. opacity_logits: [N]. sh: [N, K, 3], coefficients of spherical harmonics.
    """

    means: Float[Tensor, "N 3"]
    quats: Float[Tensor, "N 4"]
    log_scales: Float[Tensor, "N 3"]
    opacity_logits: Float[Tensor, " N"]
    sh: Float[Tensor, "N K 3"]

    @classmethod
    def from_cloud(cls, cloud: GaussianCloud) -> SplatParameters:
        """The numbers of a cloud before its activations; opacities 0 and 1 become the logits -16 and 16."""
        opacities = cloud.opacities.detach().cpu().double()
        return cls(
            means=cloud.means.detach().cpu().float(),
            quats=cloud.quats.detach().cpu().float(),
            log_scales=cloud.scales.detach().cpu().double().log().float(),
            opacity_logits=torch.logit(opacities).clamp(-_MAX_LOGIT, _MAX_LOGIT).float(),
            sh=cloud.sh.detach().cpu().float(),
        )

    def cloud(self) -> GaussianCloud:
        """The activated Gaussians."""
        return GaussianCloud(
            self.means, self.quats, self.log_scales.exp(), self.opacity_logits.sigmoid(), self.sh
        )


def read_splats(path: str | Path) -> SplatParameters:
    """Reads such a file. Properties are found by name, in any order; others are ignored.

    Raises UserError if it is missing, is no binary PLY of float32 Gaussians, or is cut short.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    header, marker, body = raw.partition(b"end_header\n")
    lines = header.decode("ascii", errors="replace").split("\n")
    if lines[0] != "ply" or not marker or "format binary_little_endian 1.0" not in lines:
        raise UserError(f"{path} is no binary little-endian PLY file")
    words = [line.split() for line in lines]
    counts = [int(w[2]) for w in words if w[:2] == ["element", "vertex"] and len(w) == 3 and w[2].isdigit()]
    properties = [w for w in words if w[:1] == ["property"]]
    if len(counts) != 1 or sum(w[:1] == ["element"] for w in words) != 1:
        raise UserError(f"{path} holds other things than Gaussians: it must have the one element 'vertex'")
    if any(len(w) != 3 or w[1] not in ("float", "float32") for w in properties):
        raise UserError(f"{path} holds properties that are not float32")
    column = {w[2]: index for index, w in enumerate(properties)}
    if len(column) != len(properties):
        raise UserError(f"{path} names a property twice in its header: write the file again")
    coefficients = 1 + sum(name.startswith("f_rest_") for name in column) // 3
    missing = [n for n in _names(coefficients) if n not in column and n not in ("nx", "ny", "nz")]
    if missing or coefficients not in (1, 4, 9, 16):
        lacking = missing[0] if missing else "f_rest_*"
        raise UserError(f"{path} holds no 3D Gaussians: property {lacking} is missing")
    if len(body) < 4 * counts[0] * len(column):
        raise UserError(
            f"{path} is cut short: its header announces {counts[0]} Gaussians, but it holds fewer"
        )
    table = np.frombuffer(body, "<f4", counts[0] * len(column)).reshape(counts[0], len(column))

    def take(*names: str) -> Tensor:
        return torch.from_numpy(table[:, [column[name] for name in names]].astype(np.float32))

    rest = take(*(f"f_rest_{i}" for i in range(3 * (coefficients - 1))))
    dc = take("f_dc_0", "f_dc_1", "f_dc_2").unsqueeze(1)
    return SplatParameters(
        means=take("x", "y", "z"),
        quats=take("rot_0", "rot_1", "rot_2", "rot_3"),
        log_scales=take("scale_0", "scale_1", "scale_2"),
        opacity_logits=take("opacity").squeeze(1),
        sh=torch.cat([dc, rest.reshape(counts[0], 3, coefficients - 1).transpose(1, 2)], dim=1),
    )


def _names(coefficients: int) -> list[str]:
    """The properties of a file of Gaussians with so many coefficients, in the order in which they are written."""
    rest = [f"f_rest_{i}" for i in range(3 * (coefficients - 1))]
    dc = ["f_dc_0", "f_dc_1", "f_dc_2"]
    scale_and_rotation = ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    return ["x", "y", "z", "nx", "ny", "nz", *dc, *rest, "opacity", *scale_and_rotation]
