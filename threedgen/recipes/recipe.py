"""A checked recipe: components with their settings, in stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A recipe's description of itself, which `threedgen recipes` shows.
ABOUT = ("description", "paper", "needs", "memory")
# The settings and sections that all stages share: they are written outside the stages.
WHOLE_RUN = ("prompt", "seed", "device", *ABOUT, "export", "preview", "checkpoint")


@dataclass(frozen=True)
class Choice:
    """One component of a recipe.

    name: as the recipe writes it. cls: its class. config: its Config. path: of its section in the recipe.
    weight: for a guidance, the schedule of its weight.
    """

    name: str
    cls: type[Any]
    config: Any
    path: str
    weight: Any = 1.0

    def is_a(self, cls: type) -> bool:
        """Whether the component's class is `cls` or a subclass of it."""
        return isinstance(self.cls, type) and issubclass(self.cls, cls)

    def make(self, *arguments: Any, **keywords: Any) -> Any:
        """The component: its class, called with its Config and the given arguments."""
        return self.cls(self.config, *arguments, **keywords)


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    resolved: its plain form with every default written out. given: the paths that the recipe files and the command
    line set. fixed: the sections whose component has no choice. stages: the recipe of each stage if there are
    several; the other fields are then those of the last stage, and `steps` is the sum. folder: of the run that it
    was read from, whose models are not fetched without trust; None for a recipe of the user. origin: {"recipe": its
    name or file, "changed": {path: (value of the recipe, value here)}} of settings that the command changed; empty
    for a recipe that a run wrote, and without "changed" if it is not known.
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
    folder: Path | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def all_stages(self) -> tuple[Recipe, ...]:
        """The stages; the recipe itself if it has none."""
        return self.stages or (self,)

    def choices(self) -> Iterator[Choice]:
        """Its components in the order of its sections."""
        yield self.representation
        yield self.renderer
        yield self.cameras
        yield from self.guidance
        yield from self.fixed.values()
