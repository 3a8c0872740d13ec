"""Do the other viewers of the web show the meshes that are written, and the right way up?

    npm install --no-save three playcanvas babylonjs babylonjs-loaders
    npm install --no-save --legacy-peer-deps @google/model-viewer
    python benchmarks/still_in_viewers.py [--image FILE] [--chromium PROGRAM] [--viewers VIEWER ...]

model-viewer, Babylon.js and PlayCanvas load files of still_files.py in a headless Chromium without a network, and
say where the tips of the three axes are; the red one must be on the right of the picture, the green one above and
the blue one on the left. Viewers that are not installed are left out. The exit code is 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import sys
import tempfile
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
from play_in_browser import Browser, Quiet
from still_files import PACKED, axes
from still_in_browser import FAR, LENGTHS, shows_tips

from threedgen.core.png import write_png
from threedgen.export import write
from threedgen.representations.texture_atlas import bake_vertex_colors

SECONDS = 30.0  # that a page has to load its file
GLTF = ("asset.glb", "asset.gltf", "small.glb")
PACKAGES = {
    "model-viewer": ("@google/model-viewer", "three"),  # Draco's decoder comes with three.js
    "playcanvas": ("playcanvas", "three"),
    "babylon": ("babylonjs", "babylonjs-loaders", "three"),
}
SHOWN = {"model-viewer": GLTF, "playcanvas": GLTF, "babylon": (*GLTF, "asset.obj", "asset.stl")}

HEAD = """<!DOCTYPE html><meta charset="utf-8">
<style>body { margin: 0; overflow: hidden; } img { display: none; }</style>
<img src="/wait">
<script type="importmap">{"imports": {"playcanvas": "/modules/playcanvas/build/playcanvas.mjs"}}</script>
<script type="module">
const file = location.hash.slice(1), draco = '/modules/three/examples/jsm/libs/draco/gltf/';
const said = words => fetch('/said', {method: 'POST', body: JSON.stringify(words)});
addEventListener('unhandledrejection', event => said({wrong: String(event.reason)}));
const drawn = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
const size = {width: `${innerWidth}px`, height: `${innerHeight}px`};
BODY
</script>
"""
BODIES = {
    "model-viewer": """
self.ModelViewerElement = {dracoDecoderLocation: draco}; // Google's server otherwise
const {ModelViewerElement} = await import('/modules/@google/model-viewer/dist/model-viewer.min.js');
const viewer = new ModelViewerElement();
Object.assign(viewer.style, size);
Object.assign(viewer, {cameraOrbit: '32deg 68deg 8m', fieldOfView: '40deg', interactionPrompt: 'none', src: file});
viewer.addEventListener('error', event => said({wrong: String(event.detail.sourceError)}));
viewer.addEventListener('load', async () => {
  await viewer.updateComplete;
  await drawn();
  const center = viewer.getBoundingBoxCenter(), sides = viewer.getDimensions();
  await said({tips: ['x', 'y', 'z'].map(axis => center[axis] + sides[axis] / 2)});
});
document.body.append(viewer);
""",
    "playcanvas": """
const pc = await import('playcanvas');
pc.dracoInitialize({jsUrl: draco + 'draco_wasm_wrapper.js', wasmUrl: draco + 'draco_decoder.wasm'});
const canvas = document.body.appendChild(document.createElement('canvas'));
const app = new pc.Application(canvas, {graphicsDeviceOptions: {preserveDrawingBuffer: true}});
app.setCanvasFillMode(pc.FILLMODE_FILL_WINDOW);
app.setCanvasResolution(pc.RESOLUTION_AUTO);
app.scene.ambientLight = new pc.Color(0.9, 0.9, 0.9);
app.start();
const camera = new pc.Entity();
camera.addComponent('camera', {fov: 40, clearColor: pc.Color.WHITE});
camera.setPosition(4, 3, 6.5);
camera.lookAt(0.5, 1, 1.5);
app.root.addChild(camera);
const asset = new pc.Asset(file, 'container', {url: file});
await new Promise((done, failed) => {
  asset.ready(done);
  asset.once('error', failed);
  app.assets.add(asset);
  app.assets.load(asset);
});
const entity = asset.resource.instantiateRenderEntity();
app.root.addChild(entity);
const tips = new pc.BoundingBox();
const parts = entity.findComponents('render').flatMap(render => render.meshInstances);
parts.forEach((part, index) => index ? tips.add(part.aabb) : tips.copy(part.aabb));
await drawn();
const {x, y, z} = tips.getMax();
await said({tips: [x, y, z]});
""",
    "babylon": """
const load = source => new Promise(done => {
  const script = document.createElement('script');
  Object.assign(script, {src: `/modules/${source}`, onload: done});
  document.head.append(script);
});
await load('babylonjs/babylon.js');
await load('babylonjs-loaders/babylonjs.loaders.js');
BABYLON.DracoDecoder.DefaultConfiguration = {
  wasmUrl: draco + 'draco_wasm_wrapper.js', wasmBinaryUrl: draco + 'draco_decoder.wasm', numWorkers: 0};
