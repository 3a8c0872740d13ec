"""Compiled networks against the networks themselves, and what happens when they cannot be compiled."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import KINDS, ring
from tiny_video_pipelines import VIDEO_KINDS

from threedgen.core.errors import UserError
from threedgen.guidance.priors.base import Condition, Prediction, ReferenceView
from threedgen.guidance.priors.executors import compiled, executor, identity
from threedgen.guidance.priors.executors.executor import Executor
from threedgen.guidance.priors.load import PriorConfig, load_prior

OPTIONS = {"zero123": {"pose": "zero123"}, "wan": {"size": 32, "frames": 5}}
FAMILIES = [kind for kind in (*KINDS, *VIDEO_KINDS) if kind != "controlnet"]


@pytest.fixture(autouse=True)
def graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the compiled graphs of one test."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("THREEDGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "graphs"


def load(folder: Path, choice: str = "openvino", dtype: str = "float32", **options: Any) -> Any:
    return load_prior(PriorConfig(path=str(folder), executor=choice, dtype=dtype, **options))  # type: ignore[arg-type]


def ask(prior: Any, count: int = 4) -> Prediction:
    """The prediction for some samples, which are the same for each prior of a kind."""
    rng = torch.Generator().manual_seed(0)
    frames = prior.frames
    pictures = torch.rand(count * (frames if prior.video else 1), 32, 32, 3, generator=rng)
    x = prior.encode(pictures)
    condition = Condition(
        ("a", "b", "", "") if count == 4 else ("a",) * count,
        cameras=ring(count, 32),
        reference=ReferenceView(pictures[0], 0.0, 15.0, 3.0),
        pictures=pictures[:count],
        times=torch.linspace(0.0, 1.0, frames).expand(count, -1),
    )
    t = torch.tensor([0.2, 0.4, 0.6, 0.8])[:count]
    eps = torch.randn(x.shape, generator=rng)
    return prior.predict(prior.add_noise(x, eps, t), t, condition)


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_gives_the_same_in_float32(kind, pipelines, video_pipelines):
    folder = (video_pipelines if kind in VIDEO_KINDS else pipelines)[kind]
    options = OPTIONS.get(kind, {})
    prior = load(folder, options=options)
    answer = ask(prior)
    (facts,) = prior.executor.used
    assert facts["executor"] == "openvino", facts
    assert facts["precision"] == "float32"
    torch.testing.assert_close(
        answer.eps, ask(load(folder, "eager", options=options)).eps, rtol=2e-4, atol=2e-5
    )
