"""The feature networks that FID and KID compare pictures with, by name.

A value depends on its network as much as on the pictures, so every value is printed with the label of its network:
"FID (embedded)". Values of different networks are not comparable.
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

KINDS = "embedded, clip:FOLDER, efficientnet:FILE, inception:FILE"
_TILE = 32  # pixels: the size of the pictures that the embedded prior was trained on
_TIME = 0.02  # diffusion time: with almost no noise, sharp pictures stay sharp
_PIECES = 4096  # tiles that are cut at a time: 50 MB
_AT_ONCE = 64  # tiles that go through the network together
_CLIP_AT_ONCE = 8  # pictures that go through the network together
# Root mean squares of the two kinds of features over pictures of the shape world, minus those of a white picture.
# Divided by these, both kinds have equal weight, and the kernel of KID, (x.y / D + 1)^3, is in its middle range.
_TILES_SCALE, _WHOLE_SCALE = 2.0, 8.0


class Features(Protocol):
    """A function from pictures to vectors."""

    label: str
    """The name of the network in tables."""
    size: int
    """Length of the vector of a picture."""
    weights: str
    """A fingerprint of the weights. Values are comparable only if it is the same."""

    def __call__(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        """Features in float64 of pictures of any size in [0, 1] (clamped); the same on every call."""
        ...


def load_features(name: str = "embedded") -> Features:
    """The network called `name`: embedded, clip:FOLDER, efficientnet:FILE or inception:FILE.

    Raises UserError for another name, and for files that are missing or hold something else.
    """
    kind, separator, path = name.partition(":")
    if name == "embedded":
        return _embedded()
    if kind == "clip" and path:
        return ClipFeatures(path)
    if kind == "efficientnet" and path:
        from threedgen.metrics.efficientnet import EfficientNet

        return EfficientNet(path)
    if kind == "inception" and path:
        from threedgen.metrics.inception import InceptionFeatures

        return InceptionFeatures(path)
    of_files = ("clip", "efficientnet", "inception")
    wrong = f"'{name}' names no file" if kind in of_files and not separator else f"'{name}'"
    raise UserError(f"unknown feature network {wrong}: use {KINDS}")


@cache
def _embedded() -> EmbeddedFeatures:
    """Loaded once, because benchmarks ask for it with every model."""
    return EmbeddedFeatures()


class EmbeddedFeatures:
    """Activations of the UNet of the embedded text prior, averaged over space: 296 numbers, always available.

    The network is asked twice, each time without text, camera and noise at t = 0.02. The whole picture, reduced
    to 32 x 32, gives the activations of the middle block (128 numbers, which describe the content). Its 32 x 32
    tiles at full resolution give those of the first three blocks (24 + 48 + 96, averaged over tiles, which
    describe sharpness). Those of a white picture are subtracted.
    """

    label = "embedded"

    def __init__(self) -> None:
        """Raises UserError if the weights that belong to threedgen are missing."""
        from threedgen.guidance.priors.load import EMBEDDED_WEIGHTS, PriorConfig, load_embedded

        self._prior: Any = load_embedded(PriorConfig(), torch.device("cpu"))
        self.weights = fingerprint(sorted((EMBEDDED_WEIGHTS / "unet").glob("*.safetensors")))
        network = self._prior.network
        self._early: list[Tensor] = []
        # Without the blocks after the middle block, the output of the network is the activations of that block.
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
        features = [self._features(group) for group in images.split(at_once)]
        return torch.cat(features).double() - self._white

    def _features(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        tiles = _tiles(images)
        pieces = torch.cat([resize(images, _TILE, _TILE), *tiles])
        activations = [self._activations(group) for group in pieces.split(_AT_ONCE)]
        early, middle = (torch.cat(groups) for groups in zip(*activations, strict=True))
        whole = middle[: len(images)]
        fine = early[len(images) :].reshape(len(tiles), len(images), -1).mean(dim=0)
        return torch.cat([fine / _TILES_SCALE, whole / _WHOLE_SCALE], dim=1)

    def _activations(
        self, tiles: Float[Tensor, "B 32 32 3"]
    ) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B M"]]:
        """Averages over space of the activations of the first three blocks and of the middle block."""
        from threedgen.guidance.priors.base import Condition

        t = torch.full((len(tiles),), _TIME)
        z = self._prior.encode(tiles) * self._prior.alpha(t)[:, None, None, None]
        arguments = self._prior.arguments(z, t, Condition(("",) * len(tiles)))
        self._early.clear()
        middle = self._prior.network(**arguments, return_dict=False)[0]
        early = torch.cat([activation.mean((2, 3)) for activation in self._early], dim=1)
        return early, middle.mean((2, 3))


def _tiles(images: Float[Tensor, "B H W 3"]) -> list[Float[Tensor, "B 32 32 3"]]:
    """Tiles that cover the pictures; they overlap if a side is no multiple of 32. Smaller pictures are enlarged."""
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
        """path: a folder with safetensors and the config.json of a CLIP or its vision model. Raises UserError."""
        folder = _clip_folder(path)
        self.label = f"clip:{folder.resolve().name}"
        self._model, self._mean, self._std = _load_clip(folder)
        self.weights = fingerprint(sorted(folder.glob("*.safetensors")))
        self.size = int(self._model.config.projection_dim)

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        images = images.detach().to("cpu", torch.float32)
        return torch.cat([self._embed(group) for group in images.split(_CLIP_AT_ONCE)]).double()

    def _embed(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        """Pictures are resized to the square of the model and not cropped, so that all of a picture counts."""
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
    """The vision model, and the mean and the standard deviation that its pixels are normalised with."""
    from transformers import CLIPVisionModelWithProjection
    from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    from threedgen.guidance.priors.folder.files import first_line, read_json
    from threedgen.guidance.priors.folder.libraries import quiet

    loader: Any = CLIPVisionModelWithProjection.from_pretrained
    options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    try:
        with quiet():
            model, info = loader(str(folder), **options)
    except Exception as error:  # transformers raises errors of many types for a broken folder
        raise UserError(f"the CLIP model '{folder}' cannot be loaded ({first_line(error)})") from error
    if info["missing_keys"]:  # transformers fills them with random numbers
        raise UserError(f"the CLIP model '{folder}' lacks weights (first: {sorted(info['missing_keys'])[0]})")
    given = folder / "preprocessor_config.json"
    stated = read_json(given) if given.is_file() else {}
    pixels = (stated.get("image_mean", OPENAI_CLIP_MEAN), stated.get("image_std", OPENAI_CLIP_STD))
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in pixels)
    return model.requires_grad_(False).eval(), mean, std
