"""A motion of Gaussians as one PLY for each frame (docs/methods.md, "Files of motions").

Every file holds the same Gaussians in the same order, so that tools can follow and interpolate each of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from threedgen.core.atomic import replacing_all, write_checked
from threedgen.core.errors import UserError
from threedgen.core.types import GaussianCloud
from threedgen.datasets.splat_files import SplatParameters
from threedgen.export.animation import Timing
from threedgen.export.formats import lines_of
from threedgen.export.splat import UP, splat_bytes
from threedgen.export.splat_settings import SplatConfig

INDEX = "animation.json"


def write_sequence(
    folder: str | Path,
    scene: Any,
    timing: Timing,
    splats: SplatConfig,
    note: Mapping[str, Any] | None = None,
) -> Path:
    """Writes frame_00000.ply, frame_00001.ply and so on at timing.moments(), and animation.json.

    animation.json holds fps, seconds, frames, up_axis, meters_per_unit, loop, pattern and the note. An earlier
    sequence stays until all files of the new one are written. animation.json is then moved into place last, so a
    sequence without it is incomplete. scene: `at(times [1])` gives Frames of Gaussians. splats: how they
    are written.
    Raises UserError for a folder with further frames, which players would show after these, for a scene that is
    not made of Gaussians, and if the place cannot be written.
    """
    folder = Path(folder)
    names = [f"frame_{number:05d}.ply" for number in range(timing.frames)]
    foreign = sorted({path.name for path in folder.glob("frame_*.ply")} - set(names))
    if foreign:
        raise UserError(
            f"'{folder}' holds {foreign[0]} of a longer sequence: delete its frames or choose another folder"
        )
    up = UP if splats.up == "auto" else splats.up
    document = {
        "pattern": "frame_%05d.ply",
        "frames": timing.frames,
        "fps": timing.fps,
        "seconds": timing.seconds,
        "loop": timing.loop,
        "up_axis": up.upper(),
        "meters_per_unit": 1.0,
        **({"note": dict(note)} if note else {}),
    }
    index = json.dumps(document, indent=2, allow_nan=False) + "\n"
    with replacing_all(folder, last=INDEX) as temporary:
        for name, moment in zip(names, timing.moments().split(1), strict=True):
            with torch.no_grad():
                cloud = scene.at(moment).frames[0]
            if not isinstance(cloud, GaussianCloud):
                raise UserError(
                    f"cannot write {folder}: .ply frames hold 3D Gaussians, this asset has none; use .glb"
                )
            parameters = SplatParameters.from_cloud(cloud).of_degree(splats.degree)
            data = splat_bytes(folder / name, parameters, lines_of(note or {}), up)
            write_checked(temporary / name, data)
        write_checked(temporary / INDEX, index.encode())
        (folder / INDEX).unlink(missing_ok=True)
    return folder
