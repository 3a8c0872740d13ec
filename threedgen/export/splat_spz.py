"""`.spz`, Niantic's compact format: everything quantised, one section for each attribute (nianticlabs/spz).

Version 3 is one gzip stream, which most readers know (gaussian-splats-3d knows 1 and 2 only). Version 4 has a
stream of Zstandard for each section, and needs the package zstandard. Positions are fixed-point numbers of 24 bits;
scales have steps of 1/16 in the logarithm, colours of 1/38, other coefficients of 1/128 within [-1, 1]; rotations
are the three smallest components of a quaternion with 10 bits each. Axes are right, up and back, as in the world of
threedgen.
"""

from __future__ import annotations

import gzip
import math
import struct
from importlib import import_module

import numpy as np

from threedgen.core.errors import UserError
from threedgen.datasets.splat_files import SplatParameters
from threedgen.export.splat_packing import morton_order, opacities, smallest_three, to_bytes, unit_quats

_MAGIC = 0x5053474E  # NGSP
_LARGEST = (1 << 23) - 1
_MOST_BITS = 20  # of a fraction: finer than float32 is at 1
_HALF = 511  # magnitudes of a component have 9 bits


def encode(splats: SplatParameters, version: int = 3) -> bytes:
    """The content of the file, with the axes of `splats`. version: 3 or 4.

    Raises UserError for version 4 without the package zstandard.
    """
    order = morton_order(splats.means.numpy())
    count, coefficients = splats.sh.shape[:2]
    farthest = max(float(splats.means.abs().max()), 1e-6)
    bits = max(0, min(_MOST_BITS, math.floor(math.log2(_LARGEST / farthest))))
    fixed = np.floor(splats.means.double().numpy() * 2.0**bits + 0.5).clip(-_LARGEST, _LARGEST)
    sections = [
        fixed.astype("<i4").view(np.uint8).reshape(count, 3, 4)[:, :, :3],
        to_bytes(255.0 * opacities(splats))[:, None],
        to_bytes(0.15 * 255.0 * splats.sh[:, 0].double().numpy() + 127.5),
        to_bytes(16.0 * (splats.log_scales.double().numpy() + 10.0)),
        _packed(np.roll(unit_quats(splats), -1, axis=1)),
        to_bytes(128.0 * splats.sh[:, 1:].double().numpy() + 128.0),
    ]
    streams = [np.ascontiguousarray(section[order]).tobytes() for section in sections if section.size]
    degree = math.isqrt(coefficients) - 1
    start = (_MAGIC, version, count, degree, bits, 0)
    if version == 3:
        content = struct.pack("<IIIBBBB", *start, 0) + b"".join(streams)
        return gzip.compress(content, mtime=0)
    packed = _zstandard(streams)
    header = struct.pack("<IIIBBBBI12x", *start, len(streams), 32)
    table = b"".join(
        struct.pack("<QQ", len(small), len(full)) for small, full in zip(packed, streams, strict=True)
    )
    return header + table + b"".join(packed)


def _packed(quats: np.ndarray) -> np.ndarray:
    """[N, 4] bytes of unit quaternions (x, y, z, w): the number of the largest component in 2 bits, and the
    others in their order, a sign and 9 bits each."""
    largest, others = smallest_three(quats)
    magnitude = np.minimum(np.floor(np.abs(others) * math.sqrt(2.0) * _HALF + 0.5), _HALF).astype(np.uint32)
    fields = (others < 0.0).astype(np.uint32) << 9 | magnitude
    word = largest.astype(np.uint32) << 30 | fields[:, 0] << 20 | fields[:, 1] << 10 | fields[:, 2]
    return word.astype("<u4")[:, None].view(np.uint8)


def _zstandard(streams: list[bytes]) -> list[bytes]:
    try:
        zstandard = import_module("zstandard")  # which type checkers do not find where it is not installed
    except ImportError as error:
        raise UserError(
            'version 4 of .spz needs zstandard, pip install "threedgen[spz]", or write version 3'
        ) from error
    return [zstandard.ZstdCompressor(level=12).compress(stream) for stream in streams]
