"""The measures that a memory budget switches on: each has its effect and changes nothing else."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from threedgen.core.errors import UserError
from threedgen.guidance.priors import codec
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.folder import memory
from threedgen.guidance.priors.folder.memory import Plan, Sizes, plan
from threedgen.guidance.priors.kept import keep_priors
from threedgen.guidance.priors.load import PriorConfig, load_folder, load_prior
from threedgen.jobs.build import build
from threedgen.recipes.load import load_recipe

SD = Sizes(network=1.6, vae=0.3, encoders=0.7, pixels=512)
FLUX = Sizes(network=22.0, vae=0.3, encoders=9.1, pixels=1024)
MEASURES = ("encoders_aside", "slicing", "tiling", "offload")


def count(chosen: Plan) -> int:
    return sum(getattr(chosen, name) for name in MEASURES)


@pytest.mark.parametrize("sizes", [SD, FLUX])
def test_less_memory_never_means_fewer_measures(sizes):
    budgets = [0.5 * step for step in range(200, 0, -1)]
    plans = [plan(budget, sizes) for budget in budgets]
    for roomy, tight in pairwise(plans):
        assert all(getattr(tight, name) >= getattr(roomy, name) for name in MEASURES)
    assert count(plans[0]) == 0
    assert count(plans[-1]) == len(MEASURES)


def test_budgets_of_usual_machines():
    assert plan(0.0, FLUX) == Plan()
    assert plan(24.0, SD) == Plan()
    assert plan(5.0, SD) == Plan()
    assert plan(4.0, SD) == Plan(encoders_aside=True, tiling=True)
    assert plan(4.0, replace(SD, codec_bytes=2)) == Plan()  # an autoencoder in bfloat16
    assert plan(12.0, FLUX).offload
    assert plan(0.0, SD, slicing=True, tiling=True) == Plan(slicing=True, tiling=True)
    with pytest.raises(UserError, match="memory is -1; it must be at least 0"):
        PriorConfig(memory=-1.0)


def test_the_views_of_a_step_count():
    """The denoiser takes them together, and the autoencoder one by one."""
    assert plan(6.0, replace(SD, views=4)) == Plan()
    assert plan(6.0, replace(SD, views=16)) == Plan(encoders_aside=True, slicing=True, tiling=True)
    with memory.for_views(16):
        assert Sizes(network=1.6, vae=0.3, encoders=0.7, pixels=512) == replace(SD, views=16)
    assert replace(SD).views == 1


def test_a_recipe_says_how_many_views_its_steps_have(monkeypatch, pipelines):
    seen = []
    monkeypatch.setattr(memory, "plan", lambda budget, sizes, *rest: seen.append(sizes.views) or Plan())
    recipe = load_recipe(
        "sds", ["prompt=a cube", "cameras.batch=3", f"guidance.0.prior.path={pipelines['sd1']}"]
    )
    build(recipe, "cpu")
    assert seen == [3]


def loaded(pipelines, **options: Any) -> Any:
    return load_prior(PriorConfig(path=str(pipelines["sd1"]), **options))


def answer(prior):
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return prior.predict(z, torch.tensor([0.3, 0.7]), Condition(("a cube",) * 2)).eps


def test_sliced_attention_gives_the_same_numbers(pipelines):
    plain, sliced = load_folder(pipelines["sd1"]), loaded(pipelines, attention_slicing=True)
    kinds = {type(processor).__name__ for processor in sliced.network.attn_processors.values()}
    assert kinds == {"SlicedAttnProcessor"}
    torch.testing.assert_close(answer(sliced), answer(plain), rtol=1e-4, atol=1e-5)


def test_multi_view_attention_can_be_sliced(pipelines):
    from tiny_pipelines import ring

    folder = str(pipelines["mvdream"])
    plain = load_prior(PriorConfig(path=folder))
    sliced = load_prior(PriorConfig(path=folder, attention_slicing=True))
    z, t = torch.randn(4, 4, 16, 16), torch.full((4,), 0.5)
    condition = Condition(("a cube",) * 4, cameras=ring(4))
    torch.testing.assert_close(
        sliced.predict(z, t, condition).eps, plain.predict(z, t, condition).eps, rtol=1e-4, atol=1e-5
    )


def kept_for_backward(prior, images):
    """Bytes that the graph of an encoding keeps for the backward pass."""
    held = {}

    def pack(tensor):
        held[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        x = prior.encode(images)
    return x, sum(held.values())


def test_pictures_are_encoded_one_by_one_and_recomputed(pipelines, monkeypatch):
    prior = load_folder(pipelines["sd1"])
    images = torch.rand(6, 32, 32, 3, requires_grad=True)
    seen = []
    prior.codec.vae.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    again, little = kept_for_backward(prior, images)
    assert seen == [1] * 6
    (gradient,) = torch.autograd.grad(again.square().sum(), images)
    assert seen == [1] * 11  # the last picture, with which the backward pass begins, was kept
    decoded = []
    prior.codec.vae.decoder.register_forward_pre_hook(lambda module, inputs: decoded.append(len(inputs[0])))
    latents = again.detach().requires_grad_()
    prior.decode(latents).square().sum().backward()
    assert decoded == [1] * 11
    assert bool(latents.grad.any())
    monkeypatch.setattr(codec, "recomputed", lambda part, x: part(x))
    kept, much = kept_for_backward(prior, images)
    assert little < much / 4
    torch.testing.assert_close(gradient, torch.autograd.grad(kept.square().sum(), images)[0])


def test_tiles_give_nearly_the_same(pipelines):
    plain, tiled = load_folder(pipelines["sd1"]), loaded(pipelines, vae_tiling=True)
    images = torch.rand(3, 32, 32, 3, requires_grad=True)
    whole, parts = plain.encode(images), tiled.encode(images)
    assert whole.shape == parts.shape
    assert torch.nn.functional.cosine_similarity(whole.flatten(), parts.flatten(), dim=0) > 0.9
    # Recomputed activations give the same gradient as stored ones.
    (again,) = torch.autograd.grad(parts.square().sum(), images)
    tiled.codec.vae.encoder = tiled.codec.vae.encoder.inner
    (kept,) = torch.autograd.grad(tiled.encode(images).square().sum(), images)
    torch.testing.assert_close(again, kept, rtol=1e-4, atol=1e-6)
    assert (again != 0).float().mean() > 0.99
    assert tiled.decode(parts.detach()).shape == (3, 32, 32, 3)


def test_recomputing_gives_the_same_gradient():
    inner = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.SiLU()).requires_grad_(False)
    x = torch.randn(3, 4, requires_grad=True)
    (plain,) = torch.autograd.grad(inner(x).square().sum(), x)
    (again,) = torch.autograd.grad(codec.Recomputed(inner)(x).square().sum(), x)
    assert torch.equal(plain, again)


def test_a_tight_budget_reaches_the_parts(pipelines):
    prior = loaded(pipelines, memory=1e-6)
    plain = load_folder(pipelines["sd1"])
    assert prior.codec.vae.use_tiling
    assert "Sliced" in type(next(iter(prior.network.attn_processors.values()))).__name__
    torch.testing.assert_close(answer(prior), answer(plain), rtol=1e-4, atol=1e-5)
    assert Plan(encoders_aside=True).encoder_device(torch.device("cuda")) == torch.device("cpu")
    assert Plan().encoder_device(torch.device("cuda")) == torch.device("cuda")


def test_weights_that_wait_elsewhere_are_not_moved():
    """An offloaded network stays on its device, and group offloading receives the device to compute on."""

    class Network(torch.nn.Linear):
        def enable_group_offload(self, **options):
            self.told = options

    network = Plan(offload=True).place_network(Network(2, 2), torch.device("cuda"))
    assert network.told == {"onload_device": torch.device("cuda"), "offload_type": "leaf_level"}
    assert network.weight.device.type == "cpu"
    assert not hasattr(Plan(offload=True).place_network(Network(2, 2), torch.device("cpu")), "told")


def test_offloading_by_diffusers_computes_the_same(pipelines):
    """The mechanism itself from CPU to CPU, which needs no GPU."""
    prior, plain = load_folder(pipelines["sd1"]), load_folder(pipelines["sd1"])
    prior.network.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    torch.testing.assert_close(answer(prior), answer(plain), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_offloading_on_a_gpu(pipelines):
    device = torch.device("cuda")
    prior: Any = load_prior(PriorConfig(path=str(pipelines["sd1"]), memory=1e-6, dtype="float32"), device)
    assert {p.device.type for p in prior.network.parameters()} == {"cpu"}
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)
    said = prior.predict(z, torch.tensor([0.3, 0.7], device=device), Condition(("a cube",) * 2))
    torch.testing.assert_close(said.eps.cpu(), answer(load_folder(pipelines["sd1"])), rtol=1e-3, atol=1e-4)


def test_a_kept_prior_that_keeps_to_a_memory_limit_is_planned_for_the_views_of_each_run(pipelines):
    config = PriorConfig(path=str(pipelines["sd1"]), memory=8.0)
    free = PriorConfig(path=str(pipelines["sd1"]))

    def network(asked: PriorConfig) -> Any:
        prior: Any = load_prior(asked)
        return prior.network

    with keep_priors():
        first, other = network(config), network(free)
        assert network(config) is first
        with memory.for_views(4):
            assert network(config) is not first
            assert network(free) is other
