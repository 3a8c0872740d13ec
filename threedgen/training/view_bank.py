"""Training pairs for the priors that a picture is given to: a picture of an object, and other views of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedgen.cameras.orbit import relative_view_features
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.datasets.things.thing_set import ThingSet
from threedgen.training.config import SceneBankConfig
from threedgen.training.things_bank import MOST_BYTES
from threedgen.training.things_store import PieceFolder, cameras_of
from threedgen.training.view_scenes import SOURCES_PER_SCENE, VIEWS_PER_SCENE, Rig, scene_pieces

SHARES = {"objects": 0.5, "classes": 0.3, "assemblies": 0.15, "shapes": 0.05}
"""How often a batch shows each kind of scene, relative to the kinds that the bank has."""
_FIRST = 0.3  # chance that the source is a scene's first view


@dataclass(frozen=True)
class ViewBatch:
    """A batch of B pictures and V views of the object in each.

    pictures: the given pictures on white, in [0, 1]. known: the azimuth and the elevation in degrees and the
    distance of the camera of each. layers: the views, premultiplied RGB and alpha. views: their azimuth relative
    to the picture's and elevation in degrees, and distance.
    """

    pictures: Float[Tensor, "B H W 3"]
    known: Float[Tensor, "B 3"]
    layers: Float[Tensor, "B V H W 4"]
    views: Float[Tensor, "B V 3"]

    @property
    def images(self) -> Float[Tensor, "B H W 3"]:
        """The first view of each on white."""
        return on_white(self.layers[:, 0])

    @property
    def poses(self) -> Float[Tensor, "B 20"]:
        """Those of the first views, see `relative_view_features`."""
        cameras = cameras_of(self.views[:, 0], self.layers.shape[2])
        return relative_view_features(cameras, 0.0, self.known[:, 1], self.known[:, 2])


class SceneBank:
    """Pictures of scenes as bytes, as many of each as its rig has cameras. Everything is a function of the
    arguments.

    config: how many scenes of which kind. size: pixels. things: with names; None: no such scenes. cache: a folder
    that keeps the pictures. progress: called with the number of pieces done and of all. rig, of the class: the
    cameras of a scene.

    Raises UserError for a bank that would be empty or larger than MOST_BYTES, for a cache that is damaged or was
    made with another size or seed, and for a broken catalogue.
    """

    rig: ClassVar[Rig]

    def __init__(
        self,
        config: SceneBankConfig,
        size: int,
        seed: int,
        things: ThingSet | None = None,
        cache: str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        rig = self.rig
        pieces = scene_pieces(things, config, rig)
        scenes = sum(piece.count for piece in pieces)
        total = scenes * rig.count * size * size * 4
        if not scenes:
            raise UserError(
                "there are no scenes to learn from: give at least one of --assemblies, --shapes, --class-scenes"
            )
        if total > MOST_BYTES:
            raise UserError(
                f"{scenes} scenes of {size} pixels would take {total / 1e9:.1f} GB, more than "
                f"{MOST_BYTES / 1e9:.1f} GB: choose fewer scenes or a smaller size"
            )
        self.size = size
        self.layers = torch.empty(scenes, rig.count, size, size, 4, dtype=torch.uint8)
        self.angles = torch.empty(scenes, rig.count, 3)
        self.captions: list[str] = []
        folder, first = PieceFolder(cache, {"size": size, "seed": seed}), 0
        for done, item in enumerate(pieces):
            piece = folder.read(item.name, item.stamp, item.shape(size))
            if piece is None:
                piece = item.render(size, seed)
                folder.write(item.name, item.stamp, piece)
            part = slice(first, first + item.count)
            self.layers[part] = piece.layers.view(-1, *self.layers.shape[1:])
            self.angles[part] = piece.cameras.view(-1, rig.count, 3)
            self.captions += piece.captions
            first += item.count
            if progress is not None:
                progress(done + 1, len(pieces))
        kinds = np.array([item.kind for item in pieces for _ in range(item.count)])
        weights = np.zeros(scenes)
        for kind, share in SHARES.items():
            weights[kinds == kind] = share / max(1, (kinds == kind).sum())
        self._chances = torch.from_numpy(np.cumsum(weights / weights.sum()))

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.layers) * self.layers.shape[1]

    def drawn(self, count: int, rng: torch.Generator) -> Int[Tensor, " B"]:
        """`count` scenes by the shares of their kinds."""
        place = (torch.randperm(count, generator=rng) + torch.rand(count, generator=rng)) / count
        return torch.searchsorted(self._chances, place.double()).clamp(max=len(self.layers) - 1)

    def seen(
        self,
        scene: Int[Tensor, " B"],
        shown: Int[Tensor, "B V"] | Int[Tensor, " V"],
        channels: Int[Tensor, "B 4"],
        flip: Bool[Tensor, " B"],
    ) -> tuple[Float[Tensor, "B V H W 4"], Float[Tensor, "B V 3"]]:
        """The views `shown` of scenes and their angles. channels: which channel each becomes. flip: which scenes
        are mirrored, where azimuths change their sign."""
        layers = self.layers[scene[:, None], shown].float() / 255.0
        layers = torch.gather(layers, 4, channels[:, None, None, None].expand_as(layers))
        layers = torch.where(flip[:, None, None, None, None], layers.flip(3), layers)
        angles = self.angles[scene[:, None], shown]
        angles[..., 0] *= torch.where(flip, -1.0, 1.0)[:, None]
        return layers, angles


class ViewBank(SceneBank):
    """Views of scenes from anywhere, VIEWS_PER_SCENE of each; see SceneBank."""

    rig = Rig()

    def batch(self, count: int, seed: int, step: int, views: int = 1) -> ViewBatch:
        """`count` random pictures, each with `views` of the other views of its scene, as a function of (seed,
        step).

        Colour channels are exchanged and scenes are mirrored at random: then the azimuths relative to the picture
        change their sign.
        """
        rng = generator(seed, "view-batch", step)
        scene = self.drawn(count, rng)
        source = torch.randint(SOURCES_PER_SCENE, (count,), generator=rng)
        source = torch.where(torch.rand(count, generator=rng) < _FIRST, 0, source)
        others = 1 + torch.argsort(torch.rand(count, VIEWS_PER_SCENE - 1, generator=rng), dim=1)
        shown = (source[:, None] + others[:, :views]) % VIEWS_PER_SCENE
        shown = torch.cat([source[:, None], shown], dim=1)
        channels = torch.argsort(torch.rand(count, 3, generator=rng), dim=1)
        channels = torch.cat([channels, torch.full((count, 1), 3)], dim=1)
        flip = torch.rand(count, generator=rng) < 0.5

        layers, angles = self.seen(scene, shown, channels, flip)
        known, relative = angles[:, 0].clone(), angles[:, 1:]
        relative[..., 0] -= known[:, :1]
        return ViewBatch(on_white(layers[:, 0]), known, layers[:, 1:], relative)


def on_white(layers: Float[Tensor, "... 4"]) -> Float[Tensor, "... 3"]:
    """Premultiplied pictures on white."""
    return (layers[..., :3] + 1.0 - layers[..., 3:]).clamp(0.0, 1.0)
