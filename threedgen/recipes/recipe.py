"""What a checked recipe is: components with their settings, in stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """One component of a recipe: its class, its Config, and (for a guidance) the schedule of its weight."""

    name: str
    cls: type[Any]
    config: Any
    path: str
    weight: Any = 1.0

    def is_a(self, cls: type) -> bool:
        """Whether the component is of a class, or of one below it."""
        return isinstance(self.cls, type) and issubclass(self.cls, cls)

    def make(self, *arguments: Any, **keywords: Any) -> Any:
        """The component: its class called with its Config and whatever else it needs."""
        return self.cls(self.config, *arguments, **keywords)


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    resolved: its plain form with every default written out. given: the paths that the recipe files and the
    command line set. fixed: the sections that are one component each. stages: the recipe of each stage if there
    are several; the other fields are then those of the last stage, and `steps` is the sum.
    """

    prompt: str
    seed: int
    steps: int
    device: str
    representation: Choice
    renderer: Choice
    cameras: Choice
    guidance: tuple[Choice, ...]
    fixed: Mapping[str, Choice]
    resolved: Mapping[str, Any]
    given: frozenset[str]
    stages: tuple[Recipe, ...] = ()

    @property
    def all_stages(self) -> tuple[Recipe, ...]:
        """The stages; the recipe itself if it has none."""
        return self.stages or (self,)

    def choices(self) -> Iterator[Choice]:
        yield self.representation
        yield self.renderer
        yield self.cameras
        yield from self.guidance
        yield from self.fixed.values()
