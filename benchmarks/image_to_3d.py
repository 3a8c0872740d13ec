"""`threedgen image-to-3d` on pictures and on renders of meshes: scores of the reference view, seconds, memory.

    python benchmarks/image_to_3d.py [PICTURE ...] [--meshes MESH[@TEXTURE] ...] [--objects N] [--catalogue DIR]
                                     [--recipes image-to-3d hunyuan3d hunyuan3d+60 ceiling ...]
                                     [--out runs/image-to-3d] [--markdown FILE] [--sheet FILE.png] [KEY=VALUE ...]

Each row is the command a user types, in a process of its own; RECIPE+N is with --refine N. A mesh is rendered from
the front, cut out, and the asset is compared with the mesh from seven more sides a turn of 45 degrees apart: side
PSNR and IoU, where the back is what the prior made of it, and the Chamfer distance of the surfaces. --objects takes
objects of the catalogue that no training has seen, from 30 degrees beside the front and 15 above it. "ceiling" is
the reconstructor that is given four true views. The reference PSNR and the mask IoU are of the given picture, with
its pixels; those of report.json are of the pixels in which the Gaussians were optimised. Scores and pictures are of
asset.glb, read back from the file; the scores of the Gaussians are beside them. Rows whose run is in --out are not
made again. KEY=VALUE are settings of all recipes.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import torch
from looks import Looks, both, has_mesh, looks_of
from PIL import Image, ImageDraw, ImageFont
from tables import add_markdown, write_markdown

from threedgen.cameras.orbit import orbit
from threedgen.core.pictures import psnr, silhouette_iou
from threedgen.core.types import Cameras
from threedgen.datasets import mesh_files
from threedgen.datasets.cut_outs import DISTANCE, FOV, framing
from threedgen.datasets.multiview import PosedPictures
from threedgen.datasets.things.thing_set import INSTALLED, thing_set
from threedgen.datasets.things.thing_views import load_object
from threedgen.export import as_mesh
from threedgen.export.mesh import MeshConfig
from threedgen.guidance.priors.codec import signed
from threedgen.jobs.asset import given_views
from threedgen.jobs.run_directory import RunDirectory
from threedgen.jobs.scores.exported import read_back
from threedgen.recipes.load import read_resolved
from threedgen.reconstruction.sampling import reconstruct
from threedgen.reconstruction.store import load_reconstructor
from threedgen.renderers.mesh import MeshRenderer
from threedgen.renderers.splatting import SplattingRenderer
from threedgen.representations.initialisers import mesh_surface

LIGHT = 0.4
SHOWN = (0.0, 45.0, 90.0, 180.0, 270.0, 315.0)
GIVEN = (30.0, 15.0)  # azimuth and elevation in degrees from which objects of the catalogue are given
CEILING = "ceiling"
POINTS = 20_000  # of each surface, for the Chamfer distance
HEADER = (
    "| picture | recipe | reference PSNR | mask IoU | side PSNR | side IoU | Chamfer | Gaussians: reference PSNR "
    "| mask IoU | side PSNR | side IoU | s | CPU s | GB |\n" + "|---" * 14 + "|"
)


@dataclass(frozen=True)
class Job:
    """A picture, and the mesh that it shows, framed as the picture is, if it is known. elevation: of its camera."""

    name: str
    picture: Path
    truth: mesh_files.PaintedMesh | None = None
    elevation: float = 0.0


def ring(azimuths: tuple[float, ...], size: int, elevation: float = 0.0) -> Cameras:
    """Cameras where the picture's camera stands, turned."""
    angles = torch.tensor(azimuths)
    full = torch.ones_like(angles)
    return orbit(angles, elevation * full, DISTANCE * full, FOV, size, size)


def framed(painted: mesh_files.PaintedMesh, camera: Cameras) -> mesh_files.PaintedMesh:
    """The mesh, moved and scaled so that the cut-out of its picture has the frame of the picture itself: the asset
    is then where the mesh is. camera: that of the picture."""
    shift, scale = framing(camera, lambda seen: mesh_files.render(painted, seen).alpha[0, ..., 0])
    return replace(painted, mesh=replace(painted.mesh, vertices=(painted.mesh.vertices - shift) * scale))


def mesh_job(mesh: str, out: Path) -> Job:
    """The mesh of a file, FILE or FILE@TEXTURE, from the front, lit a little so that its shape shows."""
    path, _, texture = mesh.partition("@")
    return job_of(Path(path).stem, mesh_files.read_painted(path, texture or None), 0.0, out)


