"""An asset compared with all things of the world by word: which does it show, in which colour, how well?

Assets and true things are seen from VIEWS cameras on a ring, on which the front of a thing is towards the first. A
word names many things, so an asset is compared with members of each class, drawn at random, the canonical one
first, and with all objects of a catalogue: those of a training, and those that are held out.

The squared distance of two things is that of their premultiplied colours and alphas, over all views. Colours are
those that the paints of the true thing may have: of all that there are, the nearest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedgen.core.pictures import silhouette_iou
from threedgen.core.random import derive_seed
from threedgen.core.types import Cameras
from threedgen.datasets import world
from threedgen.datasets.things.thing_class import COLORS
from threedgen.datasets.things.thing_set import ThingSet, ThingSource
from threedgen.datasets.things.thing_views import class_layers, object_layers
from threedgen.metrics.shape_world import JANUS_DEGREES, distances, ring, worst_turn

VIEWS = 8
SIZE = 64  # pixels, of silhouettes
SMALL = 32  # pixels, of colours
MEMBERS = 8  # of each class, besides the canonical one
_NAMES, _PALETTE = tuple(COLORS), torch.tensor(list(COLORS.values()))


@dataclass(frozen=True)
class Gallery:
    """N true things from VIEWS cameras.

    words: of each. trained: whether a training with the same set may show it, as all but the held-out objects.
    fronts: whether it looks different from all sides. layers: see `world.render_layers`, V pictures of SMALL pixels
    one after the other. alpha: silhouettes. own: the own colours of catalogue objects, NaN for classes.
    """

    words: tuple[str, ...]
    trained: Bool[Tensor, " N"]
    fronts: Bool[Tensor, " N"]
    layers: Float[Tensor, "N P 6"]
    alpha: Int[Tensor, "N V H W"]
    own: Float[Tensor, "N 2 3"]

    def save(self, path: Path) -> None:
        """Writes the gallery into a file."""
        from safetensors.torch import save_file

        tensors = {name: value for name, value in vars(self).items() if name != "words"}
        save_file(tensors, path, {"words": json.dumps(self.words)})

    @classmethod
    def load(cls, path: Path) -> Gallery:
        """The gallery of a file that `save` wrote."""
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            words, names = tuple(json.loads(file.metadata()["words"])), file.keys()
            return cls(words, **{name: file.get_tensor(name) for name in names})


@dataclass(frozen=True)
class ThingScores:
    """Scores of an asset of a word.

    nearest: the word of the nearest of all things, and color, the nearest colour of the main paint of the nearest
    thing of the right word, None if that has no paint. rank: how many words are nearer than the right one.
    iou: of the silhouettes, mean over the views, with the best thing of the word; trained_iou: with the best that
    was trained on; canonical_iou: with the canonical one of the class, None without a class. janus: whether some
    view shows another side than its camera should see; worst_turn: the error of that view in degrees; both are None
    for things without a front.
    """

    nearest: str
    rank: int
    color: str | None
    iou: float
    trained_iou: float
    canonical_iou: float | None
    janus: bool | None
    worst_turn: float | None


def make_gallery(things: ThingSet, progress: Callable[[int, int], None] | None = None) -> Gallery:
    """Renders all things of a set. progress: called with the number of things done and of all."""
    sources: list[tuple[ThingSource, int]] = []
    for word in things.words:
        sources += [(source, member) for source in things.classes(word) for member in range(MEMBERS + 1)]
        sources += [(source, 0) for held in (False, True) for source in things.objects(word, held)]
    cameras = ring(VIEWS, SIZE)
    layers, alphas, own = [], [], []
    for index, (source, member) in enumerate(sources):
        picture, colors = _seen(source, member, cameras)
        alphas.append((picture[..., -1] * 255.0).round().to(torch.uint8))
        layers.append(world.box_filter(picture, SIZE // SMALL).flatten(0, 2).half())
        own.append(colors)
        if progress is not None:
            progress(index + 1, len(sources))
    return Gallery(
        tuple(source.word for source, _ in sources),
        torch.tensor([not source.held_out for source, _ in sources]),
        torch.tensor([source.front for source, _ in sources]),
        torch.stack(layers),
        torch.stack(alphas),
        torch.stack(own),
    )


def _seen(source: ThingSource, member: int, cameras: Cameras) -> tuple[Tensor, Float[Tensor, "2 3"]]:
    if source.item is not None:
        layers, look = object_layers(source, cameras)
        return layers.clamp(0.0, 1.0), look.colors
    rng = np.random.default_rng(derive_seed(0, f"members/{source.name}", member)) if member else None
    return class_layers(source, cameras, rng).clamp(0.0, 1.0), torch.full((2, 3), torch.nan)


class Judge:
    """Scores assets against a gallery."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        self._layers = gallery.layers.float()
        self._products = self._layers.transpose(1, 2) @ self._layers  # [N, 6, 6]
        self._place: dict[str, list[int]] = {}
        for index, word in enumerate(gallery.words):
            self._place.setdefault(word, []).append(index)
        palette, count = _PALETTE, len(_PALETTE)
        pairs = torch.stack(
            [palette[:, None].expand(-1, count, -1), palette[None].expand(count, -1, -1)], dim=2
        ).flatten(0, 1)
        own = torch.where(gallery.own.isnan(), pairs[0], gallery.own)
        # The pairs of paint colours that a thing may have: any two, or its own.
        self._colors = torch.cat([pairs.expand(len(own), -1, -1, -1), own[:, None]], dim=1)

    def distances(self, rgba: Float[Tensor, "V 4 H W"]) -> tuple[Float[Tensor, " N"], Int[Tensor, " N"]]:
        """The squared distance of an asset from each thing at its nearest colours, and which these are.

        rgba: VIEWS premultiplied pictures of SMALL pixels.
        """
        asset = rgba.permute(0, 2, 3, 1).reshape(-1, 4)
        # |sum_p layer_p c_p + fixed - rgb|^2 = sum_pq G_pq c_p c_q - 2 sum_p c_p h_p + |rgb|^2, with the fixed
        # colours as one layer more, whose "colour" is 1.
        cross = self._layers.transpose(1, 2) @ asset  # [N, 6, 4]
        gram, colors = self._products, self._colors
        total = asset.square().sum() + gram[:, 5, 5] - 2.0 * cross[:, 5, 3]
        errors = total[:, None].expand(-1, colors.shape[1]).clone()
        for channel in range(3):
            chosen = [0, 1, 2 + channel]
            g, h = gram[:, chosen][:, :, chosen], cross[:, chosen, channel]
            c = torch.cat([colors[..., channel], torch.ones_like(colors[..., :1, channel])], dim=-1)
            errors += torch.einsum("nkp,npq,nkq->nk", c, g, c) - 2.0 * torch.einsum("nkp,np->nk", c, h)
        return errors.min(dim=1)

    def score(self, rgba: Float[Tensor, "V 4 H W"], word: str) -> ThingScores:
        """Scores an asset of a word. rgba: VIEWS premultiplied pictures of SIZE pixels, of the cameras of
        `ring(VIEWS, SIZE)`. Raises KeyError for a word that the gallery does not have."""
        gallery, members = self.gallery, self._place[word]
        small = world.box_filter(rgba.permute(0, 2, 3, 1), SIZE // SMALL).permute(0, 3, 1, 2)
        errors, colors = self.distances(small)
        nearest = {name: float(errors[place].min()) for name, place in self._place.items()}
        best = members[int(errors[members].argmin())]
        ious = self._ious(rgba[:, 3], members)
        trained = gallery.trained[members]
        turn = self._turn(small, best, int(colors[best])) if bool(gallery.fronts[best]) else None
        return ThingScores(
            nearest=min(nearest, key=nearest.__getitem__),
            rank=sum(error < nearest[word] for error in nearest.values()),
            color=self._color(best, int(colors[best])),
            iou=float(ious.max()),
            trained_iou=float(ious[trained].max()) if bool(trained.any()) else 0.0,
            canonical_iou=float(ious[0]) if bool(gallery.own[members[0]].isnan().all()) else None,
            janus=None if turn is None else turn > JANUS_DEGREES,
            worst_turn=turn,
        )

    def _ious(self, alpha: Float[Tensor, "V H W"], members: Sequence[int]) -> Float[Tensor, " M"]:
        ours = alpha[..., None]
        true = self.gallery.alpha[members].float()[..., None] / 255.0
        return torch.stack([silhouette_iou(ours, one).mean() for one in true])

    def _turn(self, small: Float[Tensor, "V 4 H W"], entry: int, color: int) -> float:
        views = small.permute(0, 2, 3, 1)
        colors = self._colors[entry, color].expand(VIEWS, -1, -1)
        layers = self._layers[entry].view(VIEWS, SMALL, SMALL, -1)
        true = torch.cat([world.compose(layers, colors, torch.zeros(VIEWS, 3)), layers[..., -1:]], dim=-1)
        return worst_turn(distances(views, true), 0)

    def _color(self, entry: int, color: int) -> str | None:
        if float(self._products[entry, 0, 0]) < 1e-3 * float(self._products[entry, 5, 5]):
            return None  # no main paint
        own = color == self._colors.shape[1] - 1
        if not own:
            return _NAMES[color // len(_NAMES)]
        return _NAMES[int((_PALETTE - self.gallery.own[entry, 0]).square().sum(1).argmin())]
