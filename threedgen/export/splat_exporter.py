"""What the exporters of 3D Gaussians have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from threedgen.core.atomic import store
from threedgen.core.errors import UserError
from threedgen.core.types import GaussianCloud, Primitive
from threedgen.datasets.splat_files import TURNS, SplatParameters
from threedgen.export.splat import check_splats
from threedgen.export.splat_settings import SplatConfig


class SplatExporter(ABC):
    """An exporter of 3D Gaussians. up: the axis of the file that points up, as readers of the format expect."""

    up: ClassVar[str]

    def write(
        self,
        primitive: Primitive,
        path: Path,
        *,
        note: Mapping[str, Any],
        splats: SplatConfig,
    ) -> None:
        """Writes `path` as a whole or not at all. Raises UserError for another primitive, for Gaussians that no
        file can hold, and if the place cannot be written."""
        if not isinstance(primitive, GaussianCloud):
            raise UserError(
                f"cannot write {path}: this format holds 3D Gaussians, this asset has none; use .glb or .obj"
            )
        up = self.up if splats.up == "auto" else splats.up
        parameters = SplatParameters.from_cloud(primitive).of_degree(splats.degree)
        check_splats(path, parameters)
        store(path, self.content(parameters.turned(TURNS[up]), up, note, splats.spz_version))

    @abstractmethod
    def content(self, splats: SplatParameters, up: str, note: Mapping[str, Any], spz_version: int) -> bytes:
        """The content of the file. splats: with the axes of the file, of which `up` points up. spz_version: of .spz
        files."""
