"""3D Gaussians in the PLY layout of 3D Gaussian Splatting (Kerbl et al. 2023), which splat viewers open.

Binary little endian, all in float32: x y z, nx ny nz (zeros), f_dc_0..2, f_rest_*, opacity (logit), scale_0..2
(natural logarithm), rot_0..3 (w, x, y, z). f_rest is channel-major: all red coefficients, then green, then
blue. Y is down unless a comment says otherwise.
"""

from __future__ import annotations

from pathlib import Path

import torch

from threedgen.core.atomic import store
from threedgen.core.errors import UserError
from threedgen.datasets.splat_files import TURNS, SplatParameters
from threedgen.datasets.splat_ply import UP_COMMENT, names
from threedgen.datasets.splat_stored import SIGNATURE

UP = "-y"  # the axis that points up in this layout


def write_splats(path: str | Path, parameters: SplatParameters, comment: str = "", up: str = UP) -> Path:
    """Writes the parameters, turned so that the axis `up` of the file (y, -y, z or -z) points up.

    `read_splats` gives them back bit for bit if `up` is y or -y. comment: each line becomes a comment of the
    header, in which characters that are not printable ASCII become spaces. Raises UserError if there is no
    Gaussian, if a number is not finite and if the place cannot be written.
    """
    path = Path(path)
    store(path, splat_bytes(path, parameters, comment, up))
    return path


def splat_bytes(path: Path, parameters: SplatParameters, comment: str = "", up: str = UP) -> bytes:
    """The content of the file that `write_splats` writes. path: its name, for the same errors."""
    check_splats(path, parameters)
    return encode(parameters.turned(TURNS[up]), comment, up)


def encode(parameters: SplatParameters, comment: str, up: str) -> bytes:
    """The content of the file, with the axes of the parameters. up: what it says is up."""
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
    header = ["ply", "format binary_little_endian 1.0", *comments(comment, up)]
    header.append(f"element vertex {count}")
    header += [f"property float {name}" for name in names(coefficients)]
    return header_bytes(header) + table.tobytes()


def check_splats(path: Path, parameters: SplatParameters) -> None:
    """Raises UserError, in which the file is called `path`, for Gaussians that no file can hold: none, or numbers
    that are not finite."""
    if len(parameters.means) == 0:
        raise UserError(f"cannot write {path}: there are no Gaussians")
    numbers = (getattr(parameters, name) for name in ("means", "quats", "log_scales", "opacity_logits", "sh"))
    if not all(bool(torch.isfinite(one.float()).all()) for one in numbers):
        raise UserError(f"cannot write {path}: the Gaussians hold numbers that are not finite")


def comments(text: str, up: str) -> list[str]:
    """The comments of a PLY header: who wrote it, which way is up, and each line of a text."""
    lines = [SIGNATURE, f"{UP_COMMENT}{up}"]
    lines += [
        "".join(c if c.isascii() and c.isprintable() else " " for c in line) for line in text.splitlines()
    ]
    return [f"comment {line}" for line in lines]


def header_bytes(lines: list[str]) -> bytes:
    """The header of a PLY file of these lines."""
    return ("\n".join([*lines, "end_header"]) + "\n").encode("ascii")
