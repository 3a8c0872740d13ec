"""Readers of compact files of Gaussians, written from the descriptions of the formats."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pygltflib import GLTF2

from threedgen.datasets.splat_files import SplatParameters

_DC = 0.28209479177387814
_ORDER = {0: (1, 2, 3), 1: (0, 2, 3), 2: (0, 1, 3), 3: (0, 1, 2)}


def decode(path: Path) -> SplatParameters:
    """The Gaussians in the axes of the file, in its order."""
    readers = {
        ".splat": _records,
        ".spz": _spz,
        ".ply": _compressed,
        ".sog": _sog,
        ".glb": _gltf,
        ".usda": _usd,
    }
    readers[".usdz"] = _usd
    values = readers[path.suffix](path)
    return SplatParameters(*(torch.from_numpy(np.array(value, np.float32)) for value in values))


def _logits(opacities: np.ndarray) -> np.ndarray:
    clipped = opacities.clip(1e-6, 1.0 - 1e-6)
    return np.log(clipped / (1.0 - clipped))


def _quats(largest: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[N, 4] from the number of the component that is left out, and the other three."""
    quats = np.zeros((len(largest), 4))
    for row, (left_out, three) in enumerate(zip(largest, others, strict=True)):
        quats[row, list(_ORDER[int(left_out)])] = three
        quats[row, int(left_out)] = np.sqrt(max(0.0, 1.0 - (three**2).sum()))
    return quats


def _records(path: Path) -> tuple[np.ndarray, ...]:
    raw = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 32)
    floats = raw[:, :24].copy().view("<f4")
    rgba = raw[:, 24:28] / 255.0
    sh = ((rgba[:, :3] - 0.5) / _DC)[:, None]
    return floats[:, :3], raw[:, 28:] / 128.0 - 1.0, np.log(floats[:, 3:]), _logits(rgba[:, 3]), sh


def _spz(path: Path) -> tuple[np.ndarray, ...]:
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        content = gzip.decompress(data)
        magic, version, count, degree, bits = struct.unpack_from("<IIIBB", content)
        assert (magic, version) == (0x5053474E, 3)
        content = content[16:]
    else:
        zstandard = import_module("zstandard")
        magic, version, count, degree, bits, _, streams, start = struct.unpack_from("<IIIBBBBI", data)
        assert (magic, version) == (0x5053474E, 4)
        sizes = np.frombuffer(data, "<u8", 2 * streams, start).reshape(-1, 2)
        place, content = start + 16 * streams, b""
        for packed, full in sizes.tolist():
            content += zstandard.ZstdDecompressor().decompress(data[place : place + packed], full)
            place += packed
    higher = (degree + 1) ** 2 - 1
    widths = [9, 1, 3, 3, 4, 3 * higher]
    assert len(content) == count * sum(widths)
    sections, place = [], 0
    for width in widths:
        sections.append(np.frombuffer(content, np.uint8, count * width, place).reshape(count, width))
        place += count * width
    three = sections[0].reshape(count, 3, 3).astype(np.int64)
    fixed = three[..., 0] | three[..., 1] << 8 | three[..., 2] << 16
    word = sections[4].copy().view("<u4")[:, 0]
    fields = np.stack([word >> 20 & 1023, word >> 10 & 1023, word & 1023], axis=1).astype(np.int64)
    others = np.where(fields & 512, -1.0, 1.0) * (fields & 511) / 511.0 * np.sqrt(0.5)
    quats = _quats(word >> 30, others)[:, [3, 0, 1, 2]]
    color = (sections[2] / 255.0 - 0.5) / 0.15
    rest = (sections[5].astype(np.float64) - 128.0) / 128.0
    sh = np.concatenate([color[:, None], rest.reshape(count, higher, 3)], axis=1)
    means = np.where(fixed >= 1 << 23, fixed - (1 << 24), fixed) / 2.0**bits
    return means, quats, sections[3] / 16.0 - 10.0, _logits(sections[1][:, 0] / 255.0), sh


