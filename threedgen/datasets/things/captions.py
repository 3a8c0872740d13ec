"""Captions of things: what it is, in which colours, of which material."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache as once

import numpy as np
import torch

from threedgen.datasets.painted_mesh import PaintedMesh
from threedgen.datasets.things.catalogue import Words, bare_words
from threedgen.datasets.things.painted_layers import Paints, coats, visible
from threedgen.datasets.things.thing_class import COLORS

FIRST, SECOND = 0.3, 0.25  # share of the visible area above which a first and a second colour are named
_NEARLY_ONE = (
    14.0  # CIELAB units: a coat whose colours are within this of their mean, on average, has one colour
)
_COLOR, _SECOND, _MATERIAL, _USUAL = 0.7, 0.7, 0.5, 0.7  # how often a caption has each of them if it may

# More colours, display-referred, that have a name of COLORS: dark and pale ones are far from the one in COLORS.
_SHADES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "red": ((0.55, 0.05, 0.08), (0.95, 0.25, 0.22), (0.36, 0.03, 0.05), (0.70, 0.30, 0.28)),
    "orange": ((0.98, 0.62, 0.25), (0.85, 0.40, 0.08)),
    "yellow": (
        (0.98, 0.93, 0.45),
        (0.82, 0.72, 0.12),
        (1.0, 1.0, 0.1),
        (0.80, 0.70, 0.35),
        (0.64, 0.53, 0.22),
    ),
    "green": (
        (0.08, 0.28, 0.10),
        (0.45, 0.75, 0.20),
        (0.60, 0.85, 0.50),
        (0.38, 0.45, 0.18),
        (0.20, 0.80, 0.20),
        (0.05, 0.16, 0.06),
        (0.06, 0.17, 0.13),
        (0.20, 0.42, 0.36),
        (0.22, 0.28, 0.20),
        (0.62, 0.72, 0.58),
        (0.60, 0.62, 0.32),
        (0.44, 0.48, 0.20),
    ),
    "cyan": ((0.45, 0.88, 0.90), (0.10, 0.55, 0.58), (0.62, 0.82, 0.84), (0.35, 0.56, 0.58)),
    "blue": (
        (0.06, 0.10, 0.35),
        (0.30, 0.50, 0.90),
        (0.55, 0.70, 0.92),
        (0.10, 0.10, 0.95),
        (0.20, 0.30, 0.45),
        (0.45, 0.55, 0.72),
        (0.08, 0.10, 0.20),
    ),
    "purple": ((0.30, 0.10, 0.42), (0.70, 0.45, 0.85), (0.16, 0.04, 0.20)),
    "pink": ((0.92, 0.25, 0.55), (0.98, 0.78, 0.84), (0.85, 0.45, 0.55)),
    "brown": (
        (0.28, 0.16, 0.08),
        (0.58, 0.36, 0.18),
        (0.45, 0.22, 0.12),
        (0.62, 0.44, 0.28),
        (0.35, 0.28, 0.20),
    ),
    "beige": ((0.92, 0.86, 0.72), (0.76, 0.64, 0.46), (0.72, 0.66, 0.55), (0.90, 0.76, 0.58)),
    "white": ((1.0, 1.0, 1.0), (0.82, 0.82, 0.82), (0.95, 0.94, 0.88)),
    "gray": ((0.40, 0.40, 0.40), (0.66, 0.66, 0.66), (0.27, 0.27, 0.27)),
    "black": ((0.0, 0.0, 0.0), (0.16, 0.16, 0.16)),
}


@dataclass(frozen=True)
class Palette:
    """The colours that are seen of an object, as shares of its visible area.

    fixed: the share of each name of COLORS in what is no paint. own: the names of the own colours of the two
    paints, None for a paint that the object does not have. shares: of the two paints.
    """

    fixed: Mapping[str, float]
    own: tuple[str | None, str | None]
    shares: tuple[float, float]

    def dominant(self, first: str | None = None, second: str | None = None) -> tuple[str, ...]:
        """The colours to name, the greatest share first: none if no colour covers more than FIRST, else one, and
        the next if it covers more than SECOND.

        first, second: the names of the colours that the paints have instead of their own.
        """
        total = dict(self.fixed)
        for name, share in zip((first or self.own[0], second or self.own[1]), self.shares, strict=True):
            if name is not None:
                total[name] = total.get(name, 0.0) + share
        order = sorted(total, key=lambda name: -total[name])
        if not order or total[order[0]] <= FIRST:
            return ()
        return tuple(order[:1] + [name for name in order[1:2] if total[name] > SECOND])


def palette(painted: PaintedMesh, paints: Paints) -> Palette:
    """The colours of an object without light, by what 8 pictures from around show of it.

    A texture that is nearly one colour, such as wood, counts as its mean; of others each point is named alone.
    """
    seen = visible(painted)
    coat = coats(painted)[seen.face]
    count = int(coat.max()) + 1 if len(coat) else 0
    area = torch.zeros(count).index_add_(0, coat, seen.weight).clamp_min(1e-9)
    mean = torch.zeros(count, 3).index_add_(0, coat, seen.color * seen.weight[:, None]) / area[:, None]
    far = np.linalg.norm(_lab(seen.color.numpy()) - _lab(mean.numpy())[coat.numpy()], axis=1)
    apart = torch.zeros(count).index_add_(0, coat, torch.from_numpy(far).float() * seen.weight) / area
    color = torch.where((apart < _NEARLY_ONE)[coat, None], mean[coat], seen.color)
    fixed = paints.owner[seen.face] < 0
    names = color_names(color[fixed].numpy())
    weights = seen.weight[fixed].tolist()
    shares: dict[str, float] = {}
    for name, weight in zip(names, weights, strict=True):
        shares[name] = shares.get(name, 0.0) + weight
    first, second = color_names(paints.colors.numpy())
    return Palette(
        shares,
        (first if paints.shares[0] > 0.0 else None, second if paints.shares[1] > 0.0 else None),
        paints.shares,
    )


def color_names(colors: np.ndarray) -> list[str]:
    """The names of COLORS that are nearest to display-referred colours [n, 3], by distance in CIELAB."""
    names, known = _known()
    found = np.empty(len(colors), dtype=np.int64)
    for start in range(0, len(colors), 4096):
        part = _lab(colors[start : start + 4096])
        found[start : start + 4096] = np.linalg.norm(part[:, None] - known[None], axis=2).argmin(axis=1)
    return [names[index] for index in found]


def caption(words: Words, colors: Sequence[str], rng: np.random.Generator) -> str:
    """One of the wordings of an object, such as "a red and white fire hydrant" or "a wooden chair".

    colors: what `Palette.dominant` gives, of which none, one or two are named. The first of its words is drawn most
    often.
    """
    usual = len(words.words) == 1 or rng.random() < _USUAL
    word = words.words[0] if usual else words.words[1 + rng.integers(len(words.words) - 1)]
    named: list[str] = []
    if words.colored and colors and rng.random() < _COLOR:
        named = list(colors[: 2 if rng.random() < _SECOND else 1])
    material = words.material is not None and words.material not in word and rng.random() < _MATERIAL
    return phrase(word, named, words.material if material else None)


def phrase(word: str, colors: Sequence[str] = (), material: str | None = None) -> str:
    """A word with its article, and what is given of colours and material: "a red and white wooden chair"."""
    parts = [*([" and ".join(colors)] if colors else []), *([material] if material else []), word]
    text = " ".join(parts)
    return text if word in bare_words() else f"{article(text)} {text}"


def article(text: str) -> str:
    """The article before a text: "an" before the sound of a vowel."""
    first = text.split(" ")[0]
    spelled = first in ("suv", "mp3")  # spelled out, letter by letter: "an ess-you-vee"
    sounds = first[0] in "aeiou" and not first.startswith(("uni", "uri", "use", "uten", "eu", "one"))
    return "an" if sounds or spelled else "a"


@once
def _known() -> tuple[list[str], np.ndarray]:
    pairs = [(name, color) for name in COLORS for color in (COLORS[name], *_SHADES.get(name, ()))]
    return [name for name, _ in pairs], _lab(np.array([color for _, color in pairs]))


def _lab(colors: np.ndarray) -> np.ndarray:
    from skimage.color import rgb2lab

    return rgb2lab(np.asarray(colors, dtype=np.float64).reshape(-1, 1, 3)).reshape(-1, 3)
