"""View-dependent prompts: tell a prior that knows no cameras from where the object is seen (METHODS 1.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from threedgen.errors import UserError
from threedgen.types import Cameras


@dataclass(frozen=True)
class ViewConvention:
    """Angles in degrees at which the words change, and the words.

    front: |azimuth| below it is the front. back: |azimuth| above it is the back. Between: the side.
    overhead: an elevation above it is overhead, whatever the azimuth. Azimuth 0 sees the front (+Z).
    """

    front: float
    back: float
    overhead: float = 60.0
    words: tuple[str, str, str, str] = (", front view", ", side view", ", back view", ", overhead view")

    def suffix(self, azimuth: float, elevation: float) -> str:
        front, side, back, overhead = self.words
        if elevation > self.overhead:
            return overhead
        turn = abs((azimuth + 180.0) % 360.0 - 180.0)
        if turn < self.front:
            return front
        return back if turn > self.back else side


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


def view_prompts(prompt: str, cameras: Cameras, views: ViewConvention) -> tuple[str, ...]:
    """One prompt a camera: `prompt` with the suffix of the direction it is seen from."""
    from threedgen.cameras import spherical

    azimuth, elevation, _ = spherical(cameras)
    angles = zip(azimuth.tolist(), elevation.tolist(), strict=True)
    return tuple(prompt + views.suffix(a, e) for a, e in angles)


def all_prompts(prompt: str, views: ViewConvention | None) -> Sequence[str]:
    """Every text `view_prompts` can return, so that they are embedded once, before the run."""
    return [prompt] if views is None else [prompt + words for words in views.words]
