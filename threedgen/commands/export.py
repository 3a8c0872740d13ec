"""`threedgen export`: writes the asset of a run, or its motion, to a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from threedgen.commands.options import add_quality, add_target, at_least_one, trusting, whole
from threedgen.commands.parser import Parser
from threedgen.core.errors import UserError
from threedgen.core.imports import without_collection
from threedgen.export.names import check_suffix, holds_splats
from threedgen.export.packing import TEXTURE_KINDS, Packing
from threedgen.export.quality import settings_of
from threedgen.export.splat_settings import Up

_FACES = ("mesh.faces", "moving_faces")  # of what stands still, and of what moves


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen export",
        description="Write the asset of a run to a file: a mesh (.glb, .gltf, .obj, .stl, .usdz, or .html for a "
        "page that shows it) or its Gaussians (.ply, .compressed.ply, .splat, .spz, .sog, .splats.glb, "
        ".splats.usdz); a run that moves also as .mp4, .gif, .webp, or as one .ply per frame (DIR/*.ply, in "
        "quotes).",
    )
    add_target(
        parser,
        "FILE.{glb,gltf,obj,stl,usdz,html,ply,splat,spz,sog,mp4,gif,webp}|DIR/*.ply",
        "an export setting, such as mesh.faces=5000",
    )
    add_quality(parser)
    parser.add_argument(
        "--faces",
        type=whole,
        metavar="N",
        help="largest number of triangles, for meshes that stand still and for those that move; the same as "
        "mesh.faces=N moving_faces=N",
    )
    parser.add_argument(
        "--texture-size",
        type=whole,
        metavar="N",
        help="width and height of the texture in texels, for meshes that stand still, and 0 for colours at their "
        "vertices; the same as mesh.texture_size=N",
    )
    parser.add_argument(
        "--lods",
        type=at_least_one,
        metavar="N",
        help="for meshes that stand still: also write N levels of detail beside the file (NAME.lod1.glb and so "
        "on), each with a quarter of the triangles and half the texture of the one before",
    )
    parser.add_argument(
        "--texture-format",
        choices=TEXTURE_KINDS,
        default=Packing().texture,
        help="of the texture in a .glb or .gltf; webp is smaller, but not every program reads it; default: png",
    )
    parser.add_argument(
        "--draco",
        action="store_true",
        help="compress the triangles of a .glb or .gltf that stands still, to a tenth; needs threedgen[draco]; "
        "not every program reads it",
    )
    parser.add_argument(
        "--up",
        choices=[up for up in get_args(Up) if up != "auto"],
        help="axis of a file of Gaussians that points up; default: what readers of the format expect",
    )
    parser.add_argument(
        "--in-place",
        action="store_true",
        help="of a run of `threedgen fit`: in the coordinates of its capture, before it was turned, centred and "
        "scaled",
    )
    return parser


@trusting
def run(arguments: argparse.Namespace) -> None:
    """Writes the file or files and prints the path, the content and the size of each. Raises UserError."""
    path, settings = Path(arguments.to), _sizes(arguments)
    packing = Packing(arguments.texture_format, arguments.draco)
    check_suffix(path)  # before torch is imported, which takes seconds
    packing.check(path)
    if arguments.up is not None:
        if not holds_splats(path):
            raise UserError(f"--up is for files of 3D Gaussians, and {path} is none: leave it out")
        settings.append(f"splats.up={arguments.up}")
    if arguments.in_place and arguments.up is not None:
        raise UserError("--in-place keeps the axes of the capture: leave out --up")
    with without_collection():
        from threedgen.jobs.export_run import colors_of, export_run, summary
        from threedgen.jobs.run_directory import RunDirectory

    settings += arguments.settings
    written = export_run(
        RunDirectory.open(arguments.run), path, settings, packing, arguments.lods or 0, arguments.in_place
    )
    for file, mesh in written.items():
        print(summary(file, mesh))
    if colors := colors_of(written[path]):
        print(colors)


def _sizes(arguments: argparse.Namespace) -> list[str]:
    """The settings of the options about size; what is said by itself comes after the quality, and so wins."""
    settings = settings_of(arguments.quality)
    if arguments.faces is not None:
        settings += [f"{key}={arguments.faces}" for key in _FACES]
    if arguments.texture_size is not None:
        settings.append(f"mesh.texture_size={arguments.texture_size}")
    return settings
