"""Shared set-up: property tests without deadlines (timings here are not what is tested).

Their examples are the same in every run, so that a change is judged by what it changes. For new ones, which is how
to look for defects: pytest --hypothesis-profile=explore.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tiny_pipelines import KINDS, Pipelines
from tiny_video_pipelines import VIDEO_KINDS
from torch_threads import torch_threads

settings.register_profile("threedgen", deadline=None, max_examples=30, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=300)
settings.load_profile("threedgen")

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # several processes share the processors: one thread each, also in what they start
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
os.environ.pop("THREEDGEN_ISNET", None)  # pictures are cut out as where nothing is installed


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Matrices as small as those of tests are slower on several threads, and far slower on busy processors."""
    with torch_threads(1):
        yield


@pytest.fixture
def trusted_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run folders may name the classes of tests, such as those in fake_parts."""
    monkeypatch.setenv("THREEDGEN_TRUST_RUNS", "1")


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