def _compressed(path: Path) -> tuple[np.ndarray, ...]:
    header, body = path.read_bytes().split(b"end_header\n", 1)
    lines = header.decode().split("\n")
    elements = {line.split()[1]: int(line.split()[2]) for line in lines if line.startswith("element")}
    assert [line for line in lines if line.startswith("property float")][:7] == [
        f"property float {name}"
        for name in ("min_x", "min_y", "min_z", "max_x", "max_y", "max_z", "min_scale_x")
    ]
    chunks, count = elements["chunk"], elements["vertex"]
    bounds = np.frombuffer(body, "<f4", 18 * chunks).reshape(chunks, 3, 2, 3).astype(np.float64)
    words = np.frombuffer(body, "<u4", 4 * count, 72 * chunks).reshape(count, 4)
    own = bounds[np.arange(count) // 256]

    def spread(group: int, shares: np.ndarray) -> np.ndarray:
        return own[:, group, 0] + shares * (own[:, group, 1] - own[:, group, 0])

    def three(word: np.ndarray) -> np.ndarray:
        return np.stack([(word >> 21) / 2047.0, (word >> 11 & 1023) / 1023.0, (word & 2047) / 2047.0], axis=1)

    rotation = words[:, 1]
    tens = np.stack([rotation >> 20 & 1023, rotation >> 10 & 1023, rotation & 1023], axis=1) / 1023.0
    color = words[:, 3:].copy().view(np.uint8).reshape(count, 4)[:, ::-1] / 255.0
    sh = ((spread(2, color[:, :3]) - 0.5) / _DC)[:, None]
    if "sh" in elements:
        small = np.frombuffer(body, np.uint8, offset=72 * chunks + 16 * count).reshape(count, 3, -1)
        sh = np.concatenate([sh, ((small + 0.5) / 256.0 - 0.5).transpose(0, 2, 1) * 8.0], axis=1)
    quats = _quats(rotation >> 30, (tens - 0.5) * np.sqrt(2.0))
    return spread(0, three(words[:, 0])), quats, spread(1, three(words[:, 2])), _logits(color[:, 3]), sh


def _sog(path: Path) -> tuple[np.ndarray, ...]:
    with zipfile.ZipFile(path) as archive:
        meta = json.loads(archive.read("meta.json"))
        images = {
            name: np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGBA"))
            for name in archive.namelist()
            if name.endswith(".webp")
        }
    assert meta["version"] == 2
    count = meta["count"]

    def pixels(name: str) -> np.ndarray:
        return images[name].reshape(-1, 4)[:count].astype(np.int64)

    low, high = (np.array(meta["means"][end]) for end in ("mins", "maxs"))
    sixteen = pixels("means_l.webp")[:, :3] | pixels("means_u.webp")[:, :3] << 8
    logs = low + (high - low) * sixteen / 65535.0
    quats = pixels("quats.webp")
    color = pixels("sh0.webp")
    sh = np.array(meta["sh0"]["codebook"])[color[:, :3]][:, None]
    if "shN" in meta:
        higher = (meta["shN"]["bands"] + 1) ** 2 - 1
        labels = pixels("shN_labels.webp")
        entries = images["shN_centroids.webp"][..., :3].reshape(-1, higher, 3)
        own = entries[labels[:, 0] | labels[:, 1] << 8]
        sh = np.concatenate([sh, np.array(meta["shN"]["codebook"])[own]], axis=1)
    return (
        np.sign(logs) * np.expm1(np.abs(logs)),
        _quats(quats[:, 3] - 252, (quats[:, :3] / 255.0 - 0.5) * np.sqrt(2.0)),
        np.array(meta["scales"]["codebook"])[pixels("scales.webp")[:, :3]],
        _logits(color[:, 3] / 255.0),
        sh,
    )


def _gltf(path: Path) -> tuple[np.ndarray, ...]:
    document = GLTF2().load_binary(str(path))
    assert document is not None
    blob = document.binary_blob()
    assert blob is not None
    (primitive,) = document.meshes[0].primitives
    assert primitive.mode == 0
    assert primitive.extensions == {
        "KHR_gaussian_splatting": {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    }
    attributes = vars(primitive.attributes)

    def read(name: str) -> np.ndarray:
        accessor = document.accessors[attributes[name]]
        view = document.bufferViews[accessor.bufferView]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor.type]
        data = np.frombuffer(blob, "<f4", accessor.count * width, view.byteOffset)
        return data.reshape(accessor.count, width)

    def own(name: str) -> np.ndarray:
        return read(f"KHR_gaussian_splatting:{name}")

    names = sorted(name.partition(":")[2] for name in attributes if "SH_DEGREE" in name)
    sh = np.stack([own(name) for name in names], axis=1)
    rgba = read("COLOR_0")
    srgb = np.clip(0.5 + _DC * sh[:, 0], 0.0, 1.0)
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    np.testing.assert_allclose(rgba, np.concatenate([linear, own("OPACITY")], axis=1), atol=1e-6)
    quats = own("ROTATION")[:, [3, 0, 1, 2]]
    return read("POSITION"), quats, np.log(own("SCALE")), _logits(own("OPACITY")[:, 0]), sh


def _usd(path: Path) -> tuple[np.ndarray, ...]:
    Usd, UsdVol = import_module("pxr.Usd"), import_module("pxr.UsdVol")
    stage = Usd.Stage.Open(str(path))
    (prim,) = (prim for prim in stage.Traverse() if prim.IsA(UsdVol.ParticleField))
    field = UsdVol.ParticleField3DGaussianSplat(prim)
    count = (field.GetRadianceSphericalHarmonicsDegreeAttr().Get() + 1) ** 2
    means = np.array(field.GetPositionsAttr().Get())
    sh = np.array(field.GetRadianceSphericalHarmonicsCoefficientsAttr().Get()).reshape(len(means), count, 3)
    quats = np.array([[q.GetReal(), *q.GetImaginary()] for q in field.GetOrientationsAttr().Get()])
    low, high = np.array(field.GetExtentAttr().Get())
    assert bool((low <= means.min(axis=0)).all())
    assert bool((high >= means.max(axis=0)).all())
    scales, opacities = (np.array(one.Get()) for one in (field.GetScalesAttr(), field.GetOpacitiesAttr()))
    return means, quats, np.log(scales), _logits(opacities), sh
