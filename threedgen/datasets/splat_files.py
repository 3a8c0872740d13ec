"""Gaussian clouds as files: the .ply layout of 3D Gaussian Splatting (Kerbl et al. 2023).

The world of threedgen has +Y up, files of that layout usually have Y down. A comment in the files of threedgen says
which way is up in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.spherical_harmonics import rotate
from threedgen.core.transforms import quat_multiply
from threedgen.core.types import GaussianCloud

# Which axis of a file points up: the degrees by which the world is turned about +X to become that file.
TURNS = {"y": 0, "-y": 180, "z": 90, "-z": -90}
SIGNATURE = "threedgen"  # the first comment of our files
UP_COMMENT = "up: "

_MAX_LOGIT = 16.0  # opacities 0 and 1 have no finite logit; float32's sigmoid(+-16) is within 1.2e-7 of them
_BARELY = 0.05  # opacity of Gaussians that count when an asset is measured


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

    def turned(self, degrees: int) -> SplatParameters:
        """The Gaussians turned about +X, with their rotations and colours.

        degrees: a multiple of 90. Half turns only change signs, so they are exact, and -180 undoes 180.
        """
        if degrees == 0:
            return self
        angle = math.radians(degrees)
        cos, sin = float(round(math.cos(angle))), float(round(math.sin(angle)))
        rotation = torch.tensor([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
        half = [round(math.cos(0.5 * angle), 12), round(math.sin(0.5 * angle), 12), 0.0, 0.0]
        return replace(
            self,
            means=self.means @ rotation.T,
            quats=quat_multiply(torch.tensor(half), self.quats),
            sh=rotate(self.sh, rotation),
        )

    def of_degree(self, degree: int | None) -> SplatParameters:
        """The Gaussians with the spherical harmonics up to `degree`: those that they lack are 0. None: as they
        are."""
        if degree is None:
            return self
        count, kept = (degree + 1) ** 2, self.sh[:, : (degree + 1) ** 2]
        lacking = kept.new_zeros(len(kept), count - kept.shape[1], 3)
        return replace(self, sh=torch.cat([kept, lacking], dim=1))

    def within(self, radius: float) -> SplatParameters:
        """The Gaussians moved and scaled so that their bounding box is centred and the farthest is at `radius`.

        Gaussians that can hardly be seen are not measured, because scanned scenes have some far outside, unless
        there are no others. Raises UserError if all are at one point.
        """
        seen = self.opacity_logits.sigmoid() >= _BARELY
        means = self.means[seen] if bool(seen.any()) else self.means
        middle = 0.5 * means.amin(0) + 0.5 * means.amax(0)
        farthest = float(torch.linalg.vector_norm(means - middle, dim=1).max())
        if not 0.0 < farthest < math.inf:
            raise UserError("the Gaussians have no extent, or positions that are not finite")
        scale = radius / farthest
        return replace(
            self, means=scale * (self.means - middle), log_scales=self.log_scales + math.log(scale)
        )


def read_splats(path: str | Path) -> SplatParameters:
    """Reads such a file, and turns it so that +Y is up.

    A comment `up: AXIS` says which axis of the file points up, as in the files of threedgen; files without it have
    Y down, as those of the paper. Properties are found by name, in any order; others are ignored.
    Raises UserError if it is missing, is no binary PLY of float32 Gaussians, or is cut short.
    """
    splats, lines = _parse(Path(path))
    return splats.turned(-TURNS[_up_of(lines)])


def read_asset_splats(path: str | Path, radius: float) -> tuple[SplatParameters, str]:
    """The Gaussians of a file that a user gives, and a line for the user about them.

    Those of threedgen are in their place already. Those of other programs may be anywhere and of any size, so they
    are placed as meshes are (`SplatParameters.within`). radius: in world units. Raises UserError like
    `read_splats`, and if they have no extent.
    """
    path = Path(path)
    splats, lines = _parse(path)
    up = _up_of(lines)
    splats = splats.turned(-TURNS[up])
    about = f"{path.name}: {len(splats.means)} Gaussians, up is {up} in the file"
    if _is_ours(lines):
        return splats, f"{about}; it is a file of threedgen, so they stay where they are"
    try:
        placed = splats.within(radius)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return placed, f"{about}; centred and scaled into a ball of radius {radius:g}"


def _is_ours(lines: Sequence[str]) -> bool:
    return f"comment {SIGNATURE}" in lines


def _up_of(lines: Sequence[str]) -> str:
    """The axis that points up in a file with these lines in its header."""
    prefix = f"comment {UP_COMMENT}"
    told = next((line.removeprefix(prefix) for line in lines if line.startswith(prefix)), "")
    if told in TURNS:
        return told
    return "y" if _is_ours(lines) else "-y"  # our first files did not say it


def _parse(path: Path) -> tuple[SplatParameters, list[str]]:
    """The Gaussians as the file holds them, and the lines of its header."""
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
    splats = SplatParameters(
        means=take("x", "y", "z"),
        quats=take("rot_0", "rot_1", "rot_2", "rot_3"),
        log_scales=take("scale_0", "scale_1", "scale_2"),
        opacity_logits=take("opacity").squeeze(1),
        sh=torch.cat([dc, rest.reshape(counts[0], 3, coefficients - 1).transpose(1, 2)], dim=1),
    )
    return splats, lines


def _names(coefficients: int) -> list[str]:
    """The properties of a file of Gaussians with so many coefficients, in the order in which they are written."""
    rest = [f"f_rest_{i}" for i in range(3 * (coefficients - 1))]
    dc = ["f_dc_0", "f_dc_1", "f_dc_2"]
    scale_and_rotation = ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    return ["x", "y", "z", "nx", "ny", "nz", *dc, *rest, "opacity", *scale_and_rotation]