def object_jobs(catalogue: str, most: int, out: Path) -> list[Job]:
    """Objects of the catalogue that are held out, spread evenly over them."""
    things = thing_set(catalogue)
    sources = [source for word in things.words for source in things.objects(word, held_out=True)]
    count = min(len(sources), most)
    jobs = []
    for source in (sources[index * len(sources) // count] for index in range(count)):
        painted = load_object(source).painted
        turn = torch.deg2rad(torch.tensor(-GIVEN[0]))
        cos, sin = float(turn.cos()), float(turn.sin())
        turned = painted.mesh.vertices @ torch.tensor([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]]).T
        painted = replace(painted, mesh=replace(painted.mesh, vertices=turned, normals=None))
        name = source.name.replace("#", "-").replace("/", "-").replace(" ", "-")
        jobs.append(job_of(name, painted, GIVEN[1], out))
    return jobs


def job_of(name: str, painted: mesh_files.PaintedMesh, elevation: float, out: Path) -> Job:
    """The picture of a mesh, cut out."""
    camera = ring((0.0,), 512, elevation)
    painted = framed(painted, camera)
    seen = mesh_files.render(painted, camera, LIGHT)
    straight = (seen.images - (1.0 - seen.alpha)) / seen.alpha.clamp_min(1e-6)
    rgba = torch.cat([straight.clamp(0.0, 1.0), seen.alpha], dim=-1)[0]
    target = out / f"{name}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    imageio.imwrite(target, (rgba * 255.0).round().byte().numpy())
    return Job(name, target, painted, elevation)


def run(job: Job, recipe: str, folder: Path, options: Sequence[str] = ()) -> None:
    """The command, if its run is not there; seconds, and those of the processor, go into a file of their own."""
    if (folder / "seconds").is_file():
        return
    name, _, steps = recipe.partition("+")
    command = ["-m", "threedgen", "image-to-3d", str(job.picture), "--recipe", name, "--out", str(folder)]
    command += [] if not steps else ["--refine", steps]
    command += [f"--elevation={job.elevation:g}"] if job.elevation else []
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command, *options], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    (folder / "seconds").write_text(f"{time.perf_counter() - started:.1f} {processor:.1f}")


def row(job: Job, recipe: str, folder: Path) -> Row:
    """The scores of a run."""
    report = json.loads((folder / "report.json").read_text())
    wall, processor = map(float, (folder / "seconds").read_text().split())
    given = given_views(read_resolved(RunDirectory.open(folder).recipe))[0]
    true = [PosedPictures((given.rgb + 1.0 - given.alpha)[None], given.alpha[None], given.camera)]
    mesh = read_back(folder / "asset.glb") if has_mesh(folder) else None
    return scored(job, recipe, both(folder), true, mesh, (wall, processor, report["peak_memory_bytes"] / 1e9))


def ceiling(job: Job, model: str) -> Row:
    """The scores of what the reconstructor in a folder makes of four true views."""
    assert job.truth is not None
    network = load_reconstructor(model)
    cameras = ring((0.0, 90.0, 180.0, 270.0), network.size)
    started = time.perf_counter()
    views = mesh_files.render(job.truth, cameras, LIGHT).images
    cloud = reconstruct(network, signed(views, network.size), cameras)
    mesh = as_mesh(cloud, MeshConfig())
    seconds = time.perf_counter() - started
    looks = (
        looks_of(MeshRenderer(MeshRenderer.Config(supersampling=2)), mesh),
        looks_of(SplattingRenderer(), cloud),
    )
    true = [mesh_files.render(job.truth, ring((0.0,), 512, job.elevation), LIGHT)]
    return scored(job, CEILING, looks, true, mesh, (seconds, seconds, 0.0))


def scored(
    job: Job,
    recipe: str,
    looks: tuple[Looks, Looks],
    true: list[PosedPictures],
    mesh: Any,
    cost: tuple[float, float, float],
) -> Row:
    """The scores of an asset. looks: of its mesh and of its Gaussians. true: the given picture. cost: seconds,
    those of the processor, GB."""
    if job.truth is not None:
        sides = ring(tuple(45.0 * turn for turn in range(1, 8)), 128, job.elevation)
        true = [*true, mesh_files.render(job.truth, sides, LIGHT)]
    scores = [value for look in looks for pictures in true for value in compared(look, pictures)]
    if job.truth is None:
        scores = [*scores[:2], math.nan, math.nan, *scores[2:], math.nan, math.nan]
    distance = math.nan
    if job.truth is not None and mesh is not None:
        distance = chamfer(mesh, job.truth.mesh)
    return Row(job.name, recipe, [*scores[:4], distance, *scores[4:], *cost])


@dataclass(frozen=True)
class Row:
    """The numbers of one line of the table, as in HEADER; NaN where there is none."""

    name: str
    recipe: str
    values: list[float]

    def line(self) -> str:
        digits = (1, 3, 1, 3, 3, 1, 3, 1, 3, 0, 0, 2)
        cells = [
            "-" if math.isnan(value) else f"{value:.{count}f}"
            for value, count in zip(self.values, digits, strict=True)
        ]
        return f"| {self.name} | {self.recipe} | " + " | ".join(cells) + " |"


