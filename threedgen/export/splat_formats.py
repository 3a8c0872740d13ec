"""The exporters of 3D Gaussians: which way is up in each format, and what writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from threedgen.datasets.splat_files import SplatParameters
from threedgen.export import (
    splat,
    splat_compressed,
    splat_gltf,
    splat_records,
    splat_sog,
    splat_spz,
    splat_usd,
)
from threedgen.export.formats import lines_of
from threedgen.export.splat import UP
from threedgen.export.splat_exporter import SplatExporter


class SplatPly(SplatExporter):
    """The layout of 3D Gaussian Splatting. The note is in comments."""

    up = UP

    def content(self, splats: SplatParameters, up: str, note: Mapping[str, Any], spz_version: int) -> bytes:
        return splat.encode(splats, lines_of(note), up)


class CompressedPly(SplatExporter):
    """PlayCanvas' compact PLY. The note is in comments."""

    up = UP

    def content(self, splats: SplatParameters, up: str, note: Mapping[str, Any], spz_version: int) -> bytes:
        return splat_compressed.encode(splats, lines_of(note), up)


class SplatRecords(SplatExporter):
    """antimatter15's .splat, which has no place for a note."""

    up = UP

    def content(self, splats: SplatParameters, up: str, note: Mapping[str, Any], spz_version: int) -> bytes:
        return splat_records.encode(splats)


class Sog(SplatExporter):
    """PlayCanvas' .sog. The note is in `asset` of its meta.json."""

    up = UP

    def content(self, splats: SplatParameters, up: str, note: Mapping[str, Any], spz_version: int) -> bytes:
        return splat_sog.encode(splats, note, up)


class Spz(SplatExporter):
    """Niantic's .spz, which has no place for a note."""

    up = "y"

    def content(self, splats: SplatParameters, up: str, note: Mapping[str, Any], spz_version: int) -> bytes:
        return splat_spz.encode(splats, spz_version)


class SplatGlb(SplatExporter):
    """glTF with KHR_gaussian_splatting. The note is in `asset.extras`."""

    up = "y"

    def content(self, splats: SplatParameters, up: str, note: Mapping[str, Any], spz_version: int) -> bytes:
        return splat_gltf.encode(splats, note)


class SplatUsda(SplatExporter):
    """USD as text. The note is in customLayerData."""

    up = "y"
    suffix: ClassVar[str] = ".usda"

    def content(self, splats: SplatParameters, up: str, note: Mapping[str, Any], spz_version: int) -> bytes:
        return splat_usd.encode(splats, self.suffix, up, note)


class SplatUsdz(SplatUsda):
    """USD as a package of one binary layer."""

    suffix: ClassVar[str] = ".usdz"
