from __future__ import annotations

from pathlib import Path

import pytest
from tiny_pipelines import KINDS, write


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders: sd1 (epsilon, latents), sd2 (v, latents), if (T5, pixels), cameras (as the embedded one)."""
    root = tmp_path_factory.mktemp("pipelines")
    for kind in KINDS:
        write(kind, root / kind)
    return {kind: root / kind for kind in KINDS}
