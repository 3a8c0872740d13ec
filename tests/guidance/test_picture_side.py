"""The choice of the side from which a picture was taken."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from threedgen.guidance.priors.picture_field import BINS, likely
from threedgen.guidance.priors.picture_side import settled_azimuth


class Field:
    """Its encoder guesses `guess`, more or less decidedly; it is solid from `solid` degrees and half transparent
    from elsewhere."""

    def __init__(self, guess: float, solid: float, decided: float) -> None:
        self.guess, self.solid, self.decided = guess, solid, decided

    def decode(self, pictures: Any, known: Any, azimuth: Any = None) -> Any:
        sides = torch.zeros(len(pictures), BINS)
        sides[:, round(self.guess / 360.0 * BINS)] = self.decided
        return SimpleNamespace(azimuth=likely(sides) if azimuth is None else azimuth, sides=sides)

    def with_occupancy(self, decoded: Any) -> Any:
        return decoded

    def render(self, decoded: Any, cameras: Any, owner: Any) -> Any:
        solid = (decoded.azimuth[owner] - self.solid).abs() < 1.0
        alpha = torch.where(solid, 1.0, 0.5)[:, None, None]
        return alpha.expand(-1, cameras.height * cameras.width, 4)


@pytest.mark.parametrize(("decided", "expected"), [(20.0, 90.0), (60.0, 210.0)])
def test_the_surest_field_wins_unless_the_encoder_is_sure_of_another(decided: float, expected: float) -> None:
    """Mist is worth 40 units of log probability here."""
    field: Any = Field(210.0, 90.0, decided)
    known = torch.tensor([[15.0, 2.85]])
    found = settled_azimuth(field, torch.zeros(1, 3, 64, 64), known)
    assert float(found[0]) % 360.0 == pytest.approx(expected, abs=1.0)
    assert found.shape == (1,)


def test_without_mist_it_is_what_the_encoder_guesses_to_a_degree() -> None:
    field: Any = Field(40.0, -1.0, 30.0)
    found = settled_azimuth(field, torch.zeros(1, 3, 64, 64), torch.tensor([[15.0, 2.85]]))
    assert float(found[0]) == pytest.approx(40.0, abs=0.5)
