"""The triangles of glTF files, where viewers show them when nothing moves.

Nodes, instances (EXT_mesh_gpu_instancing), skins in the pose of the file, morph targets with their default weights,
strips and fans, sparse and quantised accessors, Draco. What a file requires beyond that is refused by its name.
trimesh reads many of these as something else without a word, which is why it does not read these files here.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from threedgen.core.errors import UserError
from threedgen.datasets.decoding import damaged
from threedgen.datasets.gltf_document import Document, node_matrix, placed
from threedgen.datasets.gltf_materials import Materials
from threedgen.datasets.mesh_paint import Piece, unit
from threedgen.datasets.mesh_references import References

_DRACO, _INSTANCES = "KHR_draco_mesh_compression", "EXT_mesh_gpu_instancing"
# Extensions that are read, or that change nothing of the shape and of the colours without light.
_KNOWN = {
    *(_DRACO, _INSTANCES, "KHR_mesh_quantization", "KHR_texture_transform", "EXT_texture_webp"),
    *("EXT_texture_avif", "KHR_lights_punctual", "KHR_xmp_json_ld", "KHR_animation_pointer"),
}
_SURFACES = "KHR_materials_"  # all of these are about materials
_TRIANGLES, _STRIP, _FAN = 4, 5, 6


def read(path: Path, data: bytes, references: References, image: np.ndarray | None) -> list[Piece]:
    """The pieces of a .glb or .gltf file. data: its content. references: finds its other files. image: [h, w, 4], a
    texture that replaces those of its materials, or None.

    Raises UserError if it is damaged, if a texture is, if it requires an extension that is not read, and for Draco
    without DracoPy.
    """
    document = Document(path, data, references.get)
    with damaged(path):
        for name in document.tree.get("extensionsRequired", []):
            if name not in _KNOWN and not str(name).startswith(_SURFACES):
                raise UserError(f"{path} needs {name}, which threedgen does not read: write it without")
        materials = Materials(document, references, image)
        try:
            return list(_pieces(document, materials))
        except OSError as error:
            raise UserError(f"cannot read the mesh {path}: '{error}' is not in its folder") from error


def _pieces(document: Document, materials: Materials) -> Iterator[Piece]:
    places, shown = _places(document)
    for number in shown:
        node = document.part("nodes", number)
        if "mesh" not in node:
            continue
        mesh = document.part("meshes", node["mesh"])
        weights = node.get("weights", mesh.get("weights", []))
        joints = _joints(document, node["skin"], places) if "skin" in node else None
        for primitive in mesh["primitives"]:
            arrays, corners = _arrays(document, primitive)
            if corners is None or not len(corners):
                continue
            for name in arrays:
                for weight, target in zip(weights, primitive.get("targets", []), strict=False):
                    if weight and name in target:
                        arrays[name] = arrays[name] + float(weight) * document.array(target[name])
            points = arrays["POSITION"].astype(np.float64)
            skinned = joints is not None and "JOINTS_0" in arrays
            if skinned:
                points = _skinned(points, arrays, joints)
            uvs = {
                int(name.removeprefix("TEXCOORD_")): values.astype(np.float64)
                for name, values in arrays.items()
                if name.startswith("TEXCOORD_")
            }
            own = unit(arrays["COLOR_0"]) if "COLOR_0" in arrays else None
            for matrix in [np.eye(4)] if skinned else _copies(document, node, places[number]):
                moved = points @ matrix[:3, :3].T + matrix[:3, 3]
                # A mirrored piece would be inside out, so the order of the corners of its faces is reversed.
                faces = corners[:, ::-1] if np.linalg.det(matrix[:3, :3]) < 0 else corners
                inside = ((faces >= 0) & (faces < len(points))).all()
                # Corners that are not there have no paint; the caller says which they are.
                paint = materials.paint(primitive.get("material"), faces if inside else faces[:0], own, uvs)
                yield Piece(moved, faces, paint)


def _places(document: Document) -> tuple[dict[int, np.ndarray], list[int]]:
    """The matrix [4, 4] of each node in the world, and the nodes of the scene that is shown."""
    nodes = document.tree.get("nodes", [])
    below = {child for node in nodes for child in node.get("children", [])}
    roots = [number for number in range(len(nodes)) if number not in below]
    places: dict[int, np.ndarray] = {}

    def visit(starts: list[int]) -> list[int]:
        found, stack = [], [(number, np.eye(4)) for number in reversed(starts)]
        while stack:
            number, above = stack.pop()
            node = document.part("nodes", number)
            if len(found) > len(nodes):
                raise ValueError("a node is below itself, or below two others")
            found.append(number)
            places[number] = above @ node_matrix(node)
            stack += [(child, places[number]) for child in reversed(node.get("children", []))]
        return found

    everything = visit(roots)
    scenes = document.tree.get("scenes")
    if not scenes:
        return places, everything
    return places, visit(document.part("scenes", document.tree.get("scene", 0)).get("nodes", []))


def _copies(document: Document, node: Any, place: np.ndarray) -> list[np.ndarray]:
    """The matrices of a node: one, or those of its instances."""
    instances = node.get("extensions", {}).get(_INSTANCES)
    if instances is None:
        return [place]
    read = {name: document.array(index) for name, index in instances["attributes"].items()}
    count = len(next(iter(read.values())))
    start = {"TRANSLATION": np.zeros(3), "ROTATION": np.array([0.0, 0.0, 0.0, 1.0]), "SCALE": np.ones(3)}
    each = [read.get(name, np.tile(value, (count, 1))) for name, value in start.items()]
    return [place @ placed(*values) for values in zip(*each, strict=True)]


def _joints(document: Document, number: Any, places: dict[int, np.ndarray]) -> Float[np.ndarray, "J 4 4"]:
    """What moves the vertices of a skin into the world."""
    skin = document.part("skins", number)
    world = np.stack([places[joint] for joint in skin["joints"]])
    if "inverseBindMatrices" not in skin:
        return world
    inverse = document.array(skin["inverseBindMatrices"]).astype(np.float64)
    return world @ inverse.reshape(-1, 4, 4).transpose(0, 2, 1)[: len(world)]


def _skinned(points: np.ndarray, arrays: dict[str, np.ndarray], joints: Any) -> Float[np.ndarray, "V 3"]:
    """The points in the pose of the joints."""
    sets = [name for name in arrays if name.startswith("JOINTS_")]
    which = np.concatenate([arrays[name].astype(np.int64) for name in sets], axis=1)
    weights = np.concatenate([arrays[name.replace("JOINTS", "WEIGHTS")] for name in sets], axis=1)
    total = weights.sum(axis=1, keepdims=True)
    weights = weights / np.where(total > 0.0, total, 1.0)
    moved = np.zeros_like(points)
    for column in range(which.shape[1]):
        matrix = joints[which[:, column]]
        at = np.einsum("vij,vj->vi", matrix[:, :3, :3], points) + matrix[:, :3, 3]
        moved += weights[:, column : column + 1] * at
    return moved


def _arrays(
    document: Document, primitive: Any
) -> tuple[dict[str, np.ndarray], Int[np.ndarray, "F 3"] | None]:
    """The attributes of the vertices by name, and the triangles; None for points and lines."""
    mode = primitive.get("mode", _TRIANGLES)
    if mode not in (_TRIANGLES, _STRIP, _FAN) or "POSITION" not in primitive["attributes"]:
        return {}, None
    packed = primitive.get("extensions", {}).get(_DRACO)
    if packed is not None:
        return _from_draco(document, primitive, packed)
    arrays = {name: document.array(index) for name, index in primitive["attributes"].items()}
    if "indices" in primitive:
        order = document.array(primitive["indices"])[:, 0].astype(np.int64)
    else:
        order = np.arange(len(arrays["POSITION"]))
    return arrays, _triangles(order, mode)


def _triangles(order: Int[np.ndarray, " N"], mode: int) -> Int[np.ndarray, "F 3"]:
    if mode == _TRIANGLES:
        return order[: len(order) // 3 * 3].reshape(-1, 3)
    if mode == _FAN:
        return np.stack([order[1:-1], order[2:], np.broadcast_to(order[:1], len(order[2:]))], axis=1)
    faces = np.stack([order[:-2], order[1:-1], order[2:]], axis=1)
    faces[1::2, 1:] = faces[1::2, :0:-1]  # each second one would be inside out
    return faces


def _from_draco(
    document: Document, primitive: Any, packed: Any
) -> tuple[dict[str, np.ndarray], Int[np.ndarray, "F 3"]]:
    try:
        DracoPy = import_module("DracoPy")
    except ImportError as error:
        raise UserError(
            f'{document.path} is compressed with Draco, which needs DracoPy: pip install "threedgen[draco]"'
        ) from error
    content = document.view(packed["bufferView"])
    try:
        found = DracoPy.decode(content)
    except Exception as error:  # DracoPy raises exceptions of its own kinds for damaged data
        raise UserError(f"{document.path} has triangles of {_DRACO} that are damaged") from error
    data = {item["unique_id"]: np.asarray(item["data"]) for item in found.attributes}
    arrays = {}
    for name, identifier in packed["attributes"].items():
        values = data[identifier].reshape(len(found.points), -1)
        arrays[name] = document.normalised(primitive["attributes"][name], values)
    return arrays, np.asarray(found.faces, np.int64).reshape(-1, 3)
