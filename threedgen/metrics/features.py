"""Named feature networks: what FID and KID compare pictures by.

A number depends on its network as much as on the pictures, so a network's label belongs to every number that is
printed: "FID (embedded)". Numbers of different networks are not comparable.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.pictures import resize
from threedgen.metrics.weights import fingerprint

KINDS = "embedded, clip:FOLDER, inception:FILE"
_TILE = 32  # pixels: what the embedded prior sees
_TIME = 0.02  # of the noise: next to none, so that what is sharp stays sharp
_PIECES = 4096  # tiles that are cut at once: 50 MB
_AT_ONCE = 64  # of them, that go through the network together
_CLIP_AT_ONCE = 8  # pictures
# Of its features over pictures of the shape world, against a white one: root mean squares of about 2 and 8. Divided
# by these, both looks count alike, and KID's (x.y / D + 1)^3 is neither flat nor all cube.
_TILES_SCALE, _WHOLE_SCALE = 2.0, 8.0


class Features(Protocol):
    """Pictures to vectors."""

    label: str
    """The network as tables name it."""
    size: int
    """Numbers a picture."""
    weights: str
    """A fingerprint of its weights: numbers are comparable where it is the same."""

    def __call__(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        """Features of pictures in [0, 1] (others are clamped) of any size, in float64; deterministic."""
        ...


def load_features(name: str = "embedded") -> Features:
    """The network of a name: embedded, clip:FOLDER, inception:FILE. Raises UserError for anything else, and for
    files that are not there or not what they should be."""
    kind, separator, path = name.partition(":")
    if name == "embedded":
        return _embedded()
    if kind == "clip" and path:
        return ClipFeatures(path)
    if kind == "inception" and path:
        from threedgen.metrics.inception import InceptionFeatures

        return InceptionFeatures(path)
    wrong = f"'{name}' names no file" if kind in ("clip", "inception") and not separator else f"'{name}'"
    raise UserError(f"unknown feature network {wrong}: use {KINDS}")


@cache
def _embedded() -> EmbeddedFeatures:
    """Loaded once: a benchmark asks for it with every model."""
    return EmbeddedFeatures()


class EmbeddedFeatures:
    """Activations of the embedded text prior's UNet, averaged over space: always there, 296 numbers.

    Two looks at a picture, each without a text, for any camera and without noise, at t = 0.02: the whole picture
    reduced to 32 x 32 through the middle block (128 numbers: what is where), and its 32 x 32 tiles at full
    resolution through the first three blocks (24 + 48 + 96, averaged over tiles: how sharp it is). Each minus that
    of a white picture.
    """

    label = "embedded"

    def __init__(self) -> None:
        """Raises UserError where threedgen's own weights are not there."""
        from threedgen.guidance.priors.load import EMBEDDED_WEIGHTS, PriorConfig, load_embedded

        self._prior: Any = load_embedded(PriorConfig(), torch.device("cpu"))
        self.weights = fingerprint(sorted((EMBEDDED_WEIGHTS / "unet").glob("*.safetensors")))
        network = self._prior.network
        self._early: list[Tensor] = []
        # Nothing after the middle block is looked at: without it the network answers with that block's activations.
        network.up_blocks = torch.nn.ModuleList()
        network.conv_norm_out, network.conv_out = None, torch.nn.Identity()
        for block in network.down_blocks[:3]:
            block.resnets[-1].register_forward_hook(lambda *call: self._early.append(call[2]))
        blank = torch.ones(1, _TILE, _TILE, 3)
        self._white = torch.zeros(1)
        self._white = self(blank)
        self.size = self._white.shape[1]

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        images = images.detach().to("cpu", torch.float32).clamp(0.0, 1.0)
        at_once = max(1, _PIECES // len(_corners(images)))
        return torch.cat([self._features(part) for part in images.split(at_once)]).double() - self._white

    def _features(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        tiles = _tiles(images)
        pieces = torch.cat([resize(images, _TILE, _TILE), *tiles])
        looks = [self._look(part) for part in pieces.split(_AT_ONCE)]
        early, middle = (torch.cat(look) for look in zip(*looks, strict=True))
        whole = middle[: len(images)]
        fine = early[len(images) :].reshape(len(tiles), len(images), -1).mean(dim=0)
        return torch.cat([fine / _TILES_SCALE, whole / _WHOLE_SCALE], dim=1)

    def _look(self, tiles: Float[Tensor, "B 32 32 3"]) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B M"]]:
        """Averages over space of the first three blocks and of the middle one."""
        from threedgen.guidance.priors.base import Condition

        t = torch.full((len(tiles),), _TIME)
        z = self._prior.encode(tiles) * self._prior.alpha(t)[:, None, None, None]
        arguments = self._prior.arguments(z, t, Condition(("",) * len(tiles)))
        self._early.clear()
        middle = self._prior.network(**arguments, return_dict=False)[0]
        early = torch.cat([activation.mean((2, 3)) for activation in self._early], dim=1)
        return early, middle.mean((2, 3))


def _tiles(images: Float[Tensor, "B H W 3"]) -> list[Float[Tensor, "B 32 32 3"]]:
    """Tiles that cover the pictures, overlapping where the sides are no multiples of 32; smaller pictures are
    enlarged."""
    images = resize(images, max(images.shape[1], _TILE), max(images.shape[2], _TILE))
    return [images[:, row : row + _TILE, column : column + _TILE] for row, column in _corners(images)]


def _corners(images: Float[Tensor, "B H W 3"]) -> list[tuple[int, int]]:
    """The upper left pixel of each tile."""
    rows, columns = (_starts(side) for side in images.shape[1:3])
    return [(row, column) for row in rows for column in columns]


def _starts(side: int) -> list[int]:
    count, side = math.ceil(side / _TILE), max(side, _TILE)
    return [round(index * (side - _TILE) / max(1, count - 1)) for index in range(count)]


class ClipFeatures:
    """Image embeddings of a CLIP vision model (Radford et al. 2021) from a local folder of transformers."""

    def __init__(self, path: str | Path) -> None:
        """path: a folder with config.json of a CLIP or its vision half, and safetensors. Raises UserError."""
        folder = _clip_folder(path)
        self.label = f"clip:{folder.resolve().name}"
        self._model, self._mean, self._std = _load_clip(folder)
        self.weights = fingerprint(sorted(folder.glob("*.safetensors")))
        self.size = int(self._model.config.projection_dim)

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        images = images.detach().to("cpu", torch.float32)
        return torch.cat([self._embed(part) for part in images.split(_CLIP_AT_ONCE)]).double()

    def _embed(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        """Squeezed to the square that the model sees: what it was given whole stays whole."""
        side = int(self._model.config.image_size)
        planes = images.clamp(0.0, 1.0).permute(0, 3, 1, 2)
        pixels = torch.nn.functional.interpolate(
            planes, (side, side), mode="bicubic", antialias=True, align_corners=False
        )
        return self._model((pixels.clamp(0.0, 1.0) - self._mean) / self._std).image_embeds


def _clip_folder(path: str | Path) -> Path:
    from threedgen.core.paths import existing
    from threedgen.guidance.priors.folder.files import read_json

    folder = existing(path, "there is no folder '{path}' of a CLIP model")
    if not (folder / "config.json").is_file():
        raise UserError(f"'{folder}' is not a folder of a CLIP model: it has no config.json")
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise UserError(f"'{folder}' is a model of type {kind}: features need clip or clip_vision_model")
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"'{folder}' has no .safetensors weights: save the model with safe_serialization=True"
        )
    return folder


def _load_clip(folder: Path) -> tuple[Any, Tensor, Tensor]:
    """The vision model and what its pixels are normalised by."""
    from safetensors import SafetensorError
    from transformers import CLIPVisionModelWithProjection
    from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    from threedgen.guidance.priors.folder.files import first_line, read_json
    from threedgen.guidance.priors.folder.libraries import quiet

    try:
        with quiet():
            loader: Any = CLIPVisionModelWithProjection.from_pretrained
            model, info = loader(
                str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"the CLIP model '{folder}' cannot be loaded ({first_line(error)})") from error
    if info["missing_keys"]:  # they would be random numbers
        raise UserError(f"the CLIP model '{folder}' lacks weights (first: {sorted(info['missing_keys'])[0]})")
    given = folder / "preprocessor_config.json"
    said = read_json(given) if given.is_file() else {}
    pixels = (said.get("image_mean", OPENAI_CLIP_MEAN), said.get("image_std", OPENAI_CLIP_STD))
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in pixels)
    return model.requires_grad_(False).eval(), mean, std
