"""Scene files: several assets, the motions of each one after the other, and their places (docs/composing.md)."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from threedgen.core.documents import read_yaml
from threedgen.core.errors import UserError
from threedgen.core.settings import SettingError, above, at_least, finite, settings
from threedgen.recipes import typed
from threedgen.recipes.layers import first_line

Vector = tuple[float, float, float]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")
_ROUNDING = 1e-6  # of sums of seconds


@settings
class Segment:
    """One motion of an asset.

    Attributes:
        prompt: The motion, such as "spinning".
        seconds (seconds): Length of the motion.
        overlap (seconds): Time at its start in which the motion before still runs; by default half of the shorter
            of the two.
    """

    prompt: str
    seconds: Annotated[float, above(0.0)] = 2.0
    overlap: Annotated[float | None, above(0.0)] = None

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise UserError("the prompt of a motion is empty: name a motion, for example 'spinning'")


@settings
class Key:
    """A point of a path. What it does not set is as the asset has it.

    Attributes:
        time (seconds): Time of the scene at which the asset is there.
        at (world units): Place of the asset.
        turn (degrees): Turn about the axis of the asset.
        scale: Size of the asset, as a multiple of its own.
    """

    time: Annotated[float, finite]
    at: Annotated[Vector | None, finite] = None
    turn: Annotated[float | None, finite] = None
    scale: Annotated[float | None, above(0.0)] = None


@settings
class Route:
    """The way of an asset. Before the first point and after the last it stands still.

    Attributes:
        points: Points of the path in the order of their times.
        kind: smooth has no corners and never goes beyond its points; linear moves evenly from point to point.
    """

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


@settings
class Asset:
    """One asset of a scene.

    Attributes:
        name: Name of its folder: letters, digits, - and _.
        prompt: Description of the asset; a run makes it unless `asset` names one that exists.
        asset: A finished run, a file of Gaussians or a mesh file; relative paths start at the folder of the scene
            file.
        at (world units): Place of the asset.
        turn (degrees): Turn about `axis`.
        axis: Axis of the turn; 0 1 0 is up.
        scale: Size of the asset, as a multiple of its own.
        path: The way that it goes; without one it stays at its place.
        motion: Its motions, one after the other.
        begin (seconds): Time of the scene at which its first motion begins.
        loop (seconds): Time at the end of its last motion in which it comes back to rest, after which its motions
            begin again; with 0 they run once and it stays as it is then.
    """

    name: str
    prompt: str = ""
    asset: str | None = None
    at: Annotated[Vector, finite] = (0.0, 0.0, 0.0)
    turn: Annotated[float, finite] = 0.0
    axis: Annotated[Vector, finite] = (0.0, 1.0, 0.0)
    scale: Annotated[float, above(0.0)] = 1.0
    path: Route | None = None
    motion: tuple[Segment, ...] = ()
    begin: Annotated[float, at_least(0.0)] = 0.0
    loop: Annotated[float, at_least(0.0)] = 0.0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UserError(
                f"the name '{self.name}' cannot be the name of a folder: use at most 60 letters, digits, - and _"
            )
        if self.asset is None and not self.prompt.strip():
            raise UserError(f"'{self.name}' has neither a prompt nor an asset: give it one of them")
        if not any(self.axis):
            raise SettingError("axis", "is 0 0 0, which has no direction; 0 1 0 is up")
        self._check_overlaps()

    def _check_overlaps(self) -> None:
        if self.motion and self.motion[0].overlap is not None:
            raise UserError(
                f"the first motion of '{self.name}' cannot have an overlap: no motion runs before it"
            )
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
                    f"'{one.prompt}' lasts {one.seconds:g} seconds, but its overlaps with the motions around it "
                    f"last {first:g} and {second:g}: they must not overlap each other"
                )
        left = self.motion[-1].seconds - self.overlaps[-1] if self.motion else 0.0
        if self.loop > left + _ROUNDING:
            raise SettingError(
                "loop",
                f"is {self.loop:g}; it must be at most the {left:g} seconds in which the last motion of "
                f"'{self.name}' runs alone",
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
        """Seconds after `begin` at which each motion begins."""
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


@settings
class SceneFile:
    """Several assets and what they do.

    Attributes:
        assets: The assets of the scene.
        seconds (seconds): Length of the scene; by default until everything has moved.
        fps (frames per second): Frame rate of the files.
        loop (seconds): Time at the end of the scene in which everything comes back to where it began; 0 does not
            loop.
    """

    assets: tuple[Asset, ...]
    seconds: Annotated[float | None, above(0.0)] = None
    fps: Annotated[float, above(0.0)] = 24.0
    loop: Annotated[float, at_least(0.0)] = 0.0

    def __post_init__(self) -> None:
        if not self.assets:
            raise UserError("the scene has no assets: give it at least one")
        names = [asset.name.lower() for asset in self.assets]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"two assets are called '{name}': give each a name of its own")
        if not self.length:
            raise UserError("nothing moves in the scene: set seconds to its length")
        for asset in self.assets:
            if asset.path is not None and not 0.0 <= asset.path.points[0].time <= self.length:
                raise UserError(
                    f"the path of '{asset.name}' begins at {asset.path.points[0].time:g} seconds, but the scene "
                    f"lasts from 0 to {self.length:g}"
                )
            if asset.ends > self.length + _ROUNDING:
                raise UserError(
                    f"'{asset.name}' moves until {asset.ends:g} seconds, but the scene ends at {self.length:g}: "
                    "raise seconds or shorten it"
                )
        if self.loop > self.length:
            raise SettingError(
                "loop", f"is {self.loop:g}; it must be at most the {self.length:g} seconds of the scene"
            )
        from threedgen.export.animation import Timing

        Timing(self.length, self.fps)

    @property
    def length(self) -> float:
        """Seconds of the scene."""
        return self.seconds or max(asset.ends for asset in self.assets)


def read_scene(path: Path) -> SceneFile:
    """The scene of a YAML file; the paths of its assets, which are relative to the file's folder, are made
    absolute.

    Raises UserError for a file that holds no scene, for unknown keys, and for impossible values.
    """
    try:
        values = read_yaml(path)
    except OSError as error:
        raise UserError(f"cannot read the scene '{path}': {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"'{path}' is not a YAML file: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"'{path}' is not a scene file: expected keys and values, among them 'assets'")
    scene = typed.build(SceneFile, values, "")
    folder = path.absolute().parent
    assets = (
        asset if asset.asset is None else replace(asset, asset=str(folder / Path(asset.asset).expanduser()))
        for asset in scene.assets
    )
    return replace(scene, assets=tuple(assets))
