"""What the pieces of a bank of things show: how each is rendered, and how its pictures are coloured and named."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.random import derive_seed
from threedgen.core.types import Cameras
from threedgen.datasets import world
from threedgen.datasets.shapes import COLORS as SHAPE_COLORS
from threedgen.datasets.things import scenes
from threedgen.datasets.things.scenes import PAIR_PAINTS, CountScene, PairScene
from threedgen.datasets.things.thing_class import FIXED_PAINTS, PAINTS
from threedgen.datasets.things.thing_set import ThingSource, code_stamp, forbidden_colors
from threedgen.datasets.things.thing_views import ObjectLook, class_layers, object_layers
from threedgen.datasets.things.wording import draw_coat, draw_object, draw_word, phrase
from threedgen.datasets.world import Scene, WorldObject
from threedgen.training.things_store import Piece, cameras_of, stratified_views, to_bytes

# Draws the colours of the paints, display-referred, and a caption that fits them.
Look = Callable[[np.random.Generator], tuple[Float[Tensor, "P 3"], str]]

_FIXED = 4  # channels of layers besides those of the paints: the fixed colours and alpha


class Recipe(ABC):
    """A piece of a bank: `count` things or scenes with `views` views each.

    name: unique in a bank; the random numbers depend on it. kind: its share of a batch: "things", "pairs", "counts"
    or "shapes". stamp: changes when the pictures do. paints: the number of paints of its layers. word: what all of
    them are; "" for scenes.
    """

    paints = len(PAINTS)
    word = ""

    def __init__(self, name: str, kind: str, stamp: str, count: int, views: int) -> None:
        self.name, self.kind, self.count, self.views = name, kind, count, views
        self.stamp = f"{stamp} {count}x{views}"

    def shape(self, size: int) -> tuple[int, int, int, int]:
        """The shape of the layers, for pictures of `size` pixels."""
        return (self.count * self.views, size, size, self.paints + _FIXED)

    def weights(self) -> list[float]:
        """How often each thing or scene is drawn, relative to the others of the kind; by default the same."""
        return [1.0] * self.count

    @abstractmethod
    def look(self, index: int, own: ObjectLook | None) -> Look:
        """What draws colours and captions for a thing or scene. own: of a catalogue object."""

    @abstractmethod
    def picture(
        self, index: int, cameras: Cameras, rng: np.random.Generator
    ) -> tuple[Float[Tensor, "V H W L"], ObjectLook | None]:
        """The layers of a thing or scene, and the own colours of a catalogue object."""

    def render(self, size: int, seed: int) -> Piece:
        """The piece, a function of the recipe and the seed."""
        views = stratified_views(self.count, self.views, seed, f"things-views {self.name}")
        layers, gains, looks = [], [], []
        for index, angles in enumerate(views):
            rng = np.random.default_rng(derive_seed(seed, f"things {self.name}", index))
            picture, look = self.picture(index, cameras_of(angles, size), rng)
            scaled, gain = to_bytes(picture, self.paints)
            layers.append(scaled)
            gains.append(gain)
            looks += [] if look is None else [look]
        return Piece(torch.cat(layers), views.flatten(0, 1), torch.stack(gains), tuple(looks))


class ClassRecipe(Recipe):
    """Random things of the classes of a word, which take turns. weight: of all of them together."""

    def __init__(
        self, word: str, sources: Sequence[ThingSource], count: int, views: int, weight: float
    ) -> None:
        stamp = " ".join(source.stamp() for source in sources)
        super().__init__(f"class {word}", "things", stamp, count, views)
        self.word, self.sources, self.weight = word, sources, weight

    def weights(self) -> list[float]:
        return [self.weight / self.count] * self.count

    def look(self, index: int, own: ObjectLook | None) -> Look:
        source = self.sources[index % len(self.sources)]

        def draw(rng: np.random.Generator) -> tuple[Tensor, str]:
            coat = draw_coat(source, rng)
            return torch.tensor(coat.colors), phrase(draw_word(source.word, rng), coat.named)

        return draw

    def picture(
        self, index: int, cameras: Cameras, rng: np.random.Generator
    ) -> tuple[Tensor, ObjectLook | None]:
        return class_layers(self.sources[index % len(self.sources)], cameras, rng), None


class ObjectRecipe(Recipe):
    """The catalogue objects of a word. weight: of each."""

    def __init__(self, word: str, sources: Sequence[ThingSource], views: int, weight: float) -> None:
        stamp = " ".join(source.stamp() for source in sources)
        super().__init__(f"object {word}", "things", stamp, len(sources), views)
        self.word, self.sources, self.weight = word, sources, weight

    def weights(self) -> list[float]:
        return [self.weight] * self.count

    def look(self, index: int, own: ObjectLook | None) -> Look:
        source = self.sources[index]
        assert own is not None

        def draw(rng: np.random.Generator) -> tuple[Tensor, str]:
            return draw_object(source, own, rng)

        return draw

    def picture(
        self, index: int, cameras: Cameras, rng: np.random.Generator
    ) -> tuple[Tensor, ObjectLook | None]:
        return object_layers(self.sources[index], cameras)


class PairRecipe(Recipe):
    """Scenes of two things."""

    paints = len(PAIR_PAINTS)

    def __init__(self, number: int, drawn: Sequence[PairScene], views: int) -> None:
        parts = [
            f"{s.first.name} {s.first.stamp()} {s.relation} {s.side} {s.second.name} {s.second.stamp()}"
            for s in drawn
        ]
        stamp = " ".join([code_stamp(scenes.__name__), *parts])
        super().__init__(f"pairs {number}", "pairs", stamp, len(drawn), views)
        self.drawn = drawn

    def look(self, index: int, own: ObjectLook | None) -> Look:
        scene = self.drawn[index]

        def draw(rng: np.random.Generator) -> tuple[Tensor, str]:
            (first, second), text = scenes.draw_pair_look(scene, rng)
            return torch.tensor([*first.colors, *second.colors]), text

        return draw

    def picture(
        self, index: int, cameras: Cameras, rng: np.random.Generator
    ) -> tuple[Tensor, ObjectLook | None]:
        pieces = scenes.renamed(scenes.pair_pieces(self.drawn[index], rng))
        layered = world.layered([pieces], PAIR_PAINTS, FIXED_PAINTS)
        return world.render_layers(layered, cameras, len(PAIR_PAINTS)), None


class CountRecipe(Recipe):
    """Scenes of several of the same thing."""

    def __init__(self, number: int, drawn: Sequence[CountScene], views: int) -> None:
        parts = [f"{s.source.name} {s.source.stamp()} {s.count} {s.row}" for s in drawn]
        stamp = " ".join([code_stamp(scenes.__name__), *parts])
        super().__init__(f"counts {number}", "counts", stamp, len(drawn), views)
        self.drawn = drawn

    def look(self, index: int, own: ObjectLook | None) -> Look:
        scene = self.drawn[index]

        def draw(rng: np.random.Generator) -> tuple[Tensor, str]:
            coat, text = scenes.draw_count_look(scene, rng)
            return torch.tensor(coat.colors), text

        return draw

    def picture(
        self, index: int, cameras: Cameras, rng: np.random.Generator
    ) -> tuple[Tensor, ObjectLook | None]:
        layered = world.layered([scenes.count_pieces(self.drawn[index], rng)], PAINTS, FIXED_PAINTS)
        return world.render_layers(layered, cameras, len(PAINTS)), None


class ShapeRecipe(Recipe):
    """Scenes of the shape world, in its own colours, which differ in a stack and make no held-out pair."""

    def __init__(self, number: int, drawn: Sequence[Scene], views: int) -> None:
        super().__init__(f"shapes {number}", "shapes", repr(drawn), len(drawn), views)
        self.drawn = drawn

    def look(self, index: int, own: ObjectLook | None) -> Look:
        kinds = tuple(item.shape for item in self.drawn[index].objects)

        def draw(rng: np.random.Generator) -> tuple[Tensor, str]:
            names: list[str] = []
            for kind in kinds:
                barred = {*forbidden_colors((kind,)), *names}
                free = [name for name in SHAPE_COLORS if name not in barred]
                names.append(free[rng.integers(len(free))])
            scene = Scene(tuple(WorldObject(kind, name, {}) for kind, name in zip(kinds, names, strict=True)))
            return torch.tensor([SHAPE_COLORS[name] for name in (*names, names[0])[:2]]), scene.caption

        return draw

    def picture(
        self, index: int, cameras: Cameras, rng: np.random.Generator
    ) -> tuple[Tensor, ObjectLook | None]:
        return world.render_layers(world.build(self.drawn[index]), cameras, self.paints), None
