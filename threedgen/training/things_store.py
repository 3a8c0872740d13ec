"""Rendered layers of things, a word a piece, and the folder that keeps the pieces for the next training."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.atomic import replacing
from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.types import Cameras
from threedgen.datasets.things.captions import Palette
from threedgen.datasets.things.thing_views import ObjectLook
from threedgen.training.render_bank import ELEVATION, FOV, RADIUS

FORMAT = 1  # raised when the same things are rendered differently, as by another light
_HEADER = 8 << 20  # bytes at most, of the description of a piece
_BRIGHTEST = 2.5  # times its paint: what is brighter in a texture is cut off


@dataclass(frozen=True)
class Piece:
    """Views of things of a word, or of some scenes: as many of each thing or scene, one after the other.

    layers: [V, H, W, L] bytes, see `world.render_layers`; the layers of paints are divided by their gains. cameras:
    [V, 3], azimuth and elevation in degrees, distance. gains: [S, P] of each thing or scene. looks: the own colours
    of each catalogue object; empty if there are none. captions: of each scene; empty if there are none.
    """

    layers: Int[Tensor, "V H W L"]
    cameras: Float[Tensor, "V 3"]
    gains: Float[Tensor, "S P"]
    looks: tuple[ObjectLook, ...] = ()
    captions: tuple[str, ...] = ()


def stratified_views(instances: int, views: int, seed: int, stream: str) -> Float[Tensor, "I V 3"]:
    """Azimuth and elevation in degrees and distance of the views of each instance.

    The azimuths of an instance are in equal parts of the circle, and those of all instances in equal parts of
    these; elevations are uniform in their sine, so that every direction between the bounds is equally likely.
    """
    rng = generator(seed, stream, 0)
    part = torch.stack([torch.randperm(instances, generator=rng) for _ in range(views)], dim=1)
    within = (part + torch.rand(instances, views, generator=rng)) / instances
    azimuth = 360.0 * (torch.arange(views) + within) / views
    low, high = (math.sin(math.radians(bound)) for bound in ELEVATION)
    sine = low + (high - low) * torch.rand(instances, views, generator=rng)
    distance = RADIUS[0] + (RADIUS[1] - RADIUS[0]) * torch.rand(instances, views, generator=rng)
    return torch.stack([azimuth, torch.rad2deg(torch.asin(sine)), distance], dim=2)


def cameras_of(views: Float[Tensor, "V 3"], size: int) -> Cameras:
    """The cameras of azimuths, elevations (degrees) and distances, with pictures of `size` pixels."""
    azimuth, elevation, distance = views.unbind(1)
    return orbit(azimuth, elevation, distance, FOV, size, size)


def to_bytes(
    layers: Float[Tensor, "V H W L"], paints: int = 2
) -> tuple[Int[Tensor, "V H W L"], Float[Tensor, " P"]]:
    """Layers as bytes, and the gain of each paint, which is above 1 if a texture is brighter than its paint."""
    gains = layers[..., :paints].amax((0, 1, 2)).clamp(1.0, _BRIGHTEST)
    scaled = torch.cat([layers[..., :paints] / gains, layers[..., paints:]], dim=-1)
    return (scaled.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8), gains


class PieceFolder:
    """A folder of pieces, each in a safetensors file that says of what it was made.

    settings: what all pieces are made with; a piece made with others is refused. A piece whose stamp differs,
    because the code of its class or the words of its objects changed, counts as missing.
    """

    def __init__(self, folder: str | Path | None, settings: Mapping[str, int]) -> None:
        self.folder = None if folder is None else Path(folder).expanduser()
        self.settings = {"format": FORMAT, **settings}

    def path(self, name: str) -> Path:
        """The file of a piece."""
        assert self.folder is not None
        digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
        return self.folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}-{digest}.safetensors"

    def read(self, name: str, stamp: str, shape: tuple[int, ...]) -> Piece | None:
        """The piece of that name and stamp; None if there is none. shape: of its layers.

        Raises UserError for a file that is damaged, of another shape, or made with other settings.
        """
        if self.folder is None or not self.path(name).is_file():
            return None
        from safetensors import SafetensorError, safe_open

        path = self.path(name)
        try:
            with path.open("rb") as file:
                if int.from_bytes(file.read(8), "little") > _HEADER:
                    raise ValueError("its header is too large")
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                self._check(parse_json(about["settings"]), path)
                if about["stamp"] != stamp:
                    return None
                tensors = {key: file.get_tensor(key) for key in ("layers", "cameras", "gains")}
            looks = tuple(_look(values) for values in parse_json(about["looks"]))
            captions = tuple(str(text) for text in parse_json(about.get("captions", "[]")))
            piece = Piece(**tensors, looks=looks, captions=captions)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"'{path}' is no piece of rendered things ({reason}): remove it") from error
        if tuple(piece.layers.shape) != shape or piece.layers.dtype != torch.uint8:
            raise UserError(f"'{path}' has layers {tuple(piece.layers.shape)}, not {shape}: remove it")
        return piece

    def write(self, name: str, stamp: str, piece: Piece) -> None:
        """Writes a piece, whole or not at all; nothing without a folder. Raises UserError as `replacing` does."""
        if self.folder is None:
            return
        from safetensors.torch import save_file

        about = {
            "settings": json.dumps(self.settings),
            "stamp": stamp,
            "looks": json.dumps([_values(look) for look in piece.looks]),
            "captions": json.dumps(piece.captions),
        }
        tensors = {
            "layers": piece.layers.contiguous(),
            "cameras": piece.cameras.contiguous(),
            "gains": piece.gains.contiguous(),
        }
        with replacing(self.path(name)) as path:
            save_file(tensors, path, about)

    def _check(self, found: Any, path: Path) -> None:
        if not isinstance(found, dict):
            raise ValueError("its settings are no JSON object")
        wrong = [key for key, value in self.settings.items() if found.get(key) != value]
        if wrong:
            raise UserError(
                f"'{path}' was rendered with {wrong[0]} {found.get(wrong[0])}, not {self.settings[wrong[0]]}: "
                "name another folder for the cache, or remove this one"
            )


def _values(look: ObjectLook) -> dict[str, Any]:
    return {"colors": look.colors.tolist(), "palette": asdict(look.palette)}


def _look(values: dict[str, Any]) -> ObjectLook:
    colors, palette = torch.tensor(values["colors"]), values["palette"]
    if tuple(colors.shape) != (2, 3):
        raise ValueError("its colours are no two paints")
    first, second = palette["own"]
    share, other = palette["shares"]
    return ObjectLook(colors, Palette(dict(palette["fixed"]), (first, second), (share, other)))
