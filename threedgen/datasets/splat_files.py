"""Files of Gaussians in all formats that are read: which is which, which way is up, and what cannot be used.

The world of threedgen has +Y up. Each format has its own axes, and files of threedgen say which way is up in them.
"""

from __future__ import annotations

import math
import warnings
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
from threedgen.datasets import gltf_document, splat_packed, splat_ply, splat_scenes, usd_files
from threedgen.datasets.splat_stored import LARGEST_LOGIT, Stored

# Which axis of a file points up: the degrees by which the world is turned about +X to become that file.
TURNS = {"y": 0, "-y": 180, "z": 90, "-z": -90}
SUFFIXES = (".ply", ".splat", ".spz", ".sog")  # beside those of scenes: glTF and USD

_BARELY = 0.05  # opacity of Gaussians that count when an asset is measured
_HIGHEST = 3  # degree of the spherical harmonics of threedgen
_LOOSE = "meta.json"  # of a .sog whose pictures lie beside it
_HEADER = 1 << 16  # bytes in which the header of a PLY is looked for, to tell what it is


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
            opacity_logits=torch.logit(opacities).clamp(-LARGEST_LOGIT, LARGEST_LOGIT).float(),
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
            raise UserError(
                "all Gaussians that can be seen are at one point, or at positions that are not finite: at least "
                "two places are needed"
            )
        scale = radius / farthest
        return replace(
            self, means=scale * (self.means - middle), log_scales=self.log_scales + math.log(scale)
        )


def holds_splats(path: str | Path) -> bool:
    """Whether a file is one of Gaussians, and not of a mesh: by its suffix, or by what it holds.

    False if that cannot be told. Raises UserError for a USD file that cannot be read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".splat", ".spz", ".sog"):
        return True
    if suffix in usd_files.SUFFIXES:
        return path.is_file() and bool(splat_scenes.usd_fields(usd_files.opened(path)))
    loose = path.name == _LOOSE  # a data set may have that name, too
    if not (loose or suffix in (".ply", *gltf_document.SUFFIXES)) or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            data = file.read(_HEADER) if suffix == ".ply" else file.read()
    except OSError:  # whoever reads it says so
        return False
    if loose:
        return b'"means"' in data and b'"quats"' in data
    if suffix != ".ply":
        return splat_scenes.GLTF_NAME.encode() in data
    try:
        return splat_ply.holds_gaussians(splat_ply.read_header(path, data))
    except UserError:
        return False


def read_splats(path: str | Path) -> SplatParameters:
    """Reads a file of Gaussians, and turns it so that +Y is up.

    .ply (of the paper's code, or compact), .splat, .spz, .sog or its meta.json, .glb and .gltf with
    KHR_gaussian_splatting, and USD with ParticleField3DGaussianSplat. Gaussians with a number that is not finite,
    or without a rotation, are left out with a warning, and so are spherical harmonics above degree 3.
    Raises UserError if it is missing, is none of these, is damaged, or holds nothing that can be used.
    """
    return _usable(Path(path), _parse(Path(path)))


def read_asset_splats(path: str | Path, radius: float) -> tuple[SplatParameters, str]:
    """The Gaussians of a file that a user gives, and a line for the user about them.

    Those of threedgen are in their place already, as far as their format says that they are. Those of other
    programs may be anywhere and of any size, so they are placed as meshes are (`SplatParameters.within`).
    radius: in world units. Raises UserError like `read_splats`, and if they have no extent.
    """
    path = Path(path)
    stored = _parse(path)
    splats = _usable(path, stored)
    about = f"{path.name}: {len(splats.means)} Gaussians, up is {stored.up} in the file"
    if stored.ours:
        return splats, f"{about}; it is a file of threedgen, so they stay where they are"
    try:
        placed = splats.within(radius)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return placed, f"{about}; centred and scaled into a ball of radius {radius:g}"


def _parse(path: Path) -> Stored:
    """The Gaussians as the file holds them, and what it says about itself."""
    suffix = path.suffix.lower()
    if suffix in usd_files.SUFFIXES and path.is_file():
        return splat_scenes.read_usd(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if suffix == ".splat":
        return splat_packed.read_records(path, data)
    if suffix == ".spz" or splat_packed.is_spz(data):
        return splat_packed.read_spz(path, data)
    if suffix == ".sog" or path.name == _LOOSE:
        return splat_packed.read_sog(path, data)
    if suffix in gltf_document.SUFFIXES:
        return splat_scenes.read_gltf(path, data)
    return splat_ply.read_ply(path, data)


def _usable(path: Path, stored: Stored) -> SplatParameters:
    """The Gaussians that can be shown, with +Y up."""
    arrays = [np.array(one, np.float32) for one in stored[:5]]
    if not len(arrays[0]) or len({len(values) for values in arrays}) > 1:
        raise UserError(
            f"{path} holds no Gaussians, or not as many rotations, scales and colours as positions"
        )
    kept = (_HIGHEST + 1) ** 2
    if arrays[4].shape[1] > kept:
        degree = math.isqrt(arrays[4].shape[1]) - 1
        warnings.warn(
            f"'{path}' has spherical harmonics of degree {degree}: those above {_HIGHEST} are left out",
            stacklevel=3,
        )
        arrays[4] = arrays[4][:, :kept]
    good = np.linalg.norm(arrays[1], axis=1) > 0.0
    for values in arrays:
        good &= np.isfinite(values.reshape(len(good), -1)).all(axis=1)
    left_out = len(good) - int(good.sum())
    if left_out == len(good):
        raise UserError(
            f"{path} holds no Gaussians whose numbers are finite and that have a rotation and an extent"
        )
    if left_out:
        warnings.warn(
            f"'{path}': {left_out} of {len(good)} Gaussians are left out, because they have numbers that are not "
            "finite, or no rotation",
            stacklevel=3,
        )
        arrays = [values[good] for values in arrays]
    return SplatParameters(*(torch.from_numpy(values) for values in arrays)).turned(-TURNS[stored.up])
