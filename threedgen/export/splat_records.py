"""`.splat`, the layout of antimatter15's viewer: 32 bytes a Gaussian, without a header.

Position and scale in float32 (linear), colour and opacity as four bytes, and the unit quaternion (w, x, y, z) as
four bytes, 128 (q + 1). The largest and most opaque come first, because viewers show a file while it arrives. It
holds one colour for all directions.
"""

from __future__ import annotations

import numpy as np

from threedgen.core.spherical_harmonics import DC
from threedgen.datasets.splat_files import SplatParameters
from threedgen.export.splat_packing import opacities, to_bytes, unit_quats

_RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def encode(splats: SplatParameters) -> bytes:
    """The content of the file, with the axes of `splats`."""
    opacity = opacities(splats)
    size = splats.log_scales.double().sum(dim=1).numpy()
    order = np.argsort(-(size + np.log(opacity)), kind="stable")
    colors = 0.5 + DC * splats.sh[:, 0].double().numpy()
    records = np.empty(len(opacity), _RECORD)
    records["mean"] = splats.means.numpy()
    records["scale"] = splats.log_scales.exp().numpy()
    records["rgba"] = to_bytes(255.0 * np.column_stack([colors, opacity]))
    records["quat"] = to_bytes(128.0 * (unit_quats(splats) + 1.0))
    return records[order].tobytes()
