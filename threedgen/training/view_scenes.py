"""What the pieces of a bank of views show: things with names, random assemblies, and scenes of the shape world,
each in drawn colours and light."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.random import derive_seed
from threedgen.core.types import Cameras
from threedgen.datasets import assemblies, world
from threedgen.datasets.assemblies import render_assembly, sample_assembly
from threedgen.datasets.things.thing_set import ThingSet, ThingSource, code_stamp
from threedgen.datasets.things.thing_views import class_layers, load_object
from threedgen.datasets.things.wording import draw_coat, draw_object
from threedgen.datasets.world import Scene
from threedgen.training.render_bank import ELEVATION, RADIUS
from threedgen.training.things_store import Piece, cameras_of

VIEWS_PER_SCENE = 8
SOURCES_PER_SCENE = 4
"""Only the first views of a scene are sources. They are from elevations at which people take pictures."""
SOURCE_ELEVATION = (-10.0, 40.0)  # degrees
SCENES_A_PIECE = 100
PAIR_SHARE = 0.2  # of the scenes of the shape world

Rgba = Float[Tensor, "V H W 4"]  # premultiplied, in [0, 1]


class ScenePiece(ABC):
    """`count` scenes with VIEWS_PER_SCENE views each.

    name: unique in a bank; the random numbers depend on it. kind: its share of a batch. stamp: changes when the
    pictures do.
    """

    kind = ""

    def __init__(self, name: str, stamp: str, count: int) -> None:
        self.name, self.count = name, count
        self.stamp = f"{code_stamp(__name__)} {stamp} {count}"

    @abstractmethod
    def pictures(self, scenes: Sequence[tuple[Cameras, np.random.Generator]]) -> Iterator[Rgba]:
        """The pictures of each scene from its cameras."""

    def shape(self, size: int) -> tuple[int, int, int, int]:
        """The shape of the layers, for pictures of `size` pixels."""
        return (self.count * VIEWS_PER_SCENE, size, size, 4)

    def render(self, size: int, seed: int) -> Piece:
        """The piece, a function of the piece and the seed."""
        drawn, angles = [], []
        for index in range(self.count):
            rng = np.random.default_rng(derive_seed(seed, f"views {self.name}", index))
            angles.append(_angles(rng))
            drawn.append((cameras_of(angles[-1], size), rng))
        layers = [
            (picture.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8) for picture in self.pictures(drawn)
        ]
        return Piece(torch.cat(layers), torch.cat(angles), torch.zeros(self.count, 0))


def _angles(rng: np.random.Generator) -> Float[Tensor, "V 3"]:
    """Azimuth and elevation in degrees and distance of the views of a scene, those of sources first."""
    draw = torch.from_numpy(rng.random((3, VIEWS_PER_SCENE))).float()
    low, high = ELEVATION
    elevation = low + (high - low) * draw[1]
    low, high = SOURCE_ELEVATION
    elevation[:SOURCES_PER_SCENE] = low + (high - low) * draw[1, :SOURCES_PER_SCENE]
    azimuth = 360.0 * draw[0]
    # Half of the first sources see the front, from which most things are their own mirror image.
    if rng.random() < 0.5:
        azimuth[0] = 30.0 * draw[0, 0] - 15.0
    return torch.stack([azimuth, elevation, RADIUS[0] + (RADIUS[1] - RADIUS[0]) * draw[2]], dim=1)


def _light(rng: np.random.Generator) -> tuple[float, float, float]:
    """The direction of a light from above (see `world.shade`)."""
    return float(rng.normal()), float(rng.uniform(0.2, 1.5)), float(rng.normal())


def _filled(layers: Float[Tensor, "V H W L"], colors: Float[Tensor, "P 3"]) -> Rgba:
    """Layers in the colours of their paints."""
    count = len(layers)
    shown = world.compose(layers, colors.expand(count, -1, -1), torch.zeros(count, 3))
    return torch.cat([shown, layers[..., -1:]], dim=-1)


class ClassScenes(ScenePiece):
    """Random things of the classes of a word, which take turns."""

    kind = "classes"

    def __init__(self, word: str, sources: Sequence[ThingSource], count: int) -> None:
        super().__init__(f"class {word}", " ".join(source.stamp() for source in sources), count)
        self.sources = sources

    def pictures(self, scenes: Sequence[tuple[Cameras, np.random.Generator]]) -> Iterator[Rgba]:
        for index, (cameras, rng) in enumerate(scenes):
            source = self.sources[index % len(self.sources)]
            layers = class_layers(source, cameras, rng, _light(rng))
            yield _filled(layers, torch.tensor(draw_coat(source, rng).colors))


class ObjectScenes(ScenePiece):
    """An object of the catalogue."""

    kind = "objects"

    def __init__(self, source: ThingSource, count: int) -> None:
        super().__init__(f"object {source.name}", source.stamp(), count)
        self.source = source

    def pictures(self, scenes: Sequence[tuple[Cameras, np.random.Generator]]) -> Iterator[Rgba]:
        item = load_object(self.source)  # once, because it takes longer than its pictures
        for cameras, rng in scenes:
            layers = item.layers(cameras, _light(rng))
            yield _filled(layers, draw_object(self.source, item.look, rng)[0])


class AssemblyScenes(ScenePiece):
    """Random assemblies."""

    kind = "assemblies"

    def __init__(self, number: int, count: int) -> None:
        super().__init__(f"assemblies {number}", code_stamp(assemblies.__name__), count)

    def pictures(self, scenes: Sequence[tuple[Cameras, np.random.Generator]]) -> Iterator[Rgba]:
        for cameras, rng in scenes:
            picture, alpha = render_assembly(sample_assembly(rng), cameras)
            yield torch.cat([picture - (1.0 - alpha), alpha], dim=-1)


class ShapeScenes(ScenePiece):
    """Scenes of the shape world."""

    kind = "shapes"

    def __init__(self, number: int, count: int) -> None:
        super().__init__(f"shapes {number}", code_stamp(world.__name__), count)

    def pictures(self, scenes: Sequence[tuple[Cameras, np.random.Generator]]) -> Iterator[Rgba]:
        for cameras, rng in scenes:
            pair = rng.random() < PAIR_SHARE
            scene = world.sample_pair(rng) if pair else Scene((world.sample_object(rng),))
            picture, alpha = world.render(scene, cameras, (0.0, 0.0, 0.0))
            yield torch.cat([picture, alpha], dim=-1)


def scene_pieces(
    things: ThingSet | None, objects: int, classes: int, assemblies: int, shapes: int
) -> list[ScenePiece]:
    """The pieces of a bank. objects: scenes of each object that is not held out. classes: of each word that has
    procedural classes. assemblies, shapes: of all of them together."""
    pieces: list[ScenePiece] = []
    if things is not None:
        for word in things.words:
            if classes and things.classes(word):
                pieces.append(ClassScenes(word, things.classes(word), classes))
            if objects:
                pieces += [ObjectScenes(source, objects) for source in things.objects(word)]
    for kind, count in ((AssemblyScenes, assemblies), (ShapeScenes, shapes)):
        starts = range(0, count, SCENES_A_PIECE)
        pieces += [kind(n, min(SCENES_A_PIECE, count - start)) for n, start in enumerate(starts)]
    return pieces
