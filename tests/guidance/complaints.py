"""What `load_prior` says of a folder that it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from threedgen.core.errors import UserError
from threedgen.guidance.priors.load import PriorConfig, load_prior


def complaint(path: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_prior(PriorConfig(path=str(path), **options))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message
