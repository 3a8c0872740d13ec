"""View-dependent prompts: tell a prior that knows no cameras from where the object is seen (METHODS 1.4, 1.11)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from threedgen.core.errors import UserError
from threedgen.core.types import Cameras
from threedgen.guidance.priors.base import Blend, Text

SIDES = ("front", "side", "back", "overhead")

Opposed = tuple[tuple[Text, float], ...]


@dataclass(frozen=True)
class ViewTexts:
    """What a prior is told when it sees the object from each side."""

    front: str
    side: str
    back: str
    overhead: str

    def all(self) -> tuple[str, ...]:
        """The four texts, in the order of SIDES."""
        return self.front, self.side, self.back, self.overhead


@dataclass(frozen=True)
class ViewConvention:
    """Angles in degrees at which the words change, and the words in the order of SIDES.

    front: |azimuth| below it is the front. back: |azimuth| above it is the back. Between: the side.
    overhead: an elevation above it is overhead, whatever the azimuth. Azimuth 0 sees the front (+Z).
    """

    front: float
    back: float
    overhead: float = 60.0
    words: tuple[str, str, str, str] = (", front view", ", side view", ", back view", ", overhead view")

    def side(self, azimuth: float, elevation: float) -> str:
        """Which of SIDES a camera sees."""
        if elevation > self.overhead:
            return "overhead"
        turn = turned_away(azimuth)
        if turn < self.front:
            return "front"
        return "back" if turn > self.back else "side"

    def texts(self, prompts: Mapping[str, str]) -> ViewTexts:
        """The prompt for each of SIDES with that side's words behind it."""
        return ViewTexts(*(prompts[side] + words for side, words in zip(SIDES, self.words, strict=True)))


# Thresholds of the implementations named; the first is DreamFusion's as threestudio has it.
CONVENTIONS = {
    "dreamfusion": ViewConvention(front=45.0, back=135.0),
    "mvdream": ViewConvention(front=30.0, back=150.0),
    "dreamgaussian": ViewConvention(front=60.0, back=120.0),
}


def convention(name: str) -> ViewConvention:
    """The named convention; UserError lists the names when it is unknown."""
    if name not in CONVENTIONS:
        raise UserError(f"unknown view prompt convention '{name}': use one of {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


def turned_away(azimuth: float) -> float:
    """Degrees between a camera and the front, in [0, 180]: the same to the left and to the right."""
    return abs((azimuth + 180.0) % 360.0 - 180.0)


def view_prompts(texts: ViewTexts, cameras: Cameras, views: ViewConvention) -> tuple[str, ...]:
    """One text a camera: that of the side it sees."""
    return tuple(getattr(texts, views.side(a, e)) for a, e in _angles(cameras))


def interpolated_prompts(texts: ViewTexts, cameras: Cameras, views: ViewConvention) -> tuple[Text, ...]:
    """One text a camera, a mixture of the two sides it lies between: front at 0, side at 90, back at 180 degrees.

    The rule of threestudio's Perp-Neg (METHODS 1.11). Of `views` only the overhead angle counts: above it the
    text is the overhead one.
    """

    def text(azimuth: float, elevation: float) -> Text:
        if elevation > views.overhead:
            return texts.overhead
        near, far, share = _between(texts, turned_away(azimuth))
        return near if share == 1.0 else Blend((near, far), (share, 1.0 - share))

    return tuple(text(a, e) for a, e in _angles(cameras))


def perpendicular_negatives(
    texts: ViewTexts, cameras: Cameras, views: ViewConvention, factor: float
) -> tuple[Opposed, ...]:
    """What Perp-Neg pushes each view away from: the front's and the side's text with a weight <= 0.

    Armandpour et al. 2023, with threestudio's numbers (METHODS 1.11): f(r) = a exp(-b r) + c. In front of the
    object the side is the enemy, and behind it the front, which is what fights a second face there. Seen from
    overhead both weights are 0. factor >= 0 scales all weights.
    """

    def weights(azimuth: float, elevation: float) -> tuple[float, float]:
        if elevation > views.overhead:
            return 0.0, 0.0
        turn = turned_away(azimuth) / 90.0
        if turn < 1.0:
            return _decay(_FRONT_SIDE, 1.0 - turn), _decay(_FRONT_SIDE, turn)
        return _decay(_FRONT_BACK, 2.0 - turn), _decay(_SIDE_BACK, 2.0 - turn)

    def opposed(azimuth: float, elevation: float) -> Opposed:
        front, side = weights(azimuth, elevation)
        return (texts.front, -factor * front), (texts.side, -factor * side)

    return tuple(opposed(a, e) for a, e in _angles(cameras))


# (a, b, c) of f(r): the front and the side against what lies between them, and the side and the front against
# what lies between side and back.
_FRONT_SIDE = (4.0, 0.5, -2.426)
_SIDE_BACK = (1.0, 0.5, -0.606)
_FRONT_BACK = (1.0, 0.5, 0.967)


def _decay(numbers: tuple[float, float, float], r: float) -> float:
    a, b, c = numbers
    return a * math.exp(-b * r) + c


def _between(texts: ViewTexts, turn: float) -> tuple[str, str, float]:
    """The two texts that a view turned away by `turn` degrees lies between, and the first one's share."""
    if turn < 90.0:
        return texts.front, texts.side, 1.0 - turn / 90.0
    return texts.side, texts.back, 2.0 - turn / 90.0


def _angles(cameras: Cameras) -> list[tuple[float, float]]:
    from threedgen.cameras.orbit import spherical

    azimuth, elevation, _ = spherical(cameras)
    return list(zip(azimuth.tolist(), elevation.tolist(), strict=True))
