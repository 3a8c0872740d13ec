"""What a moving asset costs as a file: bytes and seconds, format by format.

    python benchmarks/animation_files.py [--out DIR] [--markdown FILE]

The asset is a torus of 5000 Gaussians and as many vertices that bounces once and bends on the way: 2 seconds at 24
frames a second, 49 frames. No run is needed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from jaxtyping import Float
from tables import add_markdown, write_markdown
from torch import Tensor, nn

from threedgen.core.spherical_harmonics import dc_from_rgb
from threedgen.core.types import Frames, GaussianCloud
from threedgen.export.animation import Config
from threedgen.export.mesh import MeshConfig
from threedgen.export.moving import MovingAsset
from threedgen.renderers.splatting import SplattingRenderer

NAMES = (
    *("anim.glb", "player.html", "anim.usdz", "anim.usdc", "anim.usda"),
    *("anim.mp4", "anim.webp", "anim.gif", "frames/*.ply"),
)


class BouncingTorus(nn.Module):
    """Opaque Gaussians on a torus, red to blue around it, that goes up and down once while its sides flap."""

    moves = True

    def __init__(self, around: int = 125, along: int = 40) -> None:
        super().__init__()
        u, v = torch.meshgrid(
            2.0 * torch.pi * torch.arange(around) / around,
            2.0 * torch.pi * torch.arange(along) / along,
            indexing="ij",
        )
        u, v = u.reshape(-1), v.reshape(-1)
        ring = 0.55 + 0.22 * v.cos()
        self.means = torch.stack([ring * u.cos(), 0.22 * v.sin(), ring * u.sin()], dim=1)
        colors = torch.stack([0.5 + 0.45 * u.cos(), 0.25 + 0.1 * v.cos(), 0.5 - 0.45 * u.cos()], dim=1)
        count = len(u)
        self.others = (
            torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1),
            torch.full((count, 3), 0.03),
            torch.full((count,), 0.95),
            dc_from_rgb(colors)[:, None],
        )

    def moved(self, times: Float[Tensor, " T"]) -> Float[Tensor, "T N 3"]:
        """Where the means are at `times` in [0, 1]."""
        height = 0.6 * (torch.pi * times).sin()
        flap = 0.5 * (2.0 * torch.pi * times).sin()
        up = height[:, None] + flap[:, None] * self.means[:, 0].square()
        return self.means + torch.stack([torch.zeros_like(up), up, torch.zeros_like(up)], dim=2)

    def at(self, time: Float[Tensor, " B"] | None = None) -> GaussianCloud | Frames:
        """The cloud at rest for None, else a moment a time."""
        if time is None:
            return GaussianCloud(self.means, *self.others)
        clouds = tuple(GaussianCloud(means, *self.others) for means in self.moved(time))
        return Frames(clouds, torch.arange(len(clouds)), time)


def bouncing_torus(**settings: float) -> MovingAsset:
    """The asset of this benchmark; settings: of its `animation.Config`."""
    return MovingAsset(
        BouncingTorus(),
        Config(**settings),  # pyright: ignore[reportArgumentType]
        MeshConfig(resolution=96, faces=10_000),
        SplattingRenderer(),
        note={"prompt": "a torus bouncing"},
    )


def written(path: Path) -> tuple[int, int]:
    """Files and bytes of what was written: of the folder, where the name has a star."""
    files = sorted(path.parent.iterdir()) if "*" in path.name else [path]
    return len(files), sum(file.stat().st_size for file in files)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="keep the files in this folder")
    add_markdown(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        asset = bouncing_torus()
        begin = time.perf_counter()
        mesh, motion = asset.surface  # made once for all formats that hold a mesh
        took = time.perf_counter() - begin
        lines = [
            f"{len(mesh.vertices)} vertices, {len(mesh.faces)} triangles, {len(motion.times)} frames, "
            f"{len(asset.scene.means)} Gaussians; mesh and its motion: {took:.1f} s",
            "",
            "| file | MB | seconds |",
            "| --- | --- | --- |",
        ]
        for name in NAMES:
            begin = time.perf_counter()
            asset.write(folder / name)
            took = time.perf_counter() - begin
            files, size = written(folder / name)
            many = f" ({files} files)" if files > 1 else ""
            lines.append(f"| {name}{many} | {size / 1e6:.3g} | {took:.2f} |")
    text = "\n".join(lines)
    print(text)
    write_markdown(arguments.markdown, text)


if __name__ == "__main__":
    main()
