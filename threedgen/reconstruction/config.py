"""Settings of the training of a reconstructor; each is an option of its command."""

from __future__ import annotations

from typing import Annotated

from threedgen.core.settings import at_least, between, settings
from threedgen.training.config import RingBankConfig


@settings
class ReconstructorTrainingConfig(RingBankConfig):
    """A reconstructor.

    Attributes:
        picture_share: Share of the steps in which the given picture is a further view.
        noisy_share: Share of the steps in which the views are estimates of a prior from noisy views.
    """

    steps: Annotated[int, at_least(1)] = 20000
    batch: Annotated[int, at_least(1)] = 4
    learning_rate: Annotated[float, at_least(0.0)] = 4e-4
    decay: Annotated[float, between(0.0, 1.0)] = 0.5
    picture_share: Annotated[float, between(0.0, 1.0)] = 0.5
    noisy_share: Annotated[float, between(0.0, 1.0)] = 0.5
