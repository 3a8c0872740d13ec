"""View-dependent prompts, for priors that receive no cameras (DreamFusion, Poole et al. 2022, arXiv:2209.14988),
and Perp-Neg (Armandpour et al. 2023, arXiv:2304.04968)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from threedgen.core.errors import UserError
from threedgen.core.transfer import on_cpu
from threedgen.core.types import Cameras
from threedgen.guidance.priors.base import Blend, Text

SIDES = ("front", "side", "back", "overhead")

Opposed = tuple[tuple[Text, float], ...]


@dataclass(frozen=True)
class ViewTexts:
    """The text for each side of an object."""

    front: str
    side: str
    back: str
    overhead: str

    def all(self) -> tuple[str, ...]:
        """The four texts, in the order of SIDES."""
        return self.front, self.side, self.back, self.overhead


@dataclass(frozen=True)
class ViewConvention:
    """The angles, in degrees, at which the words change, and the words in the order of SIDES.

    front: an |azimuth| below it is the front. back: an |azimuth| above it is the back; between both is the side.
    overhead: an elevation above it is overhead at every azimuth. A camera at azimuth 0 sees the front (+Z).
    """

    front: float
    back: float
    overhead: float = 60.0
    words: tuple[str, str, str, str] = (", front view", ", side view", ", back view", ", overhead view")

    def side(self, azimuth: float, elevation: float) -> str:
        """The one of SIDES that a camera sees."""
        if elevation > self.overhead:
            return "overhead"
        turn = turned_away(azimuth)
        if turn < self.front:
            return "front"
        return "back" if turn > self.back else "side"

    def texts(self, prompts: Mapping[str, str]) -> ViewTexts:
        """The prompt for each of SIDES, followed by the words for that side."""
        return ViewTexts(*(prompts[side] + words for side, words in zip(SIDES, self.words, strict=True)))


# Thresholds of the named implementations; the first is that of DreamFusion in threestudio.
CONVENTIONS = {
    "dreamfusion": ViewConvention(front=45.0, back=135.0),
    "mvdream": ViewConvention(front=30.0, back=150.0),
    "dreamgaussian": ViewConvention(front=60.0, back=120.0),
}


def convention(name: str) -> ViewConvention:
    """The named convention. Raises UserError, which lists the names, for any other."""
    if name not in CONVENTIONS:
        raise UserError(f"unknown view prompt convention '{name}': use one of {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


def turned_away(azimuth: float) -> float:
    """Degrees between a camera and the front, in [0, 180]: the same to the left and to the right."""
    return abs((azimuth + 180.0) % 360.0 - 180.0)


def view_prompts(texts: ViewTexts, cameras: Cameras, views: ViewConvention) -> tuple[str, ...]:
    """The text of each camera: that of the side it sees."""
    return tuple(getattr(texts, views.side(a, e)) for a, e in _angles(cameras))


def interpolated_prompts(texts: ViewTexts, cameras: Cameras, views: ViewConvention) -> tuple[Text, ...]:
    """The text of each camera, a mixture of the texts of the two sides next to it, with the front at 0, the side
    at 90 and the back at 180 degrees.

    The rule of Perp-Neg in threestudio. Of `views` only the overhead angle is used: above it the text is that for
    overhead.
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
    """The texts that Perp-Neg pushes each view away from: those of front and side, each with a weight <= 0.

    Armandpour et al. 2023, with the numbers of threestudio: f(r) = a exp(-b r) + c. Cameras in front of the object
    are pushed mostly away from the side, and cameras behind it from the front, which prevents a second face there.
    From overhead both weights are 0. factor: >= 0, on all weights.
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


# (a, b, c) of f(r): front and side for views between front and side; side and front for views between side and
# back.
_FRONT_SIDE = (4.0, 0.5, -2.426)
_SIDE_BACK = (1.0, 0.5, -0.606)
_FRONT_BACK = (1.0, 0.5, 0.967)


def _decay(numbers: tuple[float, float, float], r: float) -> float:
    a, b, c = numbers
    return a * math.exp(-b * r) + c


def _between(texts: ViewTexts, turn: float) -> tuple[str, str, float]:
    """The two texts next to a view that is turned away by `turn` degrees, and the share of the first."""
    if turn < 90.0:
        return texts.front, texts.side, 1.0 - turn / 90.0
    return texts.side, texts.back, 2.0 - turn / 90.0


def _angles(cameras: Cameras) -> list[tuple[float, float]]:
    from threedgen.cameras.orbit import spherical

    azimuth, elevation, _ = spherical(replace(cameras, world_from_camera=on_cpu(cameras.world_from_camera)))
    return list(zip(azimuth.tolist(), elevation.tolist(), strict=True))
