"""Training pictures of things, rendered once as layers and coloured anew for each batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from threedgen.core.errors import UserError
from threedgen.core.random import derive_seed
from threedgen.datasets import world
from threedgen.datasets.things import scenes
from threedgen.datasets.things.thing_set import INSTALLED, ThingSet, thing_set
from threedgen.datasets.world import Scene
from threedgen.guidance.priors.instances import Instances
from threedgen.training.instance_codes import codes_of, soft_hull
from threedgen.training.render_bank import draw_backgrounds, reworded
from threedgen.training.things_recipes import (
    ClassRecipe,
    CountRecipe,
    Look,
    ObjectRecipe,
    PairRecipe,
    Recipe,
    ShapeRecipe,
)
from threedgen.training.things_store import PieceFolder, cameras_of

MOST_BYTES = 2 << 30  # of all layers
CLASS_WEIGHT = 4.0  # how often a class is drawn for its word, relative to one catalogue object
SHAPE_PAIRS = 0.2  # share of stacks of two in the scenes of the shape world
SCENES_A_PIECE = 50
KEY_CAPTIONS = 6  # of which the key of a thing is the mean


@dataclass(frozen=True)
class Shares:
    """The shares of a batch; the rest are single things.

    pairs: scenes of two things. counts: several of the same thing. shapes: scenes of the shape world.
    """

    pairs: float = 0.1
    counts: float = 0.05
    shapes: float = 0.1

    def __post_init__(self) -> None:
        parts = (self.pairs, self.counts, self.shapes)
        if min(parts) < 0.0 or sum(parts) > 1.0:
            raise UserError(
                f"the shares of a batch must not be negative, and 1 together at most, not {parts}"
            )


@dataclass(frozen=True)
class ThingsBatch:
    """A batch of pictures.

    images: [B, H, W, 3] in [0, 1], on drawn backgrounds. layers: [B, H, W, 4], RGB multiplied by alpha, and alpha.
    captions: B strings. cameras: [B, 3], azimuth and elevation in degrees, distance in world units. codes: [B, K],
    which of the things of that name each shows, see `instance_codes`; zeros for scenes.
    """

    images: Float[Tensor, "B H W 3"]
    layers: Float[Tensor, "B H W 4"]
    captions: list[str]
    cameras: Float[Tensor, "B 3"]
    codes: Float[Tensor, "B K"]


@dataclass(frozen=True)
class _Group:
    """The views of one thing or scene. first: their first row in the layers with as many paints. camera: that in
    the cameras. gains: [P, 1]."""

    paints: int
    first: int
    camera: int
    views: int
    look: Look
    gains: Float[Tensor, "P 1"]


class ThingsBank:
    """Layers of things as bytes, and what is needed to colour and to name them.

    size: pixels of a picture. words: which things (None: all). catalogue: the folder of the furniture libraries,
    None for procedural things alone, INSTALLED for Debian's place. instances, views: things of the classes of a
    word, and views of each. object_views: of each catalogue object. scene_count: scenes of two things, which have
    `views` views too; there are half as many counts, and half as many scenes of the shape world. weights: how often
    words are drawn, relative to the others, which have 1. cache: a folder that keeps the layers. progress: called
    with the number of pieces done and of all, a piece being the classes or the objects of a word, or 50 scenes.
    code: length of the codes of things. only: see `read_catalogue`.

    Everything is a function of the arguments. Raises UserError for unknown words, for layers that would be larger
    than MOST_BYTES, for a cache that is damaged or was made with another size or seed, and for a broken catalogue.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        words: Sequence[str] | None = None,
        catalogue: str | Path | None = INSTALLED,
        instances: int = 24,
        views: int = 8,
        object_views: int = 32,
        scene_count: int = 1000,
        shares: Shares | None = None,
        weights: Mapping[str, float] | None = None,
        cache: str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        code: int = 16,
        only: str | None = None,
    ) -> None:
        things = thing_set(catalogue, only)
        self.things = things if words is None else things.of(words)
        self.shares = shares or Shares()
        recipes = [
            *_single_recipes(self.things, instances, views, object_views, weights or {}),
            *_scene_recipes(self.things, self.shares, scene_count, views, seed),
        ]
        shapes = [recipe.shape(size) for recipe in recipes]
        total = sum(int(np.prod(shape)) for shape in shapes)
        if total > MOST_BYTES:
            raise UserError(
                f"{sum(shape[0] for shape in shapes)} views of {size} pixels would take {total / 1e9:.1f} GB, more "
                f"than {MOST_BYTES / 1e9:.1f} GB: choose fewer words, instances or views, or a smaller size"
            )
        self.layers = {
            paints: torch.empty(
                sum(s[0] for r, s in zip(recipes, shapes, strict=True) if r.paints == paints),
                size,
                size,
                next(s[3] for r, s in zip(recipes, shapes, strict=True) if r.paints == paints),
                dtype=torch.uint8,
            )
            for paints in {recipe.paints for recipe in recipes}
        }
        self.cameras = torch.empty(sum(shape[0] for shape in shapes), 3)
        self._groups: list[_Group] = []
        self._fill(recipes, PieceFolder(cache, {"size": size, "seed": seed}), size, seed, progress)
        self._chances = _chances(recipes, self.shares)
        self.codes = self._codes(recipes, code)

    def __len__(self) -> int:
        """The number of views."""
        return len(self.cameras)

    def batch(self, count: int, seed: int, step: int) -> ThingsBatch:
        """`count` views with drawn colours and backgrounds, as a function of (seed, step).

        They are spread evenly over the words: a batch of as many views as words has nearly one of each.
        """
        rng = np.random.default_rng(derive_seed(seed, "things-batch", step))
        place = (rng.permutation(count) + rng.random(count)) / count
        chosen = np.searchsorted(self._chances, place, side="right").clip(max=len(self._groups) - 1)
        parts: dict[int, tuple[list[int], list[int], list[Tensor]]] = {}
        captions, cameras = [], []
        for position, number in enumerate(chosen.tolist()):
            group = self._groups[number]
            view = int(rng.integers(group.views))
            colors, text = group.look(rng)
            captions.append(reworded(text, rng))
            cameras.append(group.camera + view)
            positions, rows, palettes = parts.setdefault(group.paints, ([], [], []))
            positions.append(position)
            rows.append(group.first + view)
            palettes.append(colors * group.gains)
        size = next(iter(self.layers.values())).shape[1]
        layers = torch.empty(count, size, size, 4)
        for paints, (positions, rows, palettes) in parts.items():
            shades = self.layers[paints][rows].float().div_(255.0)
            mixed = world.compose(shades, torch.stack(palettes), torch.zeros(len(rows), 3))
            layers[positions] = torch.cat([mixed, shades[..., -1:]], dim=-1)
        layers.clamp_(0.0, 1.0)
        background = draw_backgrounds(count, rng)[:, None, None, :]
        images = (layers[..., :3] + (1.0 - layers[..., 3:]) * background).clamp_(0.0, 1.0)
        return ThingsBatch(images, layers, captions, self.cameras[cameras], self.codes[chosen])

    def instances(self, read: Callable[[list[str]], Float[Tensor, "T D"]], seed: int) -> Instances:
        """All things and scenes, as a field chooses among them. read: texts -> their vectors."""
        rng = np.random.default_rng(derive_seed(seed, "things-keys", 0))
        texts = [[group.look(rng)[1] for _ in range(KEY_CAPTIONS)] for group in self._groups]
        keys = torch.stack([F.normalize(read(own), dim=1).mean(0) for own in texts])
        weights = np.diff(self._chances, prepend=0.0) * len(self._groups)
        drawn = torch.from_numpy(weights > 0.0)
        weights = torch.from_numpy(weights).float()
        return Instances(F.normalize(keys[drawn], dim=1), self.codes[drawn], weights[drawn])

    def _codes(self, recipes: Sequence[Recipe], length: int) -> Float[Tensor, "G K"]:
        """The codes of all groups."""
        names = [recipe.word for recipe in recipes for _ in range(recipe.count)]
        numbers = {word: number for number, word in enumerate(dict.fromkeys(filter(None, names)))}
        chosen = [index for index, name in enumerate(names) if name]
        hulls = []
        for index in chosen:
            group = self._groups[index]
            alpha = (
                self.layers[group.paints][group.first : group.first + group.views, ..., -1].float() / 255.0
            )
            cameras = cameras_of(self.cameras[group.camera : group.camera + group.views], alpha.shape[1])
            hulls.append(soft_hull(alpha, cameras))
        codes = torch.zeros(len(names), length)
        if hulls:
            words = torch.tensor([numbers[names[index]] for index in chosen])
            codes[chosen] = codes_of(torch.stack(hulls), words, length)
        return codes

    def _fill(
        self,
        recipes: Sequence[Recipe],
        folder: PieceFolder,
        size: int,
        seed: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Reads or renders every piece, and lists the views of each thing and scene."""
        filled = dict.fromkeys(self.layers, 0)
        camera = 0
        for done, recipe in enumerate(recipes):
            piece = folder.read(recipe.name, recipe.stamp, recipe.shape(size))
            if piece is None:
                piece = recipe.render(size, seed)
                folder.write(recipe.name, recipe.stamp, piece)
            first, count = filled[recipe.paints], len(piece.layers)
            self.layers[recipe.paints][first : first + count] = piece.layers
            self.cameras[camera : camera + count] = piece.cameras
            for index in range(recipe.count):
                look = recipe.look(index, piece.looks[index] if piece.looks else None)
                start = index * recipe.views
                gains = piece.gains[index][:, None]
                self._groups.append(
                    _Group(recipe.paints, first + start, camera + start, recipe.views, look, gains)
                )
            filled[recipe.paints] += count
            camera += count
            if progress is not None:
                progress(done + 1, len(recipes))


def _single_recipes(
    things: ThingSet, instances: int, views: int, object_views: int, weights: Mapping[str, float]
) -> list[Recipe]:
    """Of the classes of each word, then of the objects of each word that are not held out."""
    classes: list[Recipe] = []
    objects: list[Recipe] = []
    for word in things.words:
        made, items = things.classes(word), things.objects(word)
        both = CLASS_WEIGHT * len(made) + len(items)
        weight = weights.get(word, 1.0)
        if made:
            share = weight * CLASS_WEIGHT * len(made) / both
            classes.append(ClassRecipe(word, made, instances, views, share))
        if items:
            objects.append(ObjectRecipe(word, items, object_views, weight / both))
    return classes + objects


def _scene_recipes(things: ThingSet, shares: Shares, count: int, views: int, seed: int) -> list[Recipe]:
    """Of scenes of two, of counts and of the shape world, as far as a batch has a share of them."""
    rng = np.random.default_rng(derive_seed(seed, "things-scenes", 0))
    classes = [source for word in things.words for source in things.classes(word)]
    recipes: list[Recipe] = []
    if shares.pairs > 0.0 and len({source.word for source in classes}) > 1:
        pairs = [scenes.draw_pair(classes, rng) for _ in range(count)]
        recipes += [PairRecipe(number, part, views) for number, part in _parts(pairs)]
    if shares.counts > 0.0 and any(scenes.countable(source.word) for source in classes):
        counts = [scenes.draw_count(classes, rng) for _ in range(-(-count // 2))]
        recipes += [CountRecipe(number, part, views) for number, part in _parts(counts)]
    if shares.shapes > 0.0:
        drawn = [
            world.sample_pair(rng) if rng.random() < SHAPE_PAIRS else Scene((world.sample_object(rng),))
            for _ in range(-(-count // 2))
        ]
        recipes += [ShapeRecipe(number, part, views) for number, part in _parts(drawn)]
    return recipes


def _parts(drawn: list) -> list[tuple[int, list]]:
    return [
        (start // SCENES_A_PIECE, drawn[start : start + SCENES_A_PIECE])
        for start in range(0, len(drawn), SCENES_A_PIECE)
    ]


def _chances(recipes: Sequence[Recipe], shares: Shares) -> np.ndarray:
    """The chance of a group of all recipes or of one before it to be drawn; the last is 1."""
    weights = np.array([weight for recipe in recipes for weight in recipe.weights()])
    kinds = np.array([recipe.kind for recipe in recipes for _ in range(recipe.count)])
    share = {"pairs": shares.pairs, "counts": shares.counts, "shapes": shares.shapes}
    share["things"] = 1.0 - sum(share.values())
    for kind, part in share.items():
        chosen = kinds == kind
        if chosen.any():
            weights[chosen] *= part / weights[chosen].sum()
    total = np.cumsum(weights)
    if total.size == 0 or total[-1] <= 0.0:
        raise UserError("the shares and the words of a batch leave nothing to draw")
    return total / total[-1]
