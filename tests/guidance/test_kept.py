"""Priors that stay in memory: which are loaded again, and that no run is the worse for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.guidance.priors import load
from threedgen.guidance.priors.kept import keep_priors
from threedgen.guidance.priors.load import EMBEDDED_THINGS_WEIGHTS, THINGS, PriorConfig, load_prior

things = pytest.mark.skipif(not EMBEDDED_THINGS_WEIGHTS.is_dir(), reason="the embedded weights are not here")


@pytest.fixture
def loads(monkeypatch) -> list[PriorConfig]:
    """The configs for which a prior was loaded."""
    seen: list[PriorConfig] = []
    original = load._load

    def counted(config, device):
        seen.append(config)
        return original(config, device)

    monkeypatch.setattr(load, "_load", counted)
    return seen


def seen(prior: Any, prompt: str) -> torch.Tensor:
    prior.prepare([prompt, "a chair"])
    return prior.text([prompt])["pooled"]


def test_what_was_asked_for_last_stays(loads, pipelines):
    first, second = PriorConfig(path=str(pipelines["sd1"])), PriorConfig(name="disc")
    with keep_priors(most=1):
        for config in (first, first, second, first):
            load_prior(config)
    assert loads == [first, second, first]


@things
def test_seeds_of_things_share_their_networks(loads):
    with keep_priors():
        priors: list[Any] = [
            load_prior(PriorConfig(name=THINGS, options={"instance": i})) for i in (0, 1, 1, 0)
        ]
        with pytest.raises(UserError, match=r"options\.instanse"):
            load_prior(PriorConfig(name=THINGS, options={"instanse": 1}))
        load_prior(PriorConfig(name=THINGS))
    assert len(loads) == 1
    assert len({id(prior.network) for prior in priors}) == 1
    alone: Any = load_prior(PriorConfig(name=THINGS, options={"instance": 1}))
    for prior in (alone, *priors):
        prior.prepare(["a chair"])
    views = orbit(torch.zeros(1), torch.zeros(1), 2.85 * torch.ones(1), 40.0, 64, 64)
    shown = [
        prior._views_of("a chair", views, torch.device("cpu")) for prior in (alone, priors[0], priors[1])
    ]
    assert torch.equal(shown[0], shown[2])
    assert not torch.equal(shown[0], shown[1])


@things
def test_a_prior_forgets_the_texts_of_the_run_before(loads):
    config = PriorConfig(name=THINGS)
    with keep_priors():
        first: Any = load_prior(config)
        answer = seen(first, "a blue kitty")
        again: Any = load_prior(config)
        assert set(again.text._rows) == {""}
        assert again.words.check("a blue blorf") == first.words.check("a blue blorf")
        before = set(first.text._rows)
        assert torch.equal(seen(again, "a blue kitty"), answer)
        seen(again, "an igloo")
    assert set(first.text._rows) == before  # the words are those of one run as well
    assert len(loads) == 1


def test_options_that_need_another_model_load_one(loads, pipelines):
    with keep_priors():
        load_prior(PriorConfig(path=str(pipelines["sd1"])))
        with pytest.raises(UserError):
            load_prior(PriorConfig(path=str(pipelines["sd1"]), options={"instance": 1}))
    assert len(loads) == 2
