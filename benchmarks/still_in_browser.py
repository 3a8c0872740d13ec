"""Do browsers show what is written? The files of an asset that stands still in three.js, and its page by itself.

    npm install --no-save three
    python benchmarks/still_in_browser.py [--image FILE] [--chromium PROGRAM]

three.js loads every file of still_files.py and says where the tips of the three axes are; asset.html is opened from
its file, without a network, and must show a red tip on the right, a green one above and a blue one on the left. The
exit code is 1 where that is not so.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from play_in_browser import Browser, served
from still_files import NAMES, PACKED, axes

from threedgen.core.png import write_png
from threedgen.export import write
from threedgen.representations.texture_atlas import bake_vertex_colors

LENGTHS = (1.0, 2.0, 3.0)
FAR = 0.001  # world units

PAGE = """<!DOCTYPE html><meta charset="utf-8"><style>body { margin: 0; overflow: hidden; }</style>
<script type="importmap">{"imports": {"three": "/three/build/three.module.js"}}</script>
<pre id="said" hidden></pre>
<script type="module">
import * as three from 'three';
const from = name => import(`/three/examples/jsm/loaders/${name}.js`);
const file = location.hash.slice(1);
const suffix = file.split('.').pop();
async function loaded() {
  if (suffix === 'stl') { // no format of its own: as its readers do, with z up
    const shape = await new (await from('STLLoader')).STLLoader().loadAsync(file);
    return new three.Mesh(shape.rotateX(-Math.PI / 2), new three.MeshStandardMaterial());
  }
  if (suffix === 'obj') {
    const loader = new (await from('OBJLoader')).OBJLoader();
    if (file.includes('texture')) {
      const materials = await new (await from('MTLLoader')).MTLLoader().loadAsync(file.replace('.obj', '.mtl'));
      loader.setMaterials(materials);
      await materials.preload();
    }
    return loader.loadAsync(file);
  }
  if (suffix.startsWith('usd')) return new (await from('USDLoader')).USDLoader().loadAsync(file);
  const draco = new (await from('DRACOLoader')).DRACOLoader();
  draco.setDecoderPath('/three/examples/jsm/libs/draco/gltf/');
  return (await new (await from('GLTFLoader')).GLTFLoader().setDRACOLoader(draco).loadAsync(file)).scene;
}
const asset = await loaded();
await new Promise(later => setTimeout(later, 500)); // materials fetch their pictures by themselves
const renderer = new three.WebGLRenderer({antialias: true, preserveDrawingBuffer: true});
renderer.setSize(innerWidth, innerHeight);
document.body.append(renderer.domElement);
const world = new three.Scene();
world.background = new three.Color('white');
world.add(asset, new three.HemisphereLight('white', 'grey', 2.5));
const box = new three.Box3().setFromObject(asset, true);
const camera = new three.PerspectiveCamera(40, innerWidth / innerHeight, 0.01, 100);
camera.position.set(4, 3, 6.5);
camera.lookAt(...box.getCenter(new three.Vector3()).toArray());
renderer.render(world, camera);
let kind = 'none';
asset.traverse(part => {
  if (part.isMesh && part.geometry.hasAttribute('color')) kind = 'colours';
  if (part.isMesh && part.material.map?.image) kind = 'texture';
});
document.getElementById('said').textContent = JSON.stringify({tips: box.max.toArray(), kind});
</script>
"""


def in_three(browser: Browser, address: str, file: str, picture: Path) -> bool:
    """Prints where the tips of a file are in three.js, and what colours it; whether they are right."""
    page = f"{address}/page.html#{file}"
    for _ in range(5):  # on a busy machine a page may be looked at before it has loaded its file
        drawn = browser.picture(page, picture).min() < 220
        said = re.search(r'<pre id="said"[^>]*>(.+?)</pre>', browser.text(page))
        if drawn and said is not None:
            break
    else:
        print(f"{file}: three.js did not show it")
        return False
    found = json.loads(said[1])
    far = float(np.abs(np.subtract(found["tips"], LENGTHS)).max())
    print(f"{file}: tips are off by {far:.1e}; what colours it: {found['kind']}")
    return far <= FAR


def by_itself(browser: Browser, page: Path, picture: Path) -> bool:
    """Whether the page shows the tips in their colours where they should be."""
    shown = browser.picture(page.resolve().as_uri(), picture)
    good = shows_tips(shown)
    print(f"{page.parent.name}/{page.name}: colours where they should be: {good}")
    return good


def shows_tips(picture: UInt8[np.ndarray, "H W 3"]) -> bool:
    """Whether red is on the right, green in between and above, and blue on the left."""
    values, seen = picture.astype(int), []
    for channel in range(3):
        others = np.delete(values, channel, axis=2).max(axis=2)
        rows, columns = np.nonzero(values[..., channel] - others > 60)
        if len(rows) == 0:
            return False
        seen.append((columns.mean(), rows.mean()))
    red, green, blue = seen
    return bool(blue[0] < green[0] < red[0] and green[1] < min(red[1], blue[1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", type=Path, help="PNG of all pictures: a column for each file")
    parser.add_argument("--chromium", default="chromium", help="the browser's program")
    parser.add_argument(
        "--three", type=Path, default=Path("node_modules/three"), help="three.js as npm has it"
    )
    arguments = parser.parse_args()
    if not arguments.three.is_dir():
        parser.error(f"no three.js in {arguments.three}: npm install --no-save three")
    plain = axes()
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "page.html").write_text(PAGE, encoding="utf-8")
        (folder / "three").symlink_to(arguments.three.resolve())
        browser = Browser(arguments.chromium, folder / "profile")
        rows = []
        for kind, mesh in (("colours", plain), ("texture", bake_vertex_colors(plain, 512))):
            row = []
            for name in (*NAMES, *PACKED):
                file, picture = folder / kind / name, folder / f"{kind}-{name}.png"
                write(mesh, file, packing=PACKED.get(name))
                if file.suffix == ".html":
                    good = by_itself(browser, file, picture) and good
                else:
                    with served(folder) as address:
                        good = in_three(browser, address, f"{kind}/{name}", picture) and good
                row.append(np.asarray(Image.open(picture).convert("RGB"))[::2, ::2])
            rows.append(np.concatenate(row, axis=1))
        if arguments.image is not None:
            write_png(arguments.image, np.concatenate(rows, axis=0))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