def means(rows: Sequence[Row], name: str) -> list[Row]:
    """The mean of each recipe over the rows that have true sides."""
    found = []
    for recipe in dict.fromkeys(row.recipe for row in rows):
        own = torch.tensor(
            [row.values for row in rows if row.recipe == recipe and not math.isnan(row.values[3])]
        )
        if len(own) > 1:
            found.append(Row(f"mean of {len(own)} {name}", recipe, own.nanmean(0).tolist()))
    return found


def chamfer(mesh: Any, true: Any) -> float:
    """The mean distance in world units from points of each surface to the nearest of the other, both ways."""
    from scipy.spatial import KDTree

    rng = torch.Generator().manual_seed(0)
    points = [mesh_surface(surface, POINTS, rng)[0].numpy() for surface in (mesh, true)]
    there, back = (KDTree(other).query(own)[0].mean() for own, other in (points, points[::-1]))
    return float(0.5 * (there + back))


def compared(looks: Looks, true: PosedPictures) -> tuple[float, float]:
    """PSNR and IoU of an asset, means over pictures on white."""
    rgb, alpha = looks(true.cameras)
    return float(psnr(rgb, true.images).mean()), float(silhouette_iou(alpha, true.alpha).mean())


def sheet(runs: list[tuple[str, Path]], path: Path, size: int = 160) -> None:
    """One row a run: the cut-out, then the mesh from SHOWN."""
    rows = []
    for _, folder in runs:
        cut_out = Image.open(folder / "reference" / "picture.png").resize(
            (size, size), Image.Resampling.LANCZOS
        )
        white = Image.new("RGBA", cut_out.size, "white")
        seen = np.asarray(Image.alpha_composite(white, cut_out.convert("RGBA")).convert("RGB"))
        rgb, _ = both(folder)[0](ring(SHOWN, size))
        views = [(view.clamp(0.0, 1.0) * 255.0).round().byte().numpy() for view in rgb]
        rows.append(np.concatenate([seen, *views], axis=1))
    picture = Image.fromarray(np.concatenate(rows))
    labelled = Image.new("RGB", (picture.width, picture.height + 24), "white")
    labelled.paste(picture, (0, 24))
    draw, font = ImageDraw.Draw(labelled), ImageFont.load_default(14)
    for column, label in enumerate(["cut-out", *(f"{azimuth:.0f} degrees" for azimuth in SHOWN)]):
        draw.text((column * size + 8, 4), label, fill="black", font=font)
    labelled.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", nargs="*", help="pictures, and settings KEY=VALUE of all recipes")
    parser.add_argument("--meshes", nargs="*", default=[], metavar="MESH[@TEXTURE]")
    parser.add_argument("--model", default="", metavar="FOLDER", help="the reconstructor of the row ceiling")
    parser.add_argument("--objects", type=int, default=0, metavar="N")
    parser.add_argument("--catalogue", default=INSTALLED, metavar="DIR")
    parser.add_argument("--recipes", nargs="*", default=["image-to-3d"], metavar="RECIPE[+N]")
    parser.add_argument("--out", type=Path, default=Path("runs/image-to-3d"))
    add_markdown(parser)
    parser.add_argument("--sheet", type=Path, help="a picture of the assets of the first recipe")
    arguments = parser.parse_args()
    settings = [text for text in arguments.pictures if "=" in text]
    jobs = [Job(Path(text).stem, Path(text)) for text in arguments.pictures if "=" not in text]
    jobs += [mesh_job(mesh, arguments.out / "pictures") for mesh in arguments.meshes]
    objects = (
        object_jobs(arguments.catalogue, arguments.objects, arguments.out / "pictures")
        if arguments.objects
        else []
    )
    print(HEADER)
    rows: list[Row] = []
    for job in [*jobs, *objects]:
        for recipe in arguments.recipes:
            if recipe == CEILING and job.truth is None:
                continue
            folder = arguments.out / recipe / job.name
            if recipe != CEILING:
                run(job, recipe, folder, settings)
            rows.append(ceiling(job, arguments.model) if recipe == CEILING else row(job, recipe, folder))
            print(rows[-1].line(), flush=True)
    names = {job.name for job in objects}
    rows += [
        *means([one for one in rows if one.name not in names], "meshes"),
        *means([one for one in rows if one.name in names], "held-out objects"),
    ]
    for one in rows:
        if one.name.startswith("mean of"):
            print(one.line())
    write_markdown(arguments.markdown, "\n".join([HEADER, *(one.line() for one in rows)]))
    if arguments.sheet:
        first = arguments.recipes[0]
        sheet([(job.name, arguments.out / first / job.name) for job in [*jobs, *objects]], arguments.sheet)


if __name__ == "__main__":
    main()
