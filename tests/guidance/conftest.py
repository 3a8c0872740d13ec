from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_pipelines import KINDS, Pipelines
from tiny_video_pipelines import VIDEO_KINDS


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    """A folder for each of tiny_pipelines.KINDS, written when a test first asks for it."""
    return Pipelines(tmp_path_factory.mktemp("pipelines"), KINDS)


@pytest.fixture(scope="session")
def video_pipelines(tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    """A folder for each of tiny_video_pipelines.VIDEO_KINDS."""
    return Pipelines(tmp_path_factory.mktemp("video-pipelines"), VIDEO_KINDS)


@pytest.fixture
def copied(pipelines: Pipelines, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a folder, to be spoilt."""
    return lambda kind: Path(shutil.copytree(pipelines[kind], tmp_path / kind))
