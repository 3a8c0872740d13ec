from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(pipelines, tmp_path) -> Path:
    """A copy of a small Stable Diffusion folder, to be damaged."""
    return Path(shutil.copytree(pipelines["sd1"], tmp_path / "prior"))
