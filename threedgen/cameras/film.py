"""The view that a film was taken from, rendered beside the usual ones at some of the film's moments.

`Cameras.index` says which: the number of the film's picture for views of it, -1 for the others (see
`threedgen.cameras.reference`). Picture 0, which shows what moves at rest, is among them in every step: guidances
lay the film over the render by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from threedgen.cameras.clips import ClipSampler
from threedgen.cameras.orbit import OrbitSampler, joined
from threedgen.cameras.reference import ReferencePose, cameras_of
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.schedule import bounds
from threedgen.core.types import Cameras

STREAM = "film"


@dataclass(frozen=True)
class FilmPose(ReferencePose):
    """Where a film was taken from, see ReferencePose; from as far as clips are, because what moves needs room."""

    distance: float = 4.9


def require_pictures(pictures: int, shown: int) -> None:
    """UserError for numbers of pictures, in all and a step, that no film can have."""
    if pictures < 2:
        raise UserError(f"cameras.pictures is {pictures}: a film has at least 2")
    if shown < 1:
        raise UserError(f"cameras.shown is {shown}: a step compares at least 1 picture")


def film_views(pose: ReferencePose, numbers: Sequence[int], pictures: int, size: int) -> Cameras:
    """The film's view at the moments of some of its pictures, the first at time 0 and the last at time 1."""
    still = cameras_of([pose], size)[torch.zeros(len(numbers), dtype=torch.long)]
    index = torch.tensor(list(numbers))
    return replace(still, time=index / (pictures - 1), index=index)


def beside(free: Cameras, film: Cameras) -> Cameras:
    """Views of no picture, `index` -1, and after them those of a film."""
    assert film.index is not None
    return replace(joined([free, film]), index=torch.cat([torch.full((len(free),), -1), film.index]))


class _Filmed:
    """What both samplers below say of their film."""

    config: FilmedClips.Config | FilmedOrbit.Config

    def filmed(self, size: int | None = None) -> Cameras:
        """The views of all pictures alone, size x size pixels; None: the largest resolution of a run."""
        config = self.config
        size = round(bounds(config.resolution)[1]) if size is None else size
        return film_views(config.film, range(config.pictures), config.pictures, size)


class FilmedClips(_Filmed, ClipSampler):
    """Training clips, and after them the film's view: its first picture, and `shown` others."""

    @dataclass(frozen=True)
    class Config(ClipSampler.Config):
        """See ClipSampler.Config; `batch` does not count the film. film: where it was taken from. pictures: of the
        film that the guidance has, at equal distances in time. shown: of them a step, beside the first."""

        film: FilmPose = field(default_factory=FilmPose)
        pictures: int = 2
        shown: int = 4

        def __post_init__(self) -> None:
            super().__post_init__()
            require_pictures(self.pictures, self.shown)

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)

    def __call__(self, seed: int, step: int, total: int) -> Cameras:
        """batch * frames + 1 + shown views (fewer of a shorter film), a function of the arguments alone."""
        config = self.config
        free = super().__call__(seed, step, total)
        others = torch.randperm(config.pictures - 1, generator=generator(seed, STREAM, step))[: config.shown]
        numbers = [0, *sorted((others + 1).tolist())]
        return beside(free, film_views(config.film, numbers, config.pictures, free.height))


class FilmedOrbit(_Filmed, OrbitSampler):
    """Views from all around of one moment of the film a step, and after them the film's own of its first picture
    and of that moment's: what a prior that turns pictures can be asked about (DreamGaussian4D, Ren et al. 2023)."""

    @dataclass(frozen=True)
    class Config(OrbitSampler.Config):
        """See OrbitSampler.Config; `batch` does not count the film. film, pictures: as of FilmedClips."""

        film: FilmPose = field(default_factory=FilmPose)
        pictures: int = 2

        def __post_init__(self) -> None:
            require_pictures(self.pictures, 1)

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)

    def __call__(self, seed: int, step: int, total: int) -> Cameras:
        """batch + 2 views (one fewer at the film's first picture), a function of the arguments alone."""
        config = self.config
        free = super().__call__(seed, step, total)
        number = int(torch.randint(config.pictures, (), generator=generator(seed, STREAM, step)))
        film = film_views(config.film, sorted({0, number}), config.pictures, free.height)
        return beside(replace(free, time=film.time[-1].expand(len(free))), film)
