"""Web pages that show a file of 3D Gaussians, one for each viewer: /VIEWER.html#/FILE,true turns it by half a turn
about X.

All have the same camera, on EYE, towards CENTER and with +Y up, and a white background. A page waits for the
picture /wait, so that a browser counts it as loaded only after its file is shown.
"""

from __future__ import annotations

import numpy as np

EYE, CENTER = np.array([1.5, 1.2, 2.6]), np.array([0.3, 0.3, 0.3])
FIELD_OF_VIEW = 40  # degrees, vertical

# The packages of npm that each viewer is.
PACKAGES = {
    "spark": ("three", "@sparkjsdev/spark"),
    "three": ("three",),
    "mkkellogg": ("three", "@mkkellogg/gaussian-splats-3d"),
    "playcanvas": ("playcanvas",),
    "babylon": ("babylonjs", "babylonjs-loaders", "three"),
}

_HEAD = """<!DOCTYPE html><meta charset="utf-8">
<style>body { margin: 0; overflow: hidden; } img { display: none; }</style>
<img src="/wait">
<script type="importmap">{"imports": {
  "three": "/modules/three/build/three.BUILD.js",
  "three/webgpu": "/modules/three/build/three.webgpu.js",
  "three/tsl": "/modules/three/build/three.tsl.js",
  "three/addons/": "/modules/three/examples/jsm/",
  "spark": "/modules/@sparkjsdev/spark/dist/spark.module.js",
  "mkkellogg": "/modules/@mkkellogg/gaussian-splats-3d/build/gaussian-splats-3d.module.js",
  "playcanvas": "/modules/playcanvas/build/playcanvas.mjs"}}</script>
"""
_SCRIPT = """<script type="module">
const [file, half] = location.hash.slice(1).split(','), turned = half === 'true';
const eye = [EYE], center = [CENTER], degrees = ANGLE;
BODY
</script>
"""
_IN_THREE = """
import * as three from 'three';
const scene = new three.Scene();
scene.background = new three.Color('white');
LOAD
if (turned) splats.quaternion.set(1, 0, 0, 0);
scene.add(splats);
renderer.setSize(innerWidth, innerHeight);
document.body.append(renderer.domElement);
const camera = new three.PerspectiveCamera(degrees, innerWidth / innerHeight, 0.01, 100);
camera.position.set(...eye);
camera.lookAt(...center);
renderer.setAnimationLoop(() => renderer.render(scene, camera));
"""
_SPARK = """
const {SplatMesh, SparkRenderer} = await import('spark');
const renderer = new three.WebGLRenderer({preserveDrawingBuffer: true});
scene.add(new SparkRenderer({renderer}));
const splats = new SplatMesh({url: file});
await splats.initialized;
"""
_THREE = """
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
_MKKELLOGG = """
import {Viewer} from 'mkkellogg';
import {WebGLRenderer} from 'three';
const renderer = new WebGLRenderer({preserveDrawingBuffer: true});
renderer.setSize(innerWidth, innerHeight);
renderer.setClearColor('white');
document.body.append(renderer.domElement);
const viewer = new Viewer({
  cameraUp: [0, 1, 0], initialCameraPosition: eye, initialCameraLookAt: center, sharedMemoryForWorkers: false,
  renderer, useBuiltInControls: false});
await viewer.addSplatScene(file, {rotation: turned ? [1, 0, 0, 0] : [0, 0, 0, 1], showLoadingUI: false});
viewer.camera.fov = degrees;
viewer.camera.updateProjectionMatrix();
viewer.start();
"""
_PLAYCANVAS = """
import * as pc from 'playcanvas';
const canvas = document.body.appendChild(document.createElement('canvas'));
const app = new pc.Application(canvas, {graphicsDeviceOptions: {preserveDrawingBuffer: true}});
app.setCanvasFillMode(pc.FILLMODE_FILL_WINDOW);
app.setCanvasResolution(pc.RESOLUTION_AUTO);
app.start();
const camera = new pc.Entity();
camera.addComponent('camera', {fov: degrees, nearClip: 0.01, farClip: 100, clearColor: pc.Color.WHITE});
camera.setPosition(...eye);
camera.lookAt(...center);
app.root.addChild(camera);
const asset = new pc.Asset(file, 'gsplat', {url: file});
await new Promise((done, failed) => {
  asset.ready(done);
  asset.once('error', failed);
  app.assets.add(asset);
  app.assets.load(asset);
});
const splats = new pc.Entity();
splats.addComponent('gsplat', {asset});
if (turned) splats.setLocalEulerAngles(180, 0, 0);
app.root.addChild(splats);
"""
_BABYLON = """
const load = source => new Promise(done => {
  const script = document.createElement('script');
  Object.assign(script, {src: `/modules/${source}`, onload: done});
  document.head.append(script);
});
await load('babylonjs/babylon.js');
await load('babylonjs-loaders/babylonjs.loaders.js');
const fflate = await import('three/addons/libs/fflate.module.js');
const canvas = document.body.appendChild(document.createElement('canvas'));
Object.assign(canvas.style, {width: `${innerWidth}px`, height: `${innerHeight}px`});
const engine = new BABYLON.Engine(canvas, true, {preserveDrawingBuffer: true});
const scene = new BABYLON.Scene(engine); // left-handed: z is the other way round
scene.clearColor = new BABYLON.Color4(1, 1, 1, 1);
const seen = ([x, y, z]) => new BABYLON.Vector3(x, y, -z);
const camera = new BABYLON.FreeCamera('camera', seen(eye), scene);
camera.setTarget(seen(center));
camera.fov = degrees * Math.PI / 180;
camera.minZ = 0.01;
// Without these options it fetches both libraries from a server.
const pluginOptions = {splat: {fflate, spzLibraryUrl: undefined}};
const {meshes} = await BABYLON.ImportMeshAsync(location.origin + file, scene, {pluginOptions});
const root = new BABYLON.TransformNode('turned', scene);
if (turned) root.rotation.x = Math.PI;
if (file.endsWith('.glb')) root.rotation.y = Math.PI; // it shows the backs of glTF files where others show fronts
meshes.filter(mesh => !mesh.parent).forEach(mesh => mesh.parent = root);
engine.runRenderLoop(() => scene.render());
"""


_BODIES = {
    "spark": _IN_THREE.replace("LOAD", _SPARK),
    "three": _IN_THREE.replace("LOAD", _THREE),
    "mkkellogg": _MKKELLOGG,
    "playcanvas": _PLAYCANVAS,
    "babylon": _BABYLON,
}


def page_of(viewer: str) -> str:
    """The page of a viewer of PACKAGES."""
    values = {
        "BODY": _BODIES[viewer],
        "BUILD": "webgpu" if viewer == "three" else "module",
        "ANGLE": str(FIELD_OF_VIEW),
        "EYE": ", ".join(map(str, EYE)),
        "CENTER": ", ".join(map(str, CENTER)),
    }
    page = _HEAD + _SCRIPT
    for name, value in values.items():
        page = page.replace(name, value)
    return page
