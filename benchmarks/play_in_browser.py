"""Does what is written play? anim.glb in three.js, player.html by itself, both in a headless Chromium.

    npm install --no-save three gltf-validator; apt install chromium
    python benchmarks/play_in_browser.py [--run RUN] [--images DIR] [--chromium PROGRAM]

Without a run the torus of animation_files.py is played. The browser reaches nothing but this machine: three.js and
anim.glb come from 127.0.0.1, the player from its file, and every other connection goes to a closed port. Each is
looked at at two moments: three.js must have the vertices where the file's maker had them, and the object must be in
the pictures where a camera sees those vertices. --images writes three-js.png and player.png, the moments side by
side.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from animation_files import bouncing_torus
from jaxtyping import Float, UInt8
from PIL import Image

from threedgen.cameras.orbit import orbit
from threedgen.core.png import write_png
from threedgen.export.moving import MovingAsset

SIDE = 512  # pixels of a window; Chromium has none below 500
NOWHERE = "http://127.0.0.1:9"  # a port that nothing listens on
NEAR = 3.0  # pixels: how far a side of the object may be from where it should be

PAGE = """<!DOCTYPE html><meta charset="utf-8"><style>body { margin: 0; overflow: hidden; }</style>
<script type="importmap">{"imports": {"three": "/three/build/three.module.js"}}</script>
<pre id="said" hidden></pre>
<script type="module">
import * as three from 'three';
import {GLTFLoader} from '/three/examples/jsm/loaders/GLTFLoader.js';
const asked = JSON.parse(decodeURIComponent(location.hash.slice(1)));
const {scene, animations} = await new GLTFLoader().loadAsync('/anim.glb');
const renderer = new three.WebGLRenderer({antialias: true, preserveDrawingBuffer: true});
renderer.setSize(innerWidth, innerHeight);
document.body.append(renderer.domElement);
const world = new three.Scene();
world.background = new three.Color('white');
world.add(scene, new three.HemisphereLight('white', 'grey', 2.5));
const camera = new three.PerspectiveCamera(40, innerWidth / innerHeight, 0.01, 100);
camera.position.fromArray(asked.eye);
camera.lookAt(...asked.center);
const mixer = new three.AnimationMixer(scene);
const action = mixer.clipAction(animations[0]);
action.setLoop(three.LoopOnce).clampWhenFinished = true;
action.play();
mixer.setTime(asked.time);
renderer.render(world, camera);
const mesh = scene.getObjectByProperty('isMesh', true);
const point = new three.Vector3();
const places = asked.vertices.map(index => mesh.getVertexPosition(index, point).toArray());
document.getElementById('said').textContent = JSON.stringify({places, seconds: animations[0].duration});
</script>
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and says nothing about it."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, for pages that load files, which a browser does not let them do from a disk."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Browser:
    """A headless Chromium that draws with the CPU and has no network.

    fast: time passes as fast as the page allows; workers of a page do not get along with it.
    """

    def __init__(self, program: str, profile: Path, fast: bool = True) -> None:
        self._command = [
            *(program, "--headless=new", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={profile}"),
            *("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"),
            *(["--virtual-time-budget=6000"] if fast else []),
            f"--window-size={SIDE},{SIDE}",
            *(f"--proxy-server={NOWHERE}", "--proxy-bypass-list=127.0.0.1"),
        ]

    def picture(self, address: str, path: Path) -> UInt8[np.ndarray, "H W 3"]:
        """The window as it is drawn."""
        self._run(f"--screenshot={path}", address)
        return np.asarray(Image.open(path).convert("RGB"))

    def text(self, address: str) -> str:
        """The page after its scripts have run."""
        return self._run("--dump-dom", address)

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([*self._command, *arguments], capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            sys.exit(f"{self._command[0]} failed:\n{done.stderr[-2000:]}")
        return done.stdout


def camera_of(asset: MovingAsset) -> tuple[list[float], list[float]]:
    """Eye and centre of the player's camera: around the middle of the motion, as far as all of it is seen."""
    _, motion = asset.surface
    low, high = motion.vertices.amin((0, 1)), motion.vertices.amax((0, 1))
    center, size = 0.5 * (low + high), 0.5 * (high - low).norm()
    one = center.new_ones(1)
    radius = size / np.sin(np.deg2rad(20.0))
    camera = orbit(asset.config.azimuth * one, 15.0 * one, radius * one, 40.0, SIDE, SIDE)
    return (center + camera.world_from_camera[0, :3, 3]).tolist(), center.tolist()


def seen_box(
    vertices: Float[np.ndarray, "V 3"], eye: list[float], center: list[float]
) -> Float[np.ndarray, " 4"]:
    """left, top, right, bottom of the vertices as that camera sees them, in focal lengths from its middle."""
    back = np.subtract(eye, center) / np.linalg.norm(np.subtract(eye, center))
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right)
    up = np.cross(back, right)
    away = vertices - np.asarray(eye)
    depth = -(away @ back)
    x, y = (away @ right) / depth, -(away @ up) / depth
    return np.array([x.min(), y.min(), x.max(), y.max()])


def drawn_box(picture: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, " 4"]:
    """The same of what is coloured in a picture, in pixels; the player's own controls are below and left out."""
    colored = np.ptp(picture.astype(int), axis=2) > 40
    colored[int(0.75 * len(colored)) :] = False
    rows, columns = np.nonzero(colored.any(1))[0], np.nonzero(colored.any(0))[0]
    return np.array([columns[0], rows[0], columns[-1] + 1.0, rows[-1] + 1.0])


def report(
    name: str, asset: MovingAsset, moments: list[int], pictures: list[UInt8[np.ndarray, "H W 3"]]
) -> bool:
    """Prints how two pictures differ; whether the object went where its vertices did: the scale and the middle are
    taken from the first picture, the second must fit."""
    _, motion = asset.surface
    eye, center = camera_of(asset)
    seen = [seen_box(motion.vertices[moment].numpy(), eye, center) for moment in moments]
    drawn = [drawn_box(picture) for picture in pictures]
    scale = (drawn[0][2] - drawn[0][0]) / (seen[0][2] - seen[0][0])
    error = np.abs(drawn[0] + scale * (seen[1] - seen[0]) - drawn[1]).max()
    differing = (np.abs(pictures[1].astype(int) - pictures[0]).max(2) > 24).sum()
    print(
        f"{name}: {differing} of {pictures[0][..., 0].size} pixels differ; the object's box went from "
        f"{drawn[0].astype(int).tolist()} to {drawn[1].astype(int).tolist()}, {error:.1f} pixels off"
    )
    return bool(differing > 0 and error <= NEAR)


def play_in_three(
    browser: Browser, address: str, asset: MovingAsset, moments: list[int], folder: Path
) -> bool:
    """anim.glb at those frames: vertices as three.js has them against the maker's, and the pictures."""
    mesh, motion = asset.surface
    eye, center = camera_of(asset)
    chosen = list(range(0, len(mesh.vertices), max(1, len(mesh.vertices) // 50)))
    pictures, far = [], 0.0
    for moment in moments:
        asked = {"time": float(motion.times[moment]), "eye": eye, "center": center, "vertices": chosen}
        page = f"{address}/page.html#{json.dumps(asked, separators=(',', ':'))}"
        pictures.append(browser.picture(page, folder / f"three-{moment}.png"))
        said = re.search(r'<pre id="said"[^>]*>(.*?)</pre>', browser.text(page))
        if said is None or not said[1]:
            sys.exit("three.js did not play anim.glb")
        places = np.array(json.loads(said[1])["places"])
        far = max(far, float(np.abs(places - motion.vertices[moment, chosen].numpy()).max()))
    print(f"three.js: {len(chosen)} vertices at {len(moments)} frames are within {far:.1e} of the maker's")
    write_png(folder / "three-js.png", np.concatenate(pictures, axis=1))
    return report("three.js", asset, moments, pictures) and far < 1e-4


def play_by_itself(browser: Browser, asset: MovingAsset, moments: list[int], folder: Path) -> bool:
    """player.html from its file at those frames, and that it plays when it is just opened."""
    page = (folder / "player.html").resolve().as_uri()
    times = [float(asset.surface[1].times[moment]) for moment in moments]
    pictures = [browser.picture(f"{page}#t={time}", folder / f"player-{time}.png") for time in times]
    write_png(folder / "player.png", np.concatenate(pictures, axis=1))
    clock = re.search(r'<output id="clock">([\d.]+) /', browser.text(page))
    print(f"player.html, just opened: its clock is at {clock[1] if clock else 'nothing'} s")
    return report("player.html", asset, moments, pictures) and clock is not None


def asset_of(run: str | None) -> MovingAsset:
    if run is None:
        return bouncing_torus()
    from threedgen.jobs import finish
    from threedgen.jobs.build import load_scene
    from threedgen.jobs.run_directory import RunDirectory
    from threedgen.recipes.load import read_resolved

    opened = RunDirectory.open(run)
    recipe = read_resolved(opened.recipe)
    return finish.moving_asset(recipe, load_scene(opened, recipe))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", help="a finished run of what moves")
    parser.add_argument("--images", type=Path, help="folder for the two pictures")
    parser.add_argument("--chromium", default="chromium", help="the browser's program")
    parser.add_argument(
        "--three", type=Path, default=Path("node_modules/three"), help="three.js as npm has it"
    )
    arguments = parser.parse_args()
    if not arguments.three.is_dir():
        parser.error(f"no three.js in {arguments.three}: npm install --no-save three gltf-validator")
    asset = asset_of(arguments.run)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("anim.glb", "player.html"):
            asset.write(folder / name)
        (folder / "page.html").write_text(PAGE, encoding="utf-8")
        (folder / "three").symlink_to(arguments.three.resolve())
        browser = Browser(arguments.chromium, folder / "profile")
        moments = [0, (len(asset.surface[1].times) - 1) // 4]
        with served(folder) as address:
            good = play_in_three(browser, address, asset, moments, folder)
        good = play_by_itself(browser, asset, moments, folder) and good
        if arguments.images is not None:
            for name in ("three-js.png", "player.png"):
                write_png(arguments.images / name, np.asarray(Image.open(folder / name)))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
