"""3D Gaussians in USD (.splats.usda, .splats.usdz): one ParticleField3DGaussianSplat, a schema of OpenUSD 26.03.

Positions, orientations (w, x, y, z), scales and opacities (both linear), and the coefficients of spherical
harmonics, those of a Gaussian together. The degree is written, because readers take 3 for it otherwise, and the
extent, because nothing in OpenUSD computes that of Gaussians. `pip install "threedgen[usd]"` installs usd-core.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from threedgen.core.errors import UserError
from threedgen.core.transforms import covariances
from threedgen.datasets.splat_files import SplatParameters
from threedgen.export.splat_packing import opacities, unit_quats
from threedgen.export.usd import _modules

_REACH = 3.0  # standard deviations that a Gaussian extends


def encode(splats: SplatParameters, suffix: str, up: str, note: Mapping[str, Any]) -> bytes:
    """The content of a .usda or .usdz file, with the axes of `splats`. up: the axis that points up; z becomes the
    upAxis of the stage. note: JSON values for customLayerData["threedgen"].

    Raises UserError without usd-core 26.3 or newer, and if it cannot write into the folder for temporary files.
    """
    try:
        UsdUtils, UsdVol = _modules("UsdUtils", "UsdVol")
        schema = UsdVol.ParticleField3DGaussianSplat
    except (ImportError, AttributeError) as error:
        raise UserError(
            'Gaussians in USD need usd-core 26.3 or newer: pip install "usd-core>=26.3"'
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("asset.usda" if suffix == ".usda" else "asset.usdc")
        try:
            _write_layer(path, schema, splats, up, note)
            if suffix == ".usdz":
                layer, path = path, Path(folder) / "asset.usdz"
                if not UsdUtils.CreateNewUsdzPackage(str(layer), str(path)):
                    raise RuntimeError("not packed")
            return path.read_bytes()
        except RuntimeError as error:  # of OpenUSD, whose messages are pages about its own files
            raise UserError(
                f"usd-core cannot write into {folder}, where files are made first: make room there"
            ) from error


def _write_layer(path: Path, schema: Any, splats: SplatParameters, up: str, note: Mapping[str, Any]) -> None:
    Usd, UsdGeom, Vt = _modules("Usd", "UsdGeom", "Vt")

    stage = Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z if up == "z" else UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    root = UsdGeom.Xform.Define(stage, "/asset")
    stage.SetDefaultPrim(root.GetPrim())
    stage.GetRootLayer().customLayerData = {"threedgen": dict(note)}
    field = schema.Define(stage, "/asset/splats")
    means = splats.means.numpy().astype(np.float32)
    reach = _REACH * covariances(splats.cloud()).diagonal(dim1=1, dim2=2).sqrt().numpy()
    extent = np.stack([(means - reach).min(axis=0), (means + reach).max(axis=0)]).astype(np.float32)
    quats = np.roll(unit_quats(splats), -1, axis=1).astype(np.float32)  # in memory the real part comes last
    sh = splats.sh.numpy().astype(np.float32)
    field.CreatePositionsAttr(Vt.Vec3fArray.FromNumpy(means))
    field.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(extent))
    field.CreateOrientationsAttr(Vt.QuatfArray.FromNumpy(quats))
    field.CreateScalesAttr(Vt.Vec3fArray.FromNumpy(splats.log_scales.exp().numpy().astype(np.float32)))
    field.CreateOpacitiesAttr(Vt.FloatArray.FromNumpy(opacities(splats).astype(np.float32)))
    field.CreateRadianceSphericalHarmonicsDegreeAttr(math.isqrt(sh.shape[1]) - 1)
    field.CreateRadianceSphericalHarmonicsCoefficientsAttr(Vt.Vec3fArray.FromNumpy(sh.reshape(-1, 3)))
    stage.Save()
