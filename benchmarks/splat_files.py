"""Do other programs read our files of 3D Gaussians as they were meant, and do we read theirs, the right way up?

    npm install --no-save @playcanvas/splat-transform
    pip install "gsply[spz,sogs]" open3d
    python benchmarks/splat_files.py [--splat-transform FOLDER] [--count N]

Random Gaussians of degree 3, and one far out on each axis, are written in every format that other programs read:
splat-transform turns each into a table, and gsply and Open3D, where they are installed, read it. Then they write
the same Gaussians, and threedgen reads their files. The Gaussians are matched by their places. Each line has
the largest errors of positions (world units), axes (degrees), scales (relative), opacities, and colours in 64
directions; the program fails if one is larger than the steps of the format allow.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from threedgen.core.random import generator
from threedgen.core.spherical_harmonics import basis
from threedgen.core.transforms import matrix_from_quat, transform
from threedgen.core.types import GaussianCloud
from threedgen.datasets.splat_files import TURNS, SplatParameters, read_splats
from threedgen.export import write
from threedgen.export.splat_settings import SplatConfig

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Allowed:
    """The largest errors of a format: position, rotation in degrees, scale, opacity, colour. degree: of its
    harmonics."""

    position: float
    rotation: float
    scale: float
    opacity: float
    color: float
    degree: int = 3


FORMATS = {
    "a.ply": Allowed(1e-6, 0.05, 1e-5, 1e-6, 1e-5),
    "a.compressed.ply": Allowed(2e-3, 0.3, 6e-3, 3e-3, 0.1),
    "a.splat": Allowed(1e-6, 2.0, 1e-5, 3e-3, 3e-3, 0),
    "a.spz": Allowed(1e-5, 0.3, 0.04, 3e-3, 0.05),
    "a.sog": Allowed(1e-4, 1.0, 0.03, 3e-3, 0.1),
}
# Of the files of other programs, whose steps are coarser. In .sog, splat-transform gives random colours to a few
# entries of a palette, so its file is compared with what it reads there itself.
WRITTEN = {
    ".ply": FORMATS["a.ply"],
    ".compressed.ply": FORMATS["a.compressed.ply"],
    ".splat": FORMATS["a.splat"],
    ".spz": Allowed(3e-4, 0.3, 0.04, 3e-3, 0.3),
    ".sog": Allowed(1e-6, 0.01, 1e-5, 1e-6, 1e-5),
    ".glb": FORMATS["a.ply"],
}


def truth(count: int) -> GaussianCloud:
    """Random Gaussians in a ball, and one on each axis. Colours stay within what every format holds."""
    rng = generator(0, "splat-files", 0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    means = torch.cat([0.25 * draw(count, 3), torch.eye(3), -0.9 * torch.eye(3)])
    total = len(means)
    sh = torch.cat([draw(total, 1, 3).clamp(-1.7, 1.7), (0.2 * draw(total, 15, 3)).clamp(-0.9, 0.9)], dim=1)
    scales = (0.5 * draw(total, 3) - 4.0).exp()
    return GaussianCloud(means, draw(total, 4), scales, (2.0 * draw(total)).sigmoid(), sh)


def by_splat_transform(program: Path, path: Path) -> SplatParameters:
    """What splat-transform finds in a file, in the axes of its tables, which have Y down."""
    table = path.with_suffix(".csv")
    command = ["node", str(program / "bin" / "cli.mjs"), "-q", "-w", str(path), str(table)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with table.open() as file:
        rows = list(csv.DictReader(file))

    def take(*names: str) -> Tensor:
        return torch.tensor([[float(row[name]) for name in names] for row in rows])

    rest = sum(name.startswith("f_rest_") for name in rows[0]) // 3
    higher = take(*(f"f_rest_{number}" for number in range(3 * rest))).reshape(len(rows), 3, rest)
    return SplatParameters(
        means=take("x", "y", "z"),
        quats=take("rot_0", "rot_1", "rot_2", "rot_3"),
        log_scales=take("scale_0", "scale_1", "scale_2"),
        opacity_logits=take("opacity")[:, 0],
        sh=torch.cat([take("f_dc_0", "f_dc_1", "f_dc_2").unsqueeze(1), higher.transpose(1, 2)], dim=1),
    ).turned(-TURNS["-y"])


def by_gsply(path: Path) -> SplatParameters | None:
    """What gsply finds in a file, which it gives in the axes of the file; None if it cannot read the format."""
    names = {".ply": ("", "plyread"), ".spz": (".spz", "read_spz"), ".sog": (".sog_reader", "sogread")}
    readers = {
        suffix: getattr(import_module(f"gsply{module}"), name) for suffix, (module, name) in names.items()
    }
    if path.suffix not in readers:
        return None
    try:
        data = readers[path.suffix](path)
    except ImportError:  # imagecodecs, which reads the pictures of .sog
        return None
    means, sh0 = np.asarray(data.means), np.asarray(data.sh0)[:, None]
    higher = np.asarray(data.shN) if data.shN is not None else np.zeros((len(means), 0, 3))
    values = [means, data.quats, data.scales, np.asarray(data.opacities).reshape(-1)]
    found = [
        torch.from_numpy(np.array(value, np.float32)) for value in (*values, np.concatenate([sh0, higher], 1))
    ]
    return SplatParameters(*found).turned(0 if path.suffix == ".spz" else -TURNS["-y"])


def by_open3d(path: Path) -> SplatParameters | None:
    """What Open3D finds in a file, which it gives in the axes of the file; None if it cannot read the format."""
    if path.suffix not in (".ply", ".splat", ".spz") or path.name.endswith(".compressed.ply"):
        return None
    point = import_module("open3d").t.io.read_point_cloud(str(path)).point
    values = {name: torch.from_numpy(value.numpy().copy()) for name, value in point.items()}
    color = values["f_dc"].unsqueeze(1)
    found = SplatParameters(
        means=values["positions"],
        quats=values["rot"],
        log_scales=values["scale"].log(),
        opacity_logits=values["opacity"][:, 0],
        sh=torch.cat([color, values["f_rest"]], dim=1) if "f_rest" in values else color,
    )
    return found.turned(0 if path.suffix == ".spz" else -TURNS["-y"])


def written(folder: Path, cloud: GaussianCloud, program: Path) -> Iterator[tuple[str, Path]]:
    """The programs that are there, and the files that they write of a PLY of the Gaussians.

    gsply and Open3D turn nothing, so for .spz, whose axes are others, they are given a PLY that has Y up.
    """
    plain, up = folder / "plain.ply", folder / "up.ply"
    write(cloud, plain)
    write(cloud, up, splats=SplatConfig(up="y"))
    if (program / "bin" / "cli.mjs").is_file():
        for suffix in (".ply", ".compressed.ply", ".spz", ".sog", ".glb"):
            path = folder / f"splat-transform{suffix}"
            command = [
                "node",
                str(program / "bin" / "cli.mjs"),
                "-q",
                "-w",
                "-g",
                "cpu",
                str(plain),
                str(path),
            ]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            yield "splat-transform", path
    try:
        gsply = import_module("gsply")
        for suffix in (".ply", ".compressed.ply"):
            gsply.plywrite(
                str(folder / f"gsply{suffix}"), gsply.plyread(str(plain)), compressed=suffix != ".ply"
            )
            yield "gsply", folder / f"gsply{suffix}"
        gsply.write_spz(str(folder / "gsply.spz"), gsply.plyread(str(up)))
        yield "gsply", folder / "gsply.spz"
    except ImportError:
        pass
    try:
        files = import_module("open3d").t.io
    except (ImportError, OSError):
        return
    for suffix in (".ply", ".splat", ".spz"):
        cloud_of = files.read_point_cloud(str(up if suffix == ".spz" else plain))
        if files.write_point_cloud(str(folder / f"open3d{suffix}"), cloud_of):
            yield "Open3D", folder / f"open3d{suffix}"


def as_meant(path: Path) -> SplatParameters:
    """What threedgen reads of another program's file. splat-transform turns its GLB half about Z, so that the front
    is behind."""
    found = read_splats(path)
    if path.suffix != ".glb":
        return found
    return SplatParameters.from_cloud(transform(found.cloud(), torch.diag(torch.tensor([-1.0, 1.0, -1.0]))))


def errors(found: SplatParameters, meant: SplatParameters, degree: int) -> Allowed:
    """The largest differences of Gaussians that are matched by their places, up to a degree of the harmonics."""
    away, index = map(np.asarray, KDTree(found.means.numpy()).query(meant.means.numpy()))
    if len(found.means) != len(meant.means) or len(set(index.tolist())) != len(index):
        raise SystemExit(f"{len(found.means)} Gaussians, not the {len(meant.means)} that were written")
    order = torch.from_numpy(index)
    one, other = (matrix_from_quat(quats.double()) for quats in (found.quats[order], meant.quats))
    cosines = torch.einsum("nij,nij->nj", one, other).abs()  # of axes: an ellipsoid has no ends
    directions = torch.nn.functional.normalize(
        torch.randn(64, 3, generator=generator(0, "directions", 0)), dim=1
    )
    seen = [
        torch.einsum("mk,nkc->nmc", basis(directions, degree), one.of_degree(degree).sh)
        for one in (found, meant)
    ]
    return Allowed(
        position=float(away.max()),
        rotation=float(torch.rad2deg(torch.acos(cosines.clamp(max=1.0))).max()),
        scale=float((found.log_scales[order] - meant.log_scales).abs().max().expm1()),
        opacity=float((found.opacity_logits[order].sigmoid() - meant.opacity_logits.sigmoid()).abs().max()),
        color=float((seen[0][order] - seen[1]).abs().max()),
        degree=degree,
    )


def readings(path: Path, program: Path) -> Iterator[tuple[str, SplatParameters]]:
    """The programs that are there, and what each finds."""
    if (program / "bin" / "cli.mjs").is_file():
        yield "splat-transform", by_splat_transform(program, path)
    for name, read in (("gsply", by_gsply), ("Open3D", by_open3d)):
        try:
            found = read(path)
        except ImportError:  # it is not installed, or a library that it needs is not
            continue
        if found is not None:
            yield name, found


def report(name: str, program: str, path: Path, off: Allowed, allowed: Allowed) -> bool:
    """Prints a line about one file; whether an error is larger than it may be."""
    names = ("position", "rotation", "scale", "opacity", "color")
    wrong = [one for one in names if not getattr(off, one) <= getattr(allowed, one)]
    numbers = "  ".join(f"{one} {getattr(off, one):.2g}" for one in names)
    verdict = f"WRONG: {', '.join(wrong)}" if wrong else "ok"
    print(f"{name:19}{program:17}{path.stat().st_size / 1000:8.0f} kB  {numbers}  {verdict}")
    return bool(wrong)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    place = ROOT / "node_modules" / "@playcanvas" / "splat-transform"
    parser.add_argument(
        "--splat-transform", type=Path, default=place, metavar="FOLDER", help="its npm package"
    )
    parser.add_argument("--count", type=int, default=2000, metavar="N", help="number of Gaussians")
    arguments = parser.parse_args()
    cloud = truth(arguments.count)
    meant = SplatParameters.from_cloud(cloud)
    cases = [(name, SplatConfig(), allowed) for name, allowed in FORMATS.items()]
    if find_spec("zstandard") is None:
        print("not written: version 4 of .spz, because zstandard is missing")
    else:
        cases.append(("v4.spz", SplatConfig(spz_version=4), FORMATS["a.spz"]))
    bad = False
    with tempfile.TemporaryDirectory() as folder:
        for name, config, allowed in cases:
            path = Path(folder) / name
            write(cloud, path, splats=config)
            for reader, found in readings(path, arguments.splat_transform):
                bad |= report(path.name, reader, path, errors(found, meant, allowed.degree), allowed)
        for program, path in written(Path(folder), cloud, arguments.splat_transform):
            suffix = path.name[path.name.index(".") :]
            allowed, expected = WRITTEN[suffix], meant
            if suffix == ".sog":
                expected = by_splat_transform(arguments.splat_transform, path)
            off = errors(as_meant(path), expected, allowed.degree)
            bad |= report(f"{suffix} of ", program, path, off, allowed)
    sys.exit(bad)


if __name__ == "__main__":
    main()
