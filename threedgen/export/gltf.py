"""glTF 2.0 files, binary (.glb) or text (.gltf), written without a library: one mesh, one material, one animation.

glTF stores vertex colours in linear light (specification 3.7.2.1, COLOR_0), while the colours of threedgen are
display-referred sRGB, as in pictures: `write_glb` converts them to linear light and `read_glb` back. Base colour
textures of glTF are in sRGB, so textures pass unchanged, as PNG or WebP. Axes need no change: both have +Y up
and the front on +Z.

An animation is one morph target for each frame after the first, and weights of which at most two are not 0, so that
vertices move along straight lines between frames (docs/methods.md, "Files of motions").
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from threedgen.core.atomic import store
from threedgen.core.errors import UserError
from threedgen.core.material import Material
from threedgen.core.pictures import linear_from_srgb, srgb_from_linear
from threedgen.core.types import TriMesh
from threedgen.export.packing import Packing
from threedgen.export.textures import encoded
from threedgen.representations.mesh_checks import check_mesh

if TYPE_CHECKING:
    from threedgen.export.animation import Animation

_MAGIC, _JSON, _BIN = 0x46546C67, 0x4E4F534A, 0x004E4942
_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125
_VERTEX_BUFFER, _INDEX_BUFFER = 34962, 34963
_TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}
# Linear filters with mipmaps; the border is repeated, as the renderers of threedgen do.
_SAMPLER = {"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}
_DRACO, _WEBP = "KHR_draco_mesh_compression", "EXT_texture_webp"
_UNLIT = "KHR_materials_unlit"
_PLAIN = Packing()
_DTYPES = {_FLOAT: "<f4", _UINT32: "<u4"}


def write_glb(
    path: str | Path,
    mesh: TriMesh,
    extras: Mapping[str, Any] | None = None,
    animation: Animation | None = None,
    packing: Packing = _PLAIN,
) -> Path:
    """Writes a mesh with its normals, colours, uvs and texture, as far as it has them, into one file.

    A path that ends in .gltf gets the JSON document with the binary data in it, any other one the binary container.
    extras: JSON values for `asset.extras`. animation: the motion of its vertices; the mesh is the first frame.
    packing: what is compressed, and how; the triangles of a mesh that moves cannot be.
    vertex_colors are display-referred sRGB and stored in linear light; beside a texture they are left out, because
    viewers would multiply the two. The material is that of the mesh, or a rough dielectric, with base colour 1. One
    that is not to be lit has KHR_materials_unlit; viewers that do not know it light it. Raises UserError for a mesh
    that no file can hold (`check_mesh`), and if the place cannot be written.
    """
    path = Path(path)
    check_mesh(mesh, f"cannot write {path}")
    packing.check(path)
    if packing.draco and animation is not None:
        raise UserError(
            f"cannot write {path}: Draco is for what stands still, and this asset moves; leave it out"
        )
    buffer = Buffer()
    primitive = _compressed(buffer, mesh) if packing.draco else _primitive(buffer, mesh)
    material = _material(mesh.material or Material("lit"))
    surface = material["pbrMetallicRoughness"]
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "threedgen"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "asset"}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [material],
    }
    if extras:
        document["asset"]["extras"] = dict(extras)
    if animation is not None:
        targets = primitive["targets"] = _targets(buffer, mesh, animation)
        document["meshes"][0]["weights"] = [0.0] * len(targets)
        document["animations"] = [_weights(buffer, animation)]
    if mesh.texture is not None:
        picture = buffer.add_bytes(encoded(mesh.texture, packing.texture))
        document["images"] = [{"bufferView": picture, "mimeType": f"image/{packing.texture}"}]
        document["samplers"] = [_SAMPLER]
        webp = packing.texture == "webp"
        source = {"extensions": {_WEBP: {"source": 0}}} if webp else {"source": 0}
        document["textures"] = [{"sampler": 0, **source}]
        surface["baseColorTexture"] = {"index": 0}
    used = [_DRACO] * packing.draco + [_WEBP] * (mesh.texture is not None and packing.texture == "webp")
    if used:  # without a fallback, so that the file does not hold everything twice
        document["extensionsRequired"] = used
    if used := [*used, *material.get("extensions", ())]:
        document["extensionsUsed"] = used
    document |= {"accessors": buffer.accessors, "bufferViews": buffer.views}
    document["buffers"] = [{"byteLength": len(buffer.data)}]
    content = _text if path.suffix.lower() == ".gltf" else container
    store(path, content(document, bytes(buffer.data)))
    return path


def _material(of: Material) -> dict[str, Any]:
    surface = {"baseColorFactor": [1.0] * 4, "metallicFactor": of.metallic, "roughnessFactor": of.roughness}
    material: dict[str, Any] = {"name": "surface", "pbrMetallicRoughness": surface}
    if of.colors == "unlit":
        material["extensions"] = {_UNLIT: {}}
    if of.light is not None:
        material["extras"] = {"light": asdict(of.light)}  # in which it looks like what it was made of
    return material


def _attributes(mesh: TriMesh) -> dict[str, np.ndarray]:
    """What each vertex has, under the names of glTF."""
    attributes = {"POSITION": _array(mesh.vertices)}
    if mesh.normals is not None:
        attributes["NORMAL"] = _array(mesh.normals)
    if mesh.vertex_colors is not None and mesh.texture is None:
        attributes["COLOR_0"] = linear_from_srgb(_array(mesh.vertex_colors)).astype(np.float32)
    if mesh.uvs is not None:
        attributes["TEXCOORD_0"] = _array(mesh.uvs)
    return attributes


def _primitive(buffer: Buffer, mesh: TriMesh) -> dict[str, Any]:
    attributes = {
        name: buffer.add(array, _VERTEX_BUFFER, bounds=name == "POSITION")
        for name, array in _attributes(mesh).items()
    }
    indices = buffer.add(mesh.faces.cpu().numpy().reshape(-1, 1).astype("<u4"), _INDEX_BUFFER)
    return {"attributes": attributes, "indices": indices, "material": 0}


def _compressed(buffer: Buffer, mesh: TriMesh) -> dict[str, Any]:
    """The same with its arrays in one block, of which the accessors only say what it holds."""
    from threedgen.export.draco import compressed

    packed = compressed(mesh.faces.cpu().numpy(), _attributes(mesh))
    attributes = {
        name: buffer.describe(array, _FLOAT, bounds=name == "POSITION")
        for name, array in packed.arrays.items()
        if name != "COLOR_0"
    }
    if "COLOR_0" in packed.arrays:
        attributes["COLOR_0"] = buffer.describe(packed.arrays["COLOR_0"], _UINT16, normalized=True)
    indices = buffer.describe(packed.faces.reshape(-1, 1), _UINT32)
    block = {"bufferView": buffer.add_bytes(packed.content), "attributes": packed.identifiers}
    return {
        "attributes": attributes,
        "indices": indices,
        "material": 0,
        "extensions": {_DRACO: block},
    }


def _text(document: dict[str, Any], data: bytes) -> bytes:
    """A JSON document that holds the binary data, so that nothing has to lie beside the file."""
    document["buffers"][0]["uri"] = f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"
    return json.dumps(document, indent=1, allow_nan=False).encode()


def container(document: dict[str, Any], data: bytes) -> bytes:
    """A GLB of two chunks: the JSON document and the binary data."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(data)
    return (
        struct.pack("<III", _MAGIC, 2, total)
        + struct.pack("<II", len(text), _JSON)
        + text
        + struct.pack("<II", len(data), _BIN)
        + data
    )