const canvas = document.body.appendChild(document.createElement('canvas'));
Object.assign(canvas.style, size);
BABYLON.OBJFileLoader.IMPORT_VERTEX_COLORS = true; // it leaves them out otherwise
const engine = new BABYLON.Engine(canvas, true, {preserveDrawingBuffer: true});
const scene = new BABYLON.Scene(engine);
scene.useRightHandedSystem = !file.endsWith('.stl'); // findings/babylonjs-stl-mirrored-in-right-handed-scenes.sh
const back = scene.useRightHandedSystem ? 1 : -1;
scene.clearColor = new BABYLON.Color4(0.85, 0.85, 0.85, 1);
scene.ambientColor = BABYLON.Color3.White();
new BABYLON.HemisphericLight('light', new BABYLON.Vector3(0, 1, 0), scene).groundColor = BABYLON.Color3.White();
const camera = new BABYLON.FreeCamera('camera', new BABYLON.Vector3(4, 3, 6.5 * back), scene);
camera.setTarget(new BABYLON.Vector3(0.5, 1, 1.5 * back));
camera.fov = 40 * Math.PI / 180;
const {meshes} = await BABYLON.ImportMeshAsync(location.origin + file, scene);
await scene.whenReadyAsync();
engine.runRenderLoop(() => scene.render());
const parts = meshes.filter(mesh => mesh.getTotalVertices());
parts[0].computeWorldMatrix(true);
const {minimumWorld: low, maximumWorld: high} = parts[0].getBoundingInfo().boundingBox;
await drawn();
await said({tips: [high.x, high.y, back > 0 ? high.z : -low.z]});
""",
}


class Listening(Quiet):
    """A page tells what it shows by POST; it counts as loaded, and is pictured, only when it has done so."""

    told: ClassVar[dict[str, object]] = {}
    done: ClassVar[threading.Event] = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/wait":
            self.done.wait(SECONDS)
            self.send_error(404)
        else:
            super().do_GET()

    def do_POST(self) -> None:
        words = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.told.update(json.loads(words))
        self.done.set()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", type=Path, help="PNG of all pictures: a row for each viewer")
    parser.add_argument("--chromium", default="chromium", help="the browser's program")
    parser.add_argument("--modules", type=Path, default=Path("node_modules"), help="npm's folder")
    parser.add_argument("--viewers", nargs="+", choices=list(SHOWN), default=list(SHOWN), metavar="VIEWER")
    arguments = parser.parse_args()
    plain = axes()
    meshes = {"colours": plain, "texture": bake_vertex_colors(plain, 512)}
    good, rows = True, []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "modules").symlink_to(arguments.modules.resolve())
        browser = Browser(arguments.chromium, folder / "profile", fast=False)
        handler = functools.partial(Listening, directory=str(folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            for viewer in arguments.viewers:
                missing = [name for name in PACKAGES[viewer] if not (arguments.modules / name).is_dir()]
                if missing:
                    print(f"{viewer}: not tried, for want of {' and '.join(missing)} in {arguments.modules}")
                    continue
                page = HEAD.replace("BODY", BODIES[viewer])
                (folder / f"{viewer}.html").write_text(page, encoding="utf-8")
                rows.append([])
                for kind, name in ((kind, name) for kind in meshes for name in SHOWN[viewer]):
                    write(meshes[kind], folder / kind / name, packing=PACKED.get(name))
                    Listening.told.clear()
                    Listening.done.clear()
                    address = f"http://127.0.0.1:{server.server_port}/{viewer}.html#/{kind}/{name}"
                    picture = browser.picture(address, folder / "picture.png")
                    rows[-1].append(picture[::3, ::3])
                    good = judged(f"{viewer}: {kind}/{name}", picture, name.endswith(".stl")) and good
            server.shutdown()
    if not rows:
        parser.error(f"no viewer in {arguments.modules}: see the beginning of {Path(__file__).name}")
    if arguments.image is not None:
        across = max(map(len, rows))
        full = [row + [np.full_like(row[0], 255)] * (across - len(row)) for row in rows]
        write_png(arguments.image, np.concatenate([np.concatenate(row, axis=1) for row in full], axis=0))
    sys.exit(0 if good else 1)


def judged(what: str, picture: np.ndarray, colorless: bool) -> bool:
    """Prints how a file was shown; whether that is right."""
    told = Listening.told
    if "tips" not in told:
        print(f"{what}: not shown: {told.get('wrong', 'no answer')}", flush=True)
        return False
    far = float(np.abs(np.subtract(told["tips"], LENGTHS)).max())  # type: ignore[call-overload]
    upright = colorless or shows_tips(picture)
    print(f"{what}: tips are off by {far:.1e}; colours where they should be: {upright}", flush=True)
    return far <= FAR and upright


if __name__ == "__main__":
    main()
