"""Scene files: several assets, what each does one motion after the other, and where (docs/composing.md)."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from threedgen.core.errors import UserError
from threedgen.recipes import typed
from threedgen.recipes.layers import first_line

Vector = tuple[float, float, float]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")
_ROUNDING = 1e-6  # of sums of seconds


@dataclass(frozen=True)
class Segment:
    """One motion. prompt: what the asset does. seconds: how long. overlap: seconds of it in which the motion before
    still runs; None: half of the shorter of the two."""

    prompt: str
    seconds: float = 2.0
    overlap: float | None = None

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise UserError("the prompt is empty: say a motion, for example 'spinning'")
        _positive("seconds", self.seconds)
        if self.overlap is not None:
            _positive("overlap", self.overlap)


@dataclass(frozen=True)
class Key:
    """A point of a path. time: seconds of the scene. at, turn, scale: as of the asset, whose own they are where
    nothing is said."""

    time: float
    at: Vector | None = None
    turn: float | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        _finite("time", (self.time,))
        _check_place(self.at or (0.0,), self.turn or 0.0, 1.0 if self.scale is None else self.scale)


@dataclass(frozen=True)
class Route:
    """Where an asset goes. kind: smooth (no corners, and never beyond its points) or linear. Before the first point
    and after the last it stands still."""

    points: tuple[Key, ...]
    kind: Literal["smooth", "linear"] = "smooth"

    def __post_init__(self) -> None:
        times = [key.time for key in self.points]
        if not times:
            raise UserError("the path has no points: give it some or leave it out")
        if any(after <= before for before, after in itertools.pairwise(times)):
            raise UserError(
                f"the times of the path must rise, got {', '.join(f'{time:g}' for time in times)}"
            )


@dataclass(frozen=True)
class Asset:
    """name: of its folder. prompt: what it is; a run makes it unless `asset` names what is there, a run, a .ply
    with Gaussians or a mesh file (relative paths are from the scene file's folder).

    at: its place in world units, turn: degrees about `axis` (up), scale: its size, of its own. path: where it goes.
    motion: what it does, one after the other, from `begin` seconds on. loop: seconds at the end of the last motion
    in which it comes back to rest, after which all begins again; 0: it does so once and stays as it is then.
    """

    name: str
    prompt: str = ""
    asset: str | None = None
    at: Vector = (0.0, 0.0, 0.0)
    turn: float = 0.0
    axis: Vector = (0.0, 1.0, 0.0)
    scale: float = 1.0
    path: Route | None = None
    motion: tuple[Segment, ...] = ()
    begin: float = 0.0
    loop: float = 0.0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UserError(
                f"the name '{self.name}' makes no folder: use letters, digits, - and _, at most 60, no others"
            )
        if self.asset is None and not self.prompt.strip():
            raise UserError(f"'{self.name}' is nothing yet: say its prompt, or name its asset")
        _check_place(self.at, self.turn, self.scale)
        _finite("axis", self.axis)
        if not any(self.axis):
            raise UserError("axis has no direction: 0 1 0 is up")
        if not 0.0 <= self.begin < math.inf:
            raise UserError(f"begin is {self.begin:g}: give seconds from 0 on")
        self._check_overlaps()

    def _check_overlaps(self) -> None:
        if self.motion and self.motion[0].overlap is not None:
            raise UserError(f"the first motion of '{self.name}' has none before it to overlap with")
        for before, after, common in zip(self.motion, self.motion[1:], self.overlaps[1:], strict=False):
            shorter = min((before, after), key=lambda one: one.seconds)
            if common > shorter.seconds + _ROUNDING:
                raise UserError(
                    f"the overlap of {common:g} seconds between '{before.prompt}' and '{after.prompt}' is longer "
                    f"than '{shorter.prompt}', {shorter.seconds:g} seconds: shorten it"
                )
        for one, first, second in zip(self.motion, self.overlaps, self.overlaps[1:], strict=False):
            if first + second > one.seconds + _ROUNDING:
                raise UserError(
                    f"'{one.prompt}' lasts {one.seconds:g} seconds, its overlaps with the motions around it "
                    f"{first:g} and {second:g}: they must not overlap each other"
                )
        left = self.motion[-1].seconds - self.overlaps[-1] if self.motion else 0.0
        if not 0.0 <= self.loop <= left + _ROUNDING:
            raise UserError(
                f"loop is {self.loop:g}: it must be between 0 and the {left:g} seconds that the last motion of "
                f"'{self.name}' has to itself"
            )

    @property
    def overlaps(self) -> tuple[float, ...]:
        """Seconds that each motion has in common with the one before; 0 for the first."""
        pairs = itertools.pairwise(self.motion)
        shared = (
            0.5 * min(before.seconds, after.seconds) if after.overlap is None else after.overlap
            for before, after in pairs
        )
        return (0.0, *shared)[: len(self.motion)]

    @property
    def starts(self) -> tuple[float, ...]:
        """Seconds after `begin` when each motion sets in."""
        steps = [one.seconds - common for one, common in zip(self.motion, self.overlaps[1:], strict=False)]
        return tuple(itertools.accumulate(steps, initial=0.0))[: len(self.motion)]

    @property
    def lasts(self) -> float:
        """Seconds of all motions, one handing over to the next."""
        return self.starts[-1] + self.motion[-1].seconds if self.motion else 0.0

    @property
    def ends(self) -> float:
        """The second of the scene after which nothing of it moves (but for a loop's)."""
        return max(
            self.begin + self.lasts if self.motion else 0.0, self.path.points[-1].time if self.path else 0.0
        )


@dataclass(frozen=True)
class Scene:
    """seconds: how long; None: until everything has moved. fps: frames a second of the files. loop: seconds at its
    end in which everything comes back to where and how it began; 0: it is no loop."""

    assets: tuple[Asset, ...]
    seconds: float | None = None
    fps: float = 24.0
    loop: float = 0.0

    def __post_init__(self) -> None:
        if not self.assets:
            raise UserError("the scene has no assets: give it at least one")
        names = [asset.name.lower() for asset in self.assets]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"two assets are called '{name}': give each a name of its own")
        if self.seconds is not None:
            _positive("seconds", self.seconds)
        if not self.length:
            raise UserError("nothing moves: set seconds, how long the scene lasts")
        for asset in self.assets:
            if asset.path is not None and not 0.0 <= asset.path.points[0].time <= self.length:
                raise UserError(
                    f"the path of '{asset.name}' begins at {asset.path.points[0].time:g} seconds, outside of the "
                    f"scene's 0 to {self.length:g}"
                )
            if asset.ends > self.length + _ROUNDING:
                raise UserError(
                    f"'{asset.name}' moves until {asset.ends:g} seconds, but the scene ends at {self.length:g}: "
                    "raise seconds or shorten it"
                )
        if not 0.0 <= self.loop <= self.length:
            raise UserError(f"loop is {self.loop:g}: give seconds, at most the scene's {self.length:g}")
        from threedgen.export.animation import Timing

        Timing(self.length, self.fps)

    @property
    def length(self) -> float:
        """Seconds of the scene."""
        return self.seconds or max(asset.ends for asset in self.assets)


def read_scene(path: Path) -> Scene:
    """The scene of a YAML file; its assets' paths, which are relative to the file's folder, are made absolute.

    Raises UserError for a file that is no scene, unknown keys, and all that cannot be.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the scene '{path}': {error.strerror or error}") from error
    except (ValueError, yaml.YAMLError) as error:  # a ValueError: text that is not UTF-8
        raise UserError(f"'{path}' is no YAML file: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"'{path}' is no scene: expected keys and values, 'assets' among them")
    scene = typed.build(Scene, values, "")
    folder = path.absolute().parent
    assets = (
        asset if asset.asset is None else replace(asset, asset=str(folder / Path(asset.asset).expanduser()))
        for asset in scene.assets
    )
    return replace(scene, assets=tuple(assets))


def _check_place(at: Sequence[float], turn: float, scale: float) -> None:
    _finite("at", at)
    _finite("turn", (turn,))
    _positive("scale", scale)


def _positive(name: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise UserError(f"{name} is {value:g}; it must be positive")


def _finite(name: str, values: Sequence[float]) -> None:
    if not all(math.isfinite(value) for value in values):
        raise UserError(f"{name} must be finite numbers, got {list(values)}")
