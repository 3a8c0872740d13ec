"""glTF files as they are stored: the JSON document, its buffers, and the arrays of its accessors."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from threedgen.core.documents import parse_json
from threedgen.datasets.decoding import damaged

SUFFIXES = (".glb", ".gltf")
_MAGIC, _JSON, _BINARY = b"glTF", 0x4E4F534A, 0x004E4942
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_MOST = 1 << 28  # numbers of an accessor without data


class Document:
    """The document of a .glb or .gltf file.

    tree: the JSON values. find: gives the content of a file that the document names. Raises UserError if it is no
    glTF 2.0 file or is damaged.
    """

    def __init__(self, path: Path, data: bytes, find: Callable[[str], bytes]) -> None:
        self.path = path
        self.find = find
        with damaged(path):
            text, self._binary = _chunks(data)
            self.tree: dict[str, Any] = parse_json(text)
            if int(float(self.tree["asset"]["version"])) != 2:
                raise ValueError("it is of another version of glTF than 2")
        self._buffers: dict[int, bytes] = {}

    def part(self, kind: str, index: Any) -> Any:
        """An entry of a list of the document. Raises IndexError if there is none of that number."""
        entries = self.tree.get(kind, [])
        if not isinstance(index, int) or not 0 <= index < len(entries):
            raise IndexError(f"it names number {index} of its {kind}, and there are {len(entries)}")
        return entries[index]

    def uri(self, uri: str) -> bytes:
        """The content of a data URI, or of a file in the folder of the document."""
        if uri.startswith("data:"):
            try:
                return base64.b64decode(uri.partition(",")[2], validate=False)
            except binascii.Error as error:
                raise ValueError("it holds data that are no base64") from error
        return self.find(unquote(uri))

    def view(self, index: Any) -> bytes:
        """The bytes of a buffer view."""
        view = self.part("bufferViews", index)
        number = view["buffer"]
        if number not in self._buffers:
            buffer = self.part("buffers", number)
            if "uri" not in buffer and number != 0:
                raise ValueError(
                    f"buffer {number} is not stored: its data are in an extension that is not read"
                )
            self._buffers[number] = self.uri(buffer["uri"]) if "uri" in buffer else self._binary
        start, length = view.get("byteOffset", 0), view["byteLength"]
        if start < 0 or length < 0 or start + length > len(self._buffers[number]):
            raise ValueError("it is cut short: a buffer is shorter than the document says")
        return self._buffers[number][start : start + length]

    def array(self, index: Any) -> np.ndarray:
        """The values of an accessor, [count, width]: sparse ones filled in, normalised integers as numbers in
        [0, 1] or [-1, 1]."""
        accessor = self.part("accessors", index)
        dtype, width = np.dtype(_TYPES[accessor["componentType"]]), _WIDTHS[accessor["type"]]
        count = int(accessor["count"])
        if not 0 <= count * width <= _MOST:
            raise ValueError(f"it announces {count} values")
        if "bufferView" in accessor:
            stride = self.part("bufferViews", accessor["bufferView"]).get("byteStride")
            raw = self.view(accessor["bufferView"])[int(accessor.get("byteOffset", 0)) :]
            values = _strided(raw, dtype, count, width, stride)
        else:
            values = np.zeros((count, width), dtype)
        if "sparse" in accessor:
            values = self._filled(values.copy(), accessor["sparse"])
        return self.normalised(index, values)

    def normalised(self, index: Any, values: np.ndarray) -> np.ndarray:
        """The values of an accessor as it means them: integers that stand for shares become such numbers."""
        accessor = self.part("accessors", index)
        dtype = np.dtype(_TYPES[accessor["componentType"]])
        if not accessor.get("normalized") or dtype.kind == "f":
            return values
        return np.maximum(values / np.iinfo(dtype).max, -1.0)

    def _filled(self, values: np.ndarray, sparse: Any) -> np.ndarray:
        count, places, own = int(sparse["count"]), sparse["indices"], sparse["values"]
        rows = _strided(
            self.view(places["bufferView"])[int(places.get("byteOffset", 0)) :],
            np.dtype(_TYPES[places["componentType"]]),
            count,
            1,
            None,
        )[:, 0]
        raw = self.view(own["bufferView"])[int(own.get("byteOffset", 0)) :]
        values[rows] = _strided(raw, values.dtype, count, values.shape[1], None)
        return values


def node_matrix(node: Any) -> np.ndarray:
    """The transformation of a node, [4, 4], for columns. Raises ValueError if it is none."""
    if "matrix" in node:
        return np.asarray(node["matrix"], np.float64).reshape(4, 4).T
    return placed(
        node.get("translation", (0, 0, 0)), node.get("rotation", (0, 0, 0, 1)), node.get("scale", (1, 1, 1))
    )


def placed(translation: Any, rotation: Any, scale: Any) -> np.ndarray:
    """[4, 4] of a translation, a quaternion (x, y, z, w) of any length and three scales, the latter first."""
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat(np.asarray(rotation, np.float64)).as_matrix() * np.asarray(
        scale, float
    )
    matrix[:3, 3] = translation
    return matrix


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    """The JSON text and the binary chunk of a file."""
    if not data.startswith(_MAGIC):
        return data, b""
    found = {_JSON: b"", _BINARY: b""}
    place = 12
    while place + 8 <= len(data):
        length, kind = struct.unpack_from("<II", data, place)
        if place + 8 + length > len(data):
            raise ValueError("it is cut short")
        found[kind] = found.get(kind) or data[place + 8 : place + 8 + length]
        place += 8 + length
    return found[_JSON], found[_BINARY]


def _strided(raw: bytes, dtype: np.dtype, count: int, width: int, stride: int | None) -> np.ndarray:
    row = dtype.itemsize * width
    stride = row if not stride else int(stride)
    if stride < row or (count and (count - 1) * stride + row > len(raw)):
        raise ValueError("it is cut short: an accessor has more values than its buffer view holds")
    return np.ndarray((count, width), dtype, raw, strides=(stride, dtype.itemsize))
