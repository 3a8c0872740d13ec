"""The second denoiser of VSD: it starts as the prior, learns, does not change the prior, and is saved without
it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_pipelines import ring

from threedgen.core import machine
from threedgen.core.errors import UserError
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.load import PriorConfig, load_folder, load_prior

KINDS = ("sd1", "sd2", "cameras", "sdxl", "sd3", "flux")
CLOSE: Any = {"rtol": 1e-4, "atol": 1e-5}


def question(prior, count=2):
    x = prior.encode(torch.rand(count, 32, 32, 3, generator=torch.Generator().manual_seed(0))).detach()
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.3, 0.7])[:count]
    return x, eps, t, Condition(("a cube", "a cone")[:count], cameras=ring(count))


def learn(model, x, eps, t, condition, steps=25, rate=1e-2):
    optimizer = torch.optim.Adam(model.parameters(), rate)
    losses = []
    for _ in range(steps):
        loss = model.denoising_loss(x, eps, t, condition)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["lora", "copy"])
def test_it_starts_as_the_prior_and_learns_without_changing_it(pipelines, kind, how):
    prior = load_folder(pipelines[kind])
    x, eps, t, condition = question(prior)
    z = prior.add_noise(x, eps, t)
    before = prior.predict(z, t, condition)
    model = prior.particle_model(how, 4, seed=0)
    started = model.predict(z, t, condition)
    torch.testing.assert_close(started.eps, before.eps, **CLOSE)
    losses = learn(model, x, eps, t, condition, steps=8)
    assert min(losses[1:]) < losses[0]
    # The prediction of the prior is bitwise the same, and that of the model has changed.
    assert torch.equal(prior.predict(z, t, condition).eps, before.eps)
    assert (model.predict(z, t, condition).eps - before.eps).abs().max() > 1e-4
    assert not model.predict(z, t, condition).eps.requires_grad


def test_the_target_is_the_networks_own(pipelines):
    """sd2 predicts v = alpha eps - sigma x; a perfect prediction has no loss."""
    prior = load_folder(pipelines["sd2"])
    x, eps, t, condition = question(prior)
    a, s = prior.alpha(t)[:, None, None, None], prior.sigma(t)[:, None, None, None]
    model = prior.particle_model("lora", 2, seed=0)
    raw = prior.predict(prior.add_noise(x, eps, t), t, condition).v
    expected = (raw - (a * eps - s * x)).square().mean()
    torch.testing.assert_close(model.denoising_loss(x, eps, t, condition), expected, **CLOSE)


@pytest.mark.parametrize("how", ["lora", "copy"])
def test_it_learns_which_camera_it_is_told(pipelines, how):
    """The same z and prompt have two correct predictions that only the camera distinguishes."""
    prior = load_folder(pipelines["sd1"])
    model = prior.particle_model(how, 4, seed=0)
    x = torch.stack([torch.full((4, 16, 16), 1.0), torch.full((4, 16, 16), -1.0)])
    t = torch.full((2,), 0.99)
    views = ring(2)
    condition = Condition(("a cube",) * 2, cameras=views)
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1)
    eps = (z - prior.alpha(t)[:, None, None, None] * x) / prior.sigma(t)[:, None, None, None]
    learn(model, x, eps, t, condition, steps=10, rate=3e-3)
    said = model.predict(z, t, condition).eps
    swapped = model.predict(z, t, Condition(("a cube",) * 2, cameras=views[torch.tensor([1, 0])])).eps
    torch.testing.assert_close(said, swapped.flip(0), **CLOSE)
    assert (said[0] - said[1]).abs().max() > 1e-3
    nowhere = model.predict(z, t, Condition(("a cube",) * 2)).eps
    torch.testing.assert_close(nowhere[0], nowhere[1], **CLOSE)


def test_its_state_is_what_it_adds_and_comes_back(pipelines):
    prior = load_folder(pipelines["sd1"])
    x, eps, t, condition = question(prior)
    z = prior.add_noise(x, eps, t)
    model = prior.particle_model("lora", 2, seed=0)
    learn(model, x, eps, t, condition, steps=3)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    whole = sum(p.numel() for p in prior.network.parameters())
    changes = sum(value.numel() for name, value in state.items() if name.startswith("changes."))
    assert 0 < changes < whole / 4
    assert all(p.dtype == torch.float32 for p in model.parameters())
    again = load_folder(pipelines["sd1"]).particle_model("lora", 2, seed=7)
    again.load_state_dict(state)
    assert torch.equal(again.predict(z, t, condition).eps, model.predict(z, t, condition).eps)


def test_the_frozen_weights_are_shared_and_the_seed_decides_the_rest(pipelines):
    prior = load_folder(pipelines["sd1"])
    model, same = prior.particle_model("lora", 2, seed=3), prior.particle_model("lora", 2, seed=3)
    other = prior.particle_model("lora", 2, seed=4)
    shared = {p.data_ptr() for p in prior.network.parameters()}
    frozen = [p for p in model._network.parameters() if not p.requires_grad]
    assert frozen
    assert all(p.data_ptr() in shared for p in frozen)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_auto_copies_small_networks_and_the_embedded_prior_is_one(pipelines):
    prior: Any = load_prior(PriorConfig())
    model = prior.particle_model("auto", 4, seed=0)
    assert model.kind == "copy"
    x, eps, t, condition = question(prior, 1)
    z = prior.add_noise(x, eps, t)
    before = prior.predict(z, t, condition).v
    torch.testing.assert_close(model.predict(z, t, condition).v, before, **CLOSE)
    losses = learn(model, x, eps, t, condition, steps=2, rate=1e-3)
    assert losses[-1] < losses[0]
    assert torch.equal(prior.predict(z, t, condition).v, before)


def test_kinds_that_do_not_exist_and_peft_that_is_missing(pipelines, monkeypatch):
    prior = load_folder(pipelines["sd1"])
    with pytest.raises(UserError, match="unknown kind of particle model 'full'"):
        prior.particle_model("full", 4, 0)
    with pytest.raises(UserError, match="rank must be at least 1"):
        prior.particle_model("lora", 0, 0)
    monkeypatch.setattr(machine, "version", lambda name: None)
    with pytest.raises(UserError, match=r"kind lora needs peft and accelerate: pip install peft accelerate"):
        prior.particle_model("lora", 4, 0)
    assert prior.particle_model("copy", 4, 0).kind == "copy"
    prior.network.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    with pytest.raises(
        UserError, match=r"wait in the memory of the CPU cannot be adapted: raise prior\.memory"
    ):
        prior.particle_model("copy", 4, 0)