def read_glb(path: str | Path) -> tuple[TriMesh, dict[str, Any]]:
    """The first primitive of a GLB that `write_glb` wrote, and the extras of the asset.

    Colours become display-referred. Raises UserError for a file that is no GLB or has another layout, and for a
    mesh that `write_glb` would refuse.
    """
    path = Path(path)
    document, data = _opened(path)
    try:
        mesh = _first_mesh(document, data)
    except (ValueError, LookupError) as error:
        raise UserError(f"cannot read {path} as a mesh: {error}") from error
    check_mesh(mesh, f"cannot read {path}")
    return mesh, document["asset"].get("extras", {})


def light_in(path: Path) -> Any:
    """The light in which the albedo of a GLB looks like what the mesh was made of, as the file says; None if it
    says none. Raises UserError for a file that is no GLB."""
    document, _ = _opened(path)
    try:
        return document["materials"][0]["extras"]["light"]
    except (LookupError, TypeError):
        return None


def _opened(path: Path) -> tuple[dict[str, Any], memoryview]:
    try:
        return _chunks(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"cannot read {path} as a mesh: {error}") from error


def _chunks(raw: bytes) -> tuple[dict[str, Any], memoryview]:
    """The JSON document and the binary data of a GLB. Raises ValueError for anything else."""
    if len(raw) < 20:
        raise ValueError("no glTF 2.0 binary, or cut short")
    magic, version, total, length, _ = struct.unpack_from("<IIIII", raw)
    if magic != _MAGIC or version != 2 or total > len(raw):
        raise ValueError("no glTF 2.0 binary, or cut short")
    document = json.loads(raw[20 : 20 + length])
    if not isinstance(document, dict):
        raise ValueError("its JSON chunk is no object")
    return document, memoryview(raw)[20 + length + 8 : total]


