"""Compact files of Gaussians: `.splat` (antimatter15), `.spz` (Niantic, versions 1 to 4), `.sog` (PlayCanvas).

What they hold is described where they are written: `threedgen.export.splat_records`, `splat_spz` and `splat_sog`.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError
from threedgen.core.spherical_harmonics import DC
from threedgen.datasets.decoding import decoding, reason
from threedgen.datasets.splat_stored import SIGNATURE, Stored, logits, logs, whole_quats

_RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])
_MAGIC = b"NGSP"
_GZIP = b"\x1f\x8b"
_MOST = 1 << 26  # Gaussians; their count is read before the memory for them is taken
_LARGEST = 1 << 30  # bytes of a file in an archive
# The degree that a palette of 64 entries a row has in the first version of .sog, by the width of its picture.
_COEFFICIENTS = {192: 3, 512: 8, 960: 15}


def read_records(path: Path, data: bytes) -> Stored:
    """The Gaussians of a .splat file. Raises UserError unless it consists of whole records."""
    if not data or len(data) % _RECORD.itemsize:
        raise UserError(
            f"{path} is no .splat file, or cut short: it must be a multiple of {_RECORD.itemsize} bytes"
        )
    records = np.frombuffer(data, _RECORD)
    rgba = records["rgba"] / 255.0
    return Stored(
        means=records["mean"],
        quats=records["quat"] / 128.0 - 1.0,
        log_scales=logs(records["scale"]),
        opacity_logits=logits(rgba[:, 3]),
        sh=((rgba[:, :3] - 0.5) / DC)[:, None],
        up="-y",
    )


def is_spz(data: bytes) -> bool:
    """Whether a file that begins with `data` may be a .spz file."""
    return data.startswith((_GZIP, _MAGIC))


def read_spz(path: Path, data: bytes) -> Stored:
    """The Gaussians of a .spz file. Raises UserError if it is damaged or of an unknown version, and for version 4
    without the package zstandard."""
    try:
        version, count, degree, bits, content = _unpacked(data)
    except (ValueError, struct.error, zlib.error) as error:
        raise UserError(f"{path} is no .spz file, or damaged: {reason(error)}") from error
    higher = (degree + 1) ** 2 - 1
    widths = _widths(version, higher)
    sections, place = [], 0
    for width in widths:
        section = np.frombuffer(content, np.uint8, count * width, place)
        sections.append(section.reshape(count, width))
        place += count * width
    color = (sections[2] / 255.0 - 0.5) / 0.15
    rest = (sections[5].astype(np.float32) - 128.0) / 128.0
    return Stored(
        means=_positions(sections[0], version, bits),
        quats=_rotations(sections[4]),
        log_scales=sections[3] / 16.0 - 10.0,
        opacity_logits=logits(sections[1][:, 0] / 255.0),
        sh=np.concatenate([color[:, None], rest.reshape(count, higher, 3)], axis=1),
        up="y",
    )


def _widths(version: int, higher: int) -> tuple[int, ...]:
    """Bytes of a Gaussian in each section: position, opacity, colour, scale, rotation, further coefficients."""
    return (6 if version == 1 else 9, 1, 3, 3, 3 if version < 3 else 4, 3 * higher)


def _unpacked(data: bytes) -> tuple[int, int, int, int, bytes]:
    """Version, count, degree, bits of the fraction, and the sections one after the other. Raises ValueError."""
    stream = zlib.decompressobj(wbits=31) if data.startswith(_GZIP) else None
    start = data[:16] if stream is None else stream.decompress(data, 16)
    magic, version, count, degree, bits = struct.unpack_from("<4sIIBB", start)
    if magic != _MAGIC or version not in (1, 2, 3, 4) or (version == 4) != (stream is None):
        raise ValueError("it is of no version that is known (1 to 4)")
    if not 0 < count <= _MOST or degree > 4 or bits > 24:
        raise ValueError(f"its header announces {count} Gaussians of degree {degree}")
    sizes = [count * width for width in _widths(version, (degree + 1) ** 2 - 1)]
    if stream is None:
        content = _streams(data, [size for size in sizes if size])
    else:
        content = stream.decompress(stream.unconsumed_tail, sum(sizes))
    if len(content) < sum(sizes):
        raise ValueError(f"its header announces {count} Gaussians, but it holds fewer")
    return version, count, degree, bits, content


def _streams(data: bytes, sizes: list[int]) -> bytes:
    try:
        zstandard = import_module("zstandard")  # which type checkers do not find where it is not installed
    except ImportError as error:
        raise UserError('version 4 of .spz needs zstandard: pip install "threedgen[spz]"') from error
    count, start = struct.unpack_from("<BI", data, 15)
    table = [struct.unpack_from("<QQ", data, start + 16 * number) for number in range(count)]
    if [full for _, full in table] != sizes:
        raise ValueError("its sections do not have the sizes that its header announces")
    place, parts = start + 16 * count, []
    for packed, full in table:
        try:
            part = zstandard.ZstdDecompressor().decompress(data[place : place + packed], full)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
        if len(part) != full:
            raise ValueError("a section is shorter than it says")
        parts.append(part)
        place += packed
    return b"".join(parts)


def _positions(section: np.ndarray, version: int, bits: int) -> np.ndarray:
    if version == 1:
        return section.copy().view("<f2").astype(np.float32)
    three = section.reshape(-1, 3, 3).astype(np.int32)
    fixed = three[..., 0] | three[..., 1] << 8 | three[..., 2] << 16
    return np.where(fixed >= 1 << 23, fixed - (1 << 24), fixed) / 2.0**bits


def _rotations(section: np.ndarray) -> np.ndarray:
    """[N, 4], (w, x, y, z): of bytes of x, y and z, or of the three smallest components in one word."""
    if section.shape[1] == 3:
        largest, others = np.full(len(section), 3), section / 127.5 - 1.0
    else:
        word = section.copy().view("<u4")[:, 0]
        fields = np.stack([word >> 20 & 1023, word >> 10 & 1023, word & 1023], axis=1).astype(np.int64)
        largest = (word >> 30).astype(np.int64)
        others = np.where(fields & 512, -1.0, 1.0) * (fields & 511) / 511.0 * math.sqrt(0.5)
    return np.roll(whole_quats(largest, others), 1, axis=1)


def read_sog(path: Path, data: bytes) -> Stored:
    """The Gaussians of a .sog archive, or of a meta.json beside its pictures (versions 1 and 2). data: the content
    of `path`. Raises UserError if something of it is missing or damaged."""
    try:
        if data.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                return _sog(path, _member(archive))
        return _sog(path, _beside(path))
    except (
        KeyError,
        ValueError,
        TypeError,
        IndexError,
        AttributeError,
        OSError,
        zipfile.BadZipFile,
    ) as error:
        said = f"{error.args[0]} is missing" if isinstance(error, KeyError) else reason(error)
        raise UserError(f"{path} is no .sog file, or damaged: {said}") from error


def _member(archive: zipfile.ZipFile) -> Callable[[str], bytes]:
    # The files may lie in a folder of the archive.
    folder = next(
        (name[: -len("meta.json")] for name in archive.namelist() if name.endswith("meta.json")), ""
    )

    def read(name: str) -> bytes:
        if archive.getinfo(folder + name).file_size > _LARGEST:
            raise ValueError(f"'{name}' is too large")
        return archive.read(folder + name)

    return read


def _beside(path: Path) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        if len(PurePosixPath(name).parts) != 1:
            raise ValueError(f"'{name}' is not in its folder")
        return (path.parent / name).read_bytes()

    return read


def _sog(path: Path, read: Callable[[str], bytes]) -> Stored:
    meta = parse_json(read("meta.json"))
    version = meta.get("version", 1)
    if version not in (1, 2):
        raise ValueError(f"its version is {version}, and 1 and 2 are known")
    count = meta["count"] if version == 2 else meta["means"]["shape"][0]
    if not isinstance(count, int) or not 0 < count <= _MOST:
        raise ValueError(f"it announces {count} Gaussians")

    def pixels(part: str, number: int = 0) -> np.ndarray:
        found = _picture(path, read(meta[part]["files"][number])).reshape(-1, 4)[:count].astype(np.int64)
        if len(found) < count:
            raise ValueError(f"the picture of '{part}' holds fewer than {count} Gaussians")
        return found

    low, high = _bounds(meta["means"])
    fine = pixels("means")[:, :3] | pixels("means", 1)[:, :3] << 8
    magnitude = low + (high - low) * fine / 65535.0
    quats, color = pixels("quats"), pixels("sh0")
    opacity = logits(color[:, 3] / 255.0) if version == 2 else _values(meta["sh0"], color)[:, 3]
    sh = _values(meta["sh0"], color)[:, None, :3]
    if "shN" in meta:
        labels = pixels("shN", 1)
        palette = _picture(path, read(meta["shN"]["files"][0]))
        higher = _COEFFICIENTS[palette.shape[1]] if version == 1 else (int(meta["shN"]["bands"]) + 1) ** 2 - 1
        entries = palette[..., :3].reshape(-1, higher, 3)[labels[:, 0] | labels[:, 1] << 8]
        sh = np.concatenate([sh, _values(meta["shN"], entries.astype(np.int64))], axis=1)
    largest = (quats[:, 3] - 252).clip(0, 3)
    others = (quats[:, :3] / 255.0 - 0.5) * math.sqrt(2.0)
    asset = meta.get("asset", {})
    up = asset.get("up", "-y")
    return Stored(
        means=np.sign(magnitude) * np.expm1(np.abs(magnitude)),
        quats=whole_quats(largest, others),
        log_scales=_values(meta["scales"], pixels("scales")[:, :3]),
        opacity_logits=opacity,
        sh=sh,
        up=up if up in ("y", "-y", "z", "-z") else "-y",
        ours=asset.get("generator") == SIGNATURE,
    )


def _bounds(part: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(part["mins"], np.float64), np.asarray(part["maxs"], np.float64)


def _values(part: Any, numbers: np.ndarray) -> np.ndarray:
    """The values of numbers in [0, 255]: those of a table, or in the first version between two bounds."""
    if "codebook" in part:
        return np.asarray(part["codebook"], np.float64)[numbers]
    low, high = _bounds(part)
    return low + (high - low) * numbers / 255.0


def _picture(path: Path, data: bytes) -> np.ndarray:
    from PIL import Image

    with (
        decoding(path, lambda error: f"cannot read a picture of {path}: {reason(error)}"),
        Image.open(io.BytesIO(data)) as picture,
    ):
        return np.asarray(picture.convert("RGBA"))
