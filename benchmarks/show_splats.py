"""Do viewers show our files of 3D Gaussians, and the right way up? Five of them in a headless Chromium.

    npm install --no-save three @sparkjsdev/spark @mkkellogg/gaussian-splats-3d playcanvas
    npm install --no-save babylonjs babylonjs-loaders
    apt install chromium
    python benchmarks/show_splats.py [--images DIR] [--chromium PROGRAM] [--viewers VIEWER ...]

A red, a green and a blue bar along +X, +Y and +Z are written in every format that a viewer reads. Files with Y
down are shown as these viewers show other files of those formats, after half a turn about X. The bars must be
where the camera sees them, up to the scale and the place of the picture. Viewers that are not installed are left
out. --images writes splats.png, the pictures side by side, a row for each viewer.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from play_in_browser import Browser, Quiet
from splat_viewers import CENTER, EYE, PACKAGES, page_of

from threedgen.core.png import write_png
from threedgen.core.types import GaussianCloud
from threedgen.export import write

SECONDS = 7.0  # that a page has to draw its file
NEAR = 6.0  # pixels: how far the middle of a bar may be from where it should be
_AS_SCANS = {"a.ply": True, "a.compressed.ply": True, "a.splat": True, "a.sog": True}  # Y is down in them
SHOWN = {  # by each viewer: the files, and whether each is turned there
    "spark": {**_AS_SCANS, "a.spz": False},
    "three": {"a.ply": True, "a.splat": True, "a.splats.glb": False},
    "mkkellogg": {"a.ply": True, "a.splat": True},
    "playcanvas": {"a.ply": True, "a.compressed.ply": True, "a.sog": True},
    # It mirrors Y of all but glTF, as its world is left-handed: what is Y down is upright in it, and .spz is not.
    "babylon": {**dict.fromkeys(_AS_SCANS, False), "a.spz": True, "a.splats.glb": False},
}


class Slow(Quiet):
    """A page counts as loaded, and is pictured, only when everything in it has come: /wait takes its time."""

    def do_GET(self) -> None:
        if self.path == "/wait":
            time.sleep(SECONDS)
            self.send_error(404)
        else:
            super().do_GET()


def bars() -> GaussianCloud:
    """Twelve round Gaussians along each axis, in its colour."""
    steps = torch.arange(1, 13) * 0.08
    means = torch.cat([steps[:, None] * axis for axis in torch.eye(3)])
    colors = torch.cat([(3.2 * axis - 1.5).expand(12, 3) for axis in torch.eye(3)])
    count = len(means)
    quats = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1)
    opacities = torch.full((count,), 0.98)
    return GaussianCloud(means, quats, torch.full((count, 3), 0.04), opacities, colors.unsqueeze(1))


def expected() -> Float[np.ndarray, "3 2"]:
    """Where that camera sees the middles of the bars, in focal lengths: x to the right, y down."""
    back = (EYE - CENTER) / np.linalg.norm(EYE - CENTER)
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right)
    away = 0.52 * np.eye(3) - EYE
    depth = -(away @ back)
    return np.stack([away @ right / depth, -(away @ np.cross(back, right)) / depth], axis=1)


def distance(picture: UInt8[np.ndarray, "H W 3"]) -> float:
    """How far the middles of the bars are from where they should be, in pixels, after the best scale and shift."""
    found = []
    for channel in range(3):
        others = np.delete(picture, channel, axis=2).astype(int).max(axis=2)
        rows, columns = np.nonzero(picture[..., channel].astype(int) - others > 100)
        if len(rows) == 0:
            return float("inf")
        found.append([columns.mean(), rows.mean()])
    seen, meant = (points - np.mean(points, axis=0) for points in (np.array(found), expected()))
    scale = max(0.0, float((seen * meant).sum() / (meant**2).sum()))
    return float(np.abs(seen - scale * meant).max())


def sheet(rows: list[list[UInt8[np.ndarray, "H W 3"]]]) -> UInt8[np.ndarray, "h w 3"]:
    """The pictures side by side and a fourth as large, a row for each viewer; empty places are white."""
    across = max(map(len, rows))
    small = []
    for row in rows:
        pictures = [Image.fromarray(one[: 3 * len(one) // 4]) for one in row]
        cells = [np.asarray(one.resize((one.width // 4, one.height // 4))) for one in pictures]
        cells += [np.full_like(cells[0], 255)] * (across - len(cells))
        small.append(np.concatenate(cells, axis=1))
    return np.concatenate(small, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder for the picture")
    parser.add_argument("--chromium", default="chromium", help="the browser's program")
    parser.add_argument("--modules", type=Path, default=Path("node_modules"), help="npm's folder")
    parser.add_argument("--viewers", nargs="+", choices=list(SHOWN), default=list(SHOWN), metavar="VIEWER")
    arguments = parser.parse_args()
    good, pictures = True, []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "modules").symlink_to(arguments.modules.resolve())
        browser = Browser(arguments.chromium, folder / "profile", fast=False)
        handler = functools.partial(Slow, directory=str(folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            for viewer in arguments.viewers:
                missing = [name for name in PACKAGES[viewer] if not (arguments.modules / name).is_dir()]
                if missing:
                    print(f"{viewer}: not tried, for want of {' and '.join(missing)} in {arguments.modules}")
                    continue
                (folder / f"{viewer}.html").write_text(page_of(viewer), encoding="utf-8")
                pictures.append([])
                for name, turned in SHOWN[viewer].items():
                    write(bars(), folder / name)
                    page = f"{viewer}.html#/{name},{str(turned).lower()}"
                    address = f"http://127.0.0.1:{server.server_port}/{page}"
                    pictures[-1].append(browser.picture(address, folder / "picture.png"))
                    far = distance(pictures[-1][-1])
                    good = good and far <= NEAR
                    print(f"{viewer:12} {name:18} the bars are {far:.1f} pixels off", flush=True)
            server.shutdown()
    if not pictures:
        parser.error(f"no viewer in {arguments.modules}: see the beginning of {Path(__file__).name}")
    if arguments.images is not None:
        write_png(arguments.images / "splats.png", sheet(pictures))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