def _first_mesh(document: dict[str, Any], data: memoryview) -> TriMesh:
    """Raises ValueError or LookupError for a document that has another layout than those of `write_glb`."""
    if needed := document.get("extensionsRequired"):
        raise ValueError(f"it needs {', '.join(map(str, needed))}, which is not read here")
    primitive = document["meshes"][0]["primitives"][0]
    arrays = {name: _read(document, data, index) for name, index in primitive["attributes"].items()}
    faces = _read(document, data, primitive["indices"]).reshape(-1, 3).astype(np.int64)
    colors = arrays.get("COLOR_0")
    return TriMesh(
        vertices=torch.from_numpy(arrays["POSITION"].astype(np.float32)),
        faces=torch.from_numpy(faces),
        vertex_colors=_tensor(None if colors is None else srgb_from_linear(colors[:, :3])),
        normals=_tensor(arrays.get("NORMAL")),
        uvs=_tensor(arrays.get("TEXCOORD_0")),
        texture=_tensor(_read_texture(document, data)),
    )


def _tensor(array: np.ndarray | None) -> torch.Tensor | None:
    return None if array is None else torch.from_numpy(array.astype(np.float32))


def _targets(buffer: Buffer, mesh: TriMesh, animation: Animation) -> list[dict[str, int]]:
    """A morph target for each frame after the first: its positions and normals minus those of the mesh."""
    targets = []
    for vertices, normals in zip(animation.vertices[1:], animation.normals[1:], strict=True):
        away = _array(vertices - mesh.vertices.cpu())
        target = {"POSITION": buffer.add(away, _VERTEX_BUFFER, bounds=True)}
        if mesh.normals is not None:
            target["NORMAL"] = buffer.add(_array(normals - mesh.normals.cpu()), _VERTEX_BUFFER)
        targets.append(target)
    return targets


def _weights(buffer: Buffer, animation: Animation) -> dict[str, Any]:
    """The animation of the weights: frame k is target k - 1 alone, and frame 0 has no target."""
    count = len(animation.times)
    rows = np.eye(count, count - 1, -1, dtype="<f4").reshape(-1, 1)
    times = buffer.add(_array(animation.times).reshape(-1, 1), bounds=True)
    sampler = {"input": times, "output": buffer.add(rows), "interpolation": "LINEAR"}
    channel = {"sampler": 0, "target": {"node": 0, "path": "weights"}}
    extras = {"loop": animation.loop}  # glTF itself leaves loops to the player
    return {"name": "motion", "samplers": [sampler], "channels": [channel], "extras": extras}


class Buffer:
    """Collects the binary chunk with its views and accessors; every view starts at a multiple of 4 bytes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add_bytes(self, content: bytes, target: int | None = None) -> int:
        """Returns the number of the new view. target: what the view is for, of glTF's constants."""
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)}
        if target is not None:
            view["target"] = target
        self.data += content + b"\0" * (-len(content) % 4)
        self.views.append(view)
        return len(self.views) - 1

    def add(self, array: np.ndarray, target: int | None = None, bounds: bool = False) -> int:
        """Returns the number of the new accessor. array: [N, 1 to 4]. bounds: whether it states its smallest and
        largest values."""
        view = self.add_bytes(np.ascontiguousarray(array).tobytes(), target)
        kind = _UINT32 if array.dtype == np.uint32 else _FLOAT
        return self.describe(array, kind, bounds, bufferView=view)

    def describe(self, array: np.ndarray, kind: int, bounds: bool = False, **where: Any) -> int:
        """The same for an array that is stored elsewhere. kind: the type of its numbers. where: fields that say how
        it is stored."""
        accessor = {**where, "componentType": kind, "count": len(array), "type": _TYPES[array.shape[1]]}
        if bounds:
            accessor |= {"min": array.min(axis=0).tolist(), "max": array.max(axis=0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype("<f4")


def _read(document: dict[str, Any], data: memoryview, index: int) -> np.ndarray:
    accessor = document["accessors"][index]
    view = document["bufferViews"][accessor["bufferView"]]
    width = {name: count for count, name in _TYPES.items()}[accessor["type"]]
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    flat = np.frombuffer(data, _DTYPES[accessor["componentType"]], accessor["count"] * width, start)
    return flat.reshape(-1, width)


def _read_texture(document: dict[str, Any], data: memoryview) -> np.ndarray | None:
    if not document.get("images"):
        return None
    import imageio.v3 as iio

    view = document["bufferViews"][document["images"][0]["bufferView"]]
    start = view.get("byteOffset", 0)
    try:
        pixels = iio.imread(bytes(data[start : start + view["byteLength"]]), extension=".png")
    except OSError as error:
        raise ValueError(f"its texture is no PNG ({error})") from error
    return pixels[..., :3] / 255.0
