"""The view from which a film was taken, rendered together with the usual views at some of the film's moments.

`Cameras.index` marks these views: it is the number of the film's picture that shows the view, and -1 for the others
(see `threedgen.cameras.reference`). Picture 0, which shows the object at rest, is among them in every step, because
guidances align the film with the render by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from typing import Annotated

import torch

from threedgen.cameras.clips import ClipSampler
from threedgen.cameras.orbit import OrbitSampler, joined
from threedgen.cameras.reference import ReferencePose, cameras_of
from threedgen.core.random import generator
from threedgen.core.schedule import bounds
from threedgen.core.settings import above, at_least, settings
from threedgen.core.types import Cameras

STREAM = "film"


@settings
class FilmPose(ReferencePose):
    """The pose of the camera that took a film, as far away as those of clips."""

    distance: Annotated[float, above(1.0)] = 4.9


def film_views(pose: ReferencePose, numbers: Sequence[int], pictures: int, size: int) -> Cameras:
    """The film's view at the moments of some of its pictures.

    numbers: those of the pictures. pictures: how many the film has; the first is at time 0 and the last at time 1.
    size: width and height in pixels.
    """
    still = cameras_of([pose], size)[torch.zeros(len(numbers), dtype=torch.long)]
    index = torch.tensor(list(numbers))
    return replace(still, time=index / (pictures - 1), index=index)


def beside(free: Cameras, film: Cameras) -> Cameras:
    """Views that no picture shows, with the index -1, and after them those of a film."""
    assert film.index is not None
    return replace(joined([free, film]), index=torch.cat([torch.full((len(free),), -1), film.index]))


class _Filmed:
    """The film's views in both samplers below."""

    config: FilmedClips.Config | FilmedOrbit.Config

    def filmed(self, size: int | None = None) -> Cameras:
        """The views of all pictures of the film. size: width and height in pixels; None: the largest of the run."""
        config = self.config
        size = round(bounds(config.resolution)[1]) if size is None else size
        return film_views(config.film, range(config.pictures), config.pictures, size)


class FilmedClips(_Filmed, ClipSampler):
    """Training clips, and after them the film's view at its first picture and at `shown` others."""

    @settings
    class Config(ClipSampler.Config):
        """The training clips of each step, and the views of a film.

        Attributes:
            batch: Number of clips in each step, without the film.
            film: The pose of the camera that took the film.
            pictures: Number of pictures of the film, at equal distances in time.
            shown: Number of the film's pictures that are compared in each step, besides the first.
        """

        film: FilmPose = field(default_factory=FilmPose)
        pictures: Annotated[int, at_least(2)] = 2
        shown: Annotated[int, at_least(1)] = 4

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)

    def __call__(self, seed: int, step: int, total: int) -> Cameras:
        """batch x frames + 1 + shown views (fewer if the film is shorter): a function of the arguments alone."""
        config = self.config
        free = super().__call__(seed, step, total)
        others = torch.randperm(config.pictures - 1, generator=generator(seed, STREAM, step))[: config.shown]
        numbers = [0, *sorted((others + 1).tolist())]
        return beside(free, film_views(config.film, numbers, config.pictures, free.height))


class FilmedOrbit(_Filmed, OrbitSampler):
    """Views of one moment of the film from all sides, and after them the film's view at its first picture and
    at that moment, for priors that turn pictures (DreamGaussian4D, Ren et al. 2023)."""

    @settings
    class Config(OrbitSampler.Config):
        """The training views of each step, and the views of a film.

        Attributes:
            batch: Number of views in each step, without those of the film.
            film: The pose of the camera that took the film.
            pictures: Number of pictures of the film, at equal distances in time.
        """

        film: FilmPose = field(default_factory=FilmPose)
        pictures: Annotated[int, at_least(2)] = 2

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)

    def __call__(self, seed: int, step: int, total: int) -> Cameras:
        """batch + 2 views (one fewer at the film's first picture): a function of the arguments alone."""
        config = self.config
        free = super().__call__(seed, step, total)
        number = int(torch.randint(config.pictures, (), generator=generator(seed, STREAM, step)))
        film = film_views(config.film, sorted({0, number}), config.pictures, free.height)
        return beside(replace(free, time=film.time[-1].expand(len(free))), film)
