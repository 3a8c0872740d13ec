"""How a GLB is made smaller: its texture as WebP, its geometry with Draco. Nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from threedgen.core.errors import UserError

TextureKind = Literal["png", "webp"]
TEXTURE_KINDS: tuple[TextureKind, ...] = get_args(TextureKind)


@dataclass(frozen=True)
class Packing:
    """What is compressed in a GLB. Not every program reads a file that differs from the defaults.

    texture: the format of the texture; PNG loses nothing. draco: whether Draco compresses the triangles, which
    rounds positions to 1/16383 of the largest side of the asset.
    """

    texture: TextureKind = "png"
    draco: bool = False

    def __post_init__(self) -> None:
        if self.texture not in TEXTURE_KINDS:
            raise UserError(f"unknown format of textures '{self.texture}': use {' or '.join(TEXTURE_KINDS)}")

    def check(self, path: Path) -> None:
        """Raises UserError if `path` has no such format, or if the library is missing."""
        name = path.name.lower()
        holds_mesh = name.endswith((".glb", ".gltf")) and not name.endswith(".splats.glb")
        if self != Packing() and not holds_mesh:
            raise UserError(
                f"cannot write {path}: WebP textures and Draco are for .glb and .gltf that hold a mesh; choose one "
                "of them, or leave the options out"
            )
        if self.draco and find_spec("DracoPy") is None:
            raise UserError(f'cannot write {path}: Draco needs DracoPy, pip install "threedgen[draco]"')
