"""3D Gaussians in the PLY layout of 3D Gaussian Splatting (Kerbl et al. 2023), which splat viewers open.

Binary little endian, all in float32: x y z, nx ny nz (zeros), f_dc_0..2, f_rest_*, opacity (logit), scale_0..2
(natural logarithm), rot_0..3 (w, x, y, z). f_rest is channel-major: all red coefficients, then green, then
blue.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from threedgen.core.atomic import store
from threedgen.core.errors import UserError
from threedgen.datasets.splat_files import SplatParameters, _names


def write_splats(path: str | Path, parameters: SplatParameters, comment: str = "") -> Path:
    """Writes the parameters bit for bit.

    comment: each line becomes a comment of the header, in which characters that are not printable ASCII become
    spaces. Raises UserError if there is no Gaussian, if a number is not finite and if the place cannot be
    written.
    """
    path = Path(path)
    store(path, splat_bytes(path, parameters, comment))
    return path


def splat_bytes(path: Path, parameters: SplatParameters, comment: str = "") -> bytes:
    """The content of the file that `write_splats` writes. path: its name, for the same errors."""
    count, coefficients = parameters.sh.shape[:2]
    columns = [
        parameters.means,
        torch.zeros(count, 3),
        parameters.sh[:, 0],
        parameters.sh[:, 1:].transpose(1, 2).reshape(count, 3 * (coefficients - 1)),
        parameters.opacity_logits.unsqueeze(1),
        parameters.log_scales,
        parameters.quats,
    ]
    table = torch.cat([column.detach().cpu().float() for column in columns], dim=1).numpy().astype("<f4")
    if count == 0:
        raise UserError(f"cannot write {path}: there are no Gaussians")
    if not np.isfinite(table).all():
        raise UserError(f"cannot write {path}: the Gaussians hold numbers that are not finite")
    lines = ["ply", "format binary_little_endian 1.0", "comment threedgen"]
    for line in comment.splitlines():
        printable = "".join(c if c.isascii() and c.isprintable() else " " for c in line)
        lines.append(f"comment {printable}")
    lines.append(f"element vertex {count}")
    lines += [f"property float {name}" for name in _names(coefficients)]
    lines.append("end_header")
    return ("\n".join(lines) + "\n").encode("ascii") + table.tobytes()
