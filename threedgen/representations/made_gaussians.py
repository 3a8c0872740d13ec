"""Gaussians that networks make in one pass: how such a scene begins, and how it is loaded without the networks."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import field
from typing import Annotated, Any, Self

from threedgen.core.settings import above, settings
from threedgen.core.types import GaussianCloud
from threedgen.representations import density_control, gaussian_terms, gaussians
from threedgen.representations.gaussians import Gaussians


@settings
class MadeConfig:
    """What every such scene has.

    Attributes:
        scales (world units): Smallest and largest standard deviation of a Gaussian along an axis, kept after
            every step.
        learning_rates: Initial learning rate of each group of parameters.
        density: When Gaussians are copied, split and removed.
        regularizers: Weights of the terms of the loss on the Gaussians themselves.
    """

    scales: Annotated[tuple[float, float], above(0.0)] = (0.0025, 0.3)
    learning_rates: gaussians.LearningRates = field(default_factory=gaussians.LearningRates)
    density: density_control.Config = field(default_factory=lambda: density_control.Config(enabled=False))
    regularizers: gaussian_terms.Config = field(default_factory=gaussian_terms.Config)

    def plain(self) -> gaussians.Config:
        """The same settings of ordinary Gaussians. Raises SettingError for scales in the wrong order."""
        return gaussians.Config(
            scales=self.scales,
            learning_rates=self.learning_rates,
            density=self.density,
            regularizers=self.regularizers,
        )


class MadeGaussians(Gaussians):
    """Gaussians, which begin as networks make them."""

    def __init__(self, config: Any, seed: int = 0) -> None:
        """config: a MadeConfig. Raises UserError as `make` does."""
        super().__init__(dataclasses.replace(config.plain(), count=1))
        made = Gaussians.from_cloud(self.make(config, seed), config.plain())
        self.load_state_dict(made.state_dict())
        self.constrain()

    @abstractmethod
    def make(self, config: Any, seed: int) -> GaussianCloud:
        """The Gaussians of a config. Raises UserError."""

    @classmethod
    def blank(cls, config: Any) -> Self:
        """A scene of one Gaussian to load a state into. It needs neither the networks nor the picture."""
        scene = cls.__new__(cls)
        Gaussians.__init__(scene, dataclasses.replace(config.plain(), count=1))
        return scene
