"""Point clouds of captures as PLY files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.datasets.decoding import reason

_GREY = 0.5  # of points without colours


def read_points(path: Path) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]:
    """Positions and colours in [0, 1] of the points of a PLY file; those that are not finite are left out.

    Raises UserError if the file cannot be read.
    """
    import trimesh

    try:
        cloud: Any = trimesh.load(path, file_type="ply", process=False)
        places = torch.from_numpy(np.array(cloud.vertices, dtype=np.float64)).float().reshape(-1, 3)
    except Exception as error:  # trimesh raises whatever its parser meets
        raise UserError(f"cannot read the points of {path}: {reason(error)}") from error
    colors = torch.full_like(places, _GREY)
    given = getattr(cloud, "colors", None) if isinstance(cloud, trimesh.PointCloud) else None
    if given is not None and len(given) == len(places):
        colors = torch.from_numpy(np.array(given, dtype=np.float32))[:, :3] / 255.0
    good = places.isfinite().all(1)
    return places[good], colors[good]


def write_points(path: Path, places: Float[Tensor, "P 3"], colors: Float[Tensor, "P 3"]) -> None:
    """Writes positions and colours in [0, 1] as a PLY file."""
    import trimesh

    levels = (colors.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()
    trimesh.PointCloud(places.numpy(), colors=levels).export(path, file_type="ply")
