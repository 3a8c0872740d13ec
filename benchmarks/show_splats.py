"""Do viewers show our files of 3D Gaussians, and the right way up? Spark and three.js in a headless Chromium.

    npm install --no-save three @sparkjsdev/spark; apt install chromium
    python benchmarks/show_splats.py [--images DIR] [--chromium PROGRAM]

A red, a green and a blue bar along +X, +Y and +Z are written in every format that a viewer reads. Files with Y
down are shown as these viewers show other files of those formats, after half a turn about X. The bars must be
where the camera sees them, up to the scale and the place of the picture. --images writes splats.png, the pictures
side by side.
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
from play_in_browser import Browser, Quiet

from threedgen.core.png import write_png
from threedgen.core.types import GaussianCloud
from threedgen.export import write

SECONDS = 7.0  # that a page has to draw its file
NEAR = 6.0  # pixels: how far the middle of a bar may be from where it should be
EYE, CENTER = np.array([1.5, 1.2, 2.6]), np.array([0.3, 0.3, 0.3])
SHOWN = {  # viewer and file: whether it is turned there
    ("spark", "a.ply"): True,
    ("spark", "a.compressed.ply"): True,
    ("spark", "a.splat"): True,
    ("spark", "a.sog"): True,
    ("spark", "a.spz"): False,
    ("three", "a.ply"): True,
    ("three", "a.splat"): True,
    ("three", "a.splats.glb"): False,
}

PAGE = """<!DOCTYPE html><meta charset="utf-8">
<style>body { margin: 0; overflow: hidden; } img { display: none; }</style>
<img src="/wait">
<script type="importmap">{"imports": {
  "three": "/modules/three/build/three.BUILD.js",
  "three/webgpu": "/modules/three/build/three.webgpu.js",
  "three/tsl": "/modules/three/build/three.tsl.js",
  "three/addons/": "/modules/three/examples/jsm/",
  "spark": "/modules/@sparkjsdev/spark/dist/spark.module.js"}}</script>
<script type="module"> import * as three from
'three'; const [file, turned] = location.hash.slice(1).split(','); const scene = new three.Scene();
scene.background = new three.Color('white'); LOAD if (turned === 'true') splats.quaternion.set(1, 0, 0, 0);
scene.add(splats); renderer.setSize(innerWidth, innerHeight); document.body.append(renderer.domElement); const
camera = new three.PerspectiveCamera(40, innerWidth / innerHeight, 0.01, 100); camera.position.set(EYE);
camera.lookAt(CENTER); renderer.setAnimationLoop(() => renderer.render(scene, camera)); </script>
"""
SPARK = """
const {SplatMesh, SparkRenderer} = await import('spark');
const renderer = new three.WebGLRenderer({preserveDrawingBuffer: true});
scene.add(new SparkRenderer({renderer}));
const splats = new SplatMesh({url: file});
await splats.initialized;
"""
THREE = """
const addons = 'three/addons/';
const {GLTFLoader} = await import(addons + 'loaders/GLTFLoader.js');
const {GLTFGaussianSplatLoaderExtension} = await import(addons + 'loaders/GLTFGaussianSplatLoaderExtension.js');
const {GaussianSplatPLYLoader} = await import(addons + 'loaders/GaussianSplatPLYLoader.js');
const {SPLATLoader} = await import(addons + 'loaders/SPLATLoader.js');
const {GaussianSplat} = await import(addons + 'objects/GaussianSplat.js');
const renderer = new three.WebGPURenderer({forceWebGL: true});
await renderer.init();
let splats;
if (file.endsWith('.glb')) {
  const loader = new GLTFLoader();
  loader.register(parser => new GLTFGaussianSplatLoaderExtension(parser));
  splats = (await loader.loadAsync(file)).scene;
} else {
  const Loader = file.endsWith('.ply') ? GaussianSplatPLYLoader : SPLATLoader;
  splats = new GaussianSplat(await new Loader().loadAsync(file));
}
"""


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder for the picture")
    parser.add_argument("--chromium", default="chromium", help="the browser's program")
    parser.add_argument("--modules", type=Path, default=Path("node_modules"), help="npm's folder")
    arguments = parser.parse_args()
    for name in ("three", "@sparkjsdev/spark"):
        if not (arguments.modules / name).is_dir():
            parser.error(f"no {name} in {arguments.modules}: npm install --no-save three @sparkjsdev/spark")
    good, pictures = True, []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "modules").symlink_to(arguments.modules.resolve())
        for viewer, build, load in (("spark", "module", SPARK), ("three", "webgpu", THREE)):
            page = PAGE.replace("BUILD", build).replace("LOAD", load)
            for name, place in (("EYE", EYE), ("CENTER", CENTER)):
                page = page.replace(name, ", ".join(map(str, place)))
            (folder / f"{viewer}.html").write_text(page, encoding="utf-8")
        browser = Browser(arguments.chromium, folder / "profile", fast=False)
        handler = functools.partial(Slow, directory=str(folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            for (viewer, name), turned in SHOWN.items():
                write(bars(), folder / name)
                address = f"http://127.0.0.1:{server.server_port}/{viewer}.html#/{name},{str(turned).lower()}"
                pictures.append(browser.picture(address, folder / "picture.png"))
                far = distance(pictures[-1])
                good = good and far <= NEAR
                print(f"{viewer:6} {name:18} the bars are {far:.1f} pixels off")
            server.shutdown()
    if arguments.images is not None:
        small = [picture[: 3 * len(picture) // 4 : 2, ::2] for picture in pictures]
        rows = [np.concatenate(small[first : first + 4], axis=1) for first in range(0, len(small), 4)]
        write_png(arguments.images / "splats.png", np.concatenate(rows, axis=0))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
