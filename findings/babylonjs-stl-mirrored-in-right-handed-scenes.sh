#!/bin/sh
# @babylonjs/loaders 9.28.0 with @babylonjs/core 9.35.0, seen on 2026-11-30: an STL file is mirrored in a right-handed
# scene (`scene.useRightHandedSystem = true`).
#
# STL coordinates are right-handed. The loader always swaps Y and Z, which turns them into the left-handed coordinates
# of a usual scene of Babylon.js. It does so in right-handed scenes, too, where the swap makes a mirror image: letters
# read backwards. Expected: that it looks at useRightHandedSystem, as the loader of glTF does; that property is
# documented as "use a right-handed coordinate system", without exceptions. The file has one triangle, whose corners
# a, b and c (with the origin) have a positive triple product, a . (b x c) = 1; a rotation keeps it, a mirror makes
# it -1. threedgen shows its STL files in left-handed scenes, where they are right.
#
# Output seen:
#   left-handed scene: triple product -1, expected -1 (the mirror of the axes and that of the numbers cancel)
#   right-handed scene: triple product -1, expected 1
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund @babylonjs/core@9.35.0 @babylonjs/loaders@9.28.0
cat > look.mjs <<'SCRIPT'
import {NullEngine} from '@babylonjs/core/Engines/nullEngine.js';
import {Scene} from '@babylonjs/core/scene.js';
import {Vector3} from '@babylonjs/core/Maths/math.vector.js';
import {ImportMeshAsync} from '@babylonjs/core/Loading/sceneLoader.js';
import '@babylonjs/loaders/STL/index.js';

const file = `solid corner
facet normal 0.577 0.577 0.577
outer loop
vertex 1 0 0
vertex 0 1 0
vertex 0 0 1
endloop
endfacet
endsolid corner
`;

async function product(rightHanded) {
  const scene = new Scene(new NullEngine());
  scene.useRightHandedSystem = rightHanded;
  const {meshes} = await ImportMeshAsync(`data:${file}`, scene, {pluginExtension: '.stl'});
  const mesh = meshes[0], numbers = mesh.getVerticesData('position'), world = mesh.computeWorldMatrix(true);
  // The loader may turn the order of the corners, so each is known by the axis of the file that it is on.
  const places = [0, 3, 6].map(start => numbers.slice(start, start + 3));
  const onAxis = [[1, 0, 0], [0, 0, 1], [0, 1, 0]].map(swapped => places.find(at => at.every((v, i) => v === swapped[i])));
  const [a, b, c] = onAxis.map(at => Vector3.TransformCoordinates(Vector3.FromArray(at), world));
  return Math.round(Vector3.Dot(a, Vector3.Cross(b, c)));
}

const left = await product(false), right = await product(true);
console.log(`left-handed scene: triple product ${left}, expected -1`);
console.log(`right-handed scene: triple product ${right}, expected 1`);
process.exit(left === -1 && right === -1 ? 0 : 1);
SCRIPT
node look.mjs
