"""How well exported meshes show the assets that they are made of, and what they cost.

    python benchmarks/exports.py [--solids 16] [--things 16] [--pictures PICTURE ...] [--meshes MESH[@TEXTURE] ...]
                                 [--out runs/exports] [--markdown FILE]

Each row is the command a user types (text-to-3d with the prior of solids, text-to-3d, image-to-3d, fit). Its
asset.glb is read back by trimesh and rendered from 16 sides with 128 x 128 pixels, which the asset fills, beside
renders of asset.ply. "truth" is the given picture, with its own pixels, held-out renders of the fitted mesh, or the
solid of the world that the prompt names, seen as in text_to_3d.py: PSNR of asset.ply, then of the mesh. Rows whose
run is in --out are not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from looks import Looks, both
from text_to_3d import PROMPTS, scene_of

from threedgen.core.pictures import psnr, silhouette_iou, ssim
from threedgen.core.types import Cameras, TriMesh
from threedgen.datasets.given import GivenViews, read_pictures
from threedgen.datasets.splat_files import read_splats
from threedgen.export.views import around, renders
from threedgen.jobs.asset import asset_of, given_views
from threedgen.jobs.build import load_scene
from threedgen.jobs.run_directory import RunDirectory
from threedgen.jobs.scores.exported import read_back
from threedgen.metrics.shape_world import score_asset
from threedgen.recipes.load import read_resolved
from threedgen.renderers.mesh import MeshRenderer

HEADER = (
    "| asset | PSNR | SSIM | IoU | truth: asset | truth: mesh | triangles | MB | s | watertight |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)
THINGS = Path(__file__).with_name("things_prompts.yaml")


def run(words: Sequence[str], folder: Path) -> None:
    """The command, if its run is not there."""
    if not (folder / "report.json").is_file():
        command = [sys.executable, "-m", "threedgen", *words, "--out", str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@torch.no_grad()
def row(folder: Path, solid: bool) -> dict[str, Any]:
    """The measures of a finished run. solid: whether its prompt names a solid of the world."""
    found = RunDirectory.open(folder)
    recipe = read_resolved(found.recipe)
    report = json.loads(found.report.read_text())
    splats = folder / "asset.ply"
    asset = read_splats(splats).cloud() if splats.is_file() else asset_of(recipe, load_scene(found, recipe))
    mesh = read_back(folder / "asset.glb")
    views = renders(asset, around(mesh, 16, 128))
    numbers = []
    for view in views:
        rgb, alpha = shown(mesh, view.camera)
        white = (view.rgb + 1.0 - view.alpha)[None]
        overlap = silhouette_iou(alpha, view.alpha[None])
        numbers.append((float(psnr(rgb, white)), float(ssim(rgb, white)), float(overlap)))
    means = [statistics.fmean(column) for column in zip(*numbers, strict=True)]
    return {
        "asset": folder.name,
        **dict(zip(("psnr", "ssim", "iou"), means, strict=True)),
        "truth": truth_of_a_solid(*both(folder), recipe.prompt) if solid else truth(recipe, asset, mesh),
        "triangles": len(mesh.faces),
        "megabytes": (folder / "asset.glb").stat().st_size / 1e6,
        "seconds": report["seconds"]["extracting the mesh"],
        "watertight": report["scores"]["watertight"],
    }


def shown(mesh: TriMesh, camera: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
    """The mesh on white, and its alpha."""
    output = MeshRenderer(MeshRenderer.Config(supersampling=2))(mesh, camera, torch.ones(3))
    return output.rgb, output.alpha


def truth(recipe: Any, asset: Any, mesh: TriMesh) -> tuple[float, float] | None:
    """PSNR of the asset and of the mesh, of the first given picture or of the views that a fit held out."""
    sampler = recipe.all_stages[-1].cameras.make()
    if isinstance(sampler, GivenViews):
        held_out = sampler.held_out.tolist()
        images = read_pictures(sampler.config.path).images
        pairs = [(sampler.cameras[place : place + 1], images[place]) for place in held_out]
    else:
        pairs = [(view.camera, view.rgb + 1.0 - view.alpha) for view in given_views(recipe)[:1]]
    if not pairs:
        return None
    scores = []
    for camera, picture in pairs:
        (own,) = renders(asset, camera)
        white = own.rgb + 1.0 - own.alpha
        scores.append([float(psnr(one, picture[None])) for one in (white[None], shown(mesh, camera)[0])])
    first, second = (statistics.fmean(column) for column in zip(*scores, strict=True))
    return first, second


def truth_of_a_solid(mesh: Looks, asset: Looks, prompt: str) -> tuple[float, float]:
    """PSNR of the asset and of the mesh."""
    color, shape = scene_of(prompt)
    return score_asset(asset, shape, color).psnr, score_asset(mesh, shape, color).psnr


def line(values: dict[str, Any]) -> str:
    """One row of the table."""
    true = ("-", "-") if values["truth"] is None else tuple(f"{value:.1f}" for value in values["truth"])
    cells = [values["asset"], f"{values['psnr']:.1f}", f"{values['ssim']:.3f}", f"{values['iou']:.3f}", *true]
    cells += [str(values["triangles"]), f"{values['megabytes']:.1f}", f"{values['seconds']:.1f}"]
    return "| " + " | ".join([*cells, "yes" if values["watertight"] else "no"]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--solids", type=int, default=16, help="prompts of text_to_3d.py; default: 16")
    parser.add_argument("--things", type=int, default=16, help="prompts of things.py; default: 16")
    parser.add_argument("--pictures", nargs="*", type=Path, default=[])
    parser.add_argument("--meshes", nargs="*", default=[], metavar="MESH[@TEXTURE]")
    parser.add_argument("--out", type=Path, default=Path("runs/exports"))
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    known = [entry["prompt"] for entry in yaml.safe_load(THINGS.read_text())["known"]]
    things = known[:: max(1, len(known) // max(1, arguments.things))][: arguments.things]
    jobs = [
        (["text-to-3d", prompt, "--recipe", "sds"], "solids", prompt)
        for prompt in PROMPTS[: arguments.solids]
    ]
    jobs += [(["text-to-3d", prompt], "things", prompt) for prompt in things]
    jobs += [(["image-to-3d", str(picture)], "pictures", picture.stem) for picture in arguments.pictures]
    for mesh in arguments.meshes:
        path, _, texture = mesh.partition("@")
        told = ["--texture", texture] if texture else []
        jobs.append((["fit", path, *told], "fits", Path(path).stem))
    lines = [HEADER]
    print(HEADER)
    groups: dict[str, list[dict[str, Any]]] = {}
    for words, group, name in jobs:
        folder = arguments.out / group / name.replace(" ", "-")
        run(words, folder)
        values = row(folder, group == "solids")
        groups.setdefault(group, []).append(values)
        lines.append(line(values))
        print(lines[-1], flush=True)
    for group, rows in groups.items():
        psnrs = [values["psnr"] for values in rows]
        closed = sum(values["watertight"] for values in rows)
        lines.append(
            f"\n{group}: PSNR {statistics.fmean(psnrs):.1f} dB (least {min(psnrs):.1f}), IoU "
            f"{statistics.fmean(values['iou'] for values in rows):.3f}, {closed} of {len(rows)} watertight"
        )
        print(lines[-1])
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
