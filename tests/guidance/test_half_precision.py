"""All kinds of pipelines in the precisions of a GPU, on the CPU: each part gets its inputs as its weights are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_pipelines import KINDS, VIEWS, ring
from tiny_video_pipelines import VIDEO_KINDS

from threedgen.guidance.priors.base import Condition, ReferenceView
from threedgen.guidance.priors.load import PriorConfig, load_folder, load_prior

PICTURES = [kind for kind in KINDS if kind != "controlnet"]
LEARN = ("sd1", "cameras", "sdxl", "sd3", "flux")
SMALL = {"modelscope": 3, "animatediff": 3, "svd": 4, "wan": 5}  # frames


def loaded(folders, kind: str, dtype: str, **more: Any) -> Any:
    options = {"frames": SMALL[kind]} if kind in SMALL else {}
    if kind in ("wan", "zero123plus"):
        options["size"] = 16
    return load_prior(PriorConfig(path=str(folders[kind]), dtype=dtype, options=options, **more))


def question(prior: Any) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    """Noisy samples, their times, and a condition that has all that any prior reads."""
    samples = 1 if prior.video else VIEWS
    size = prior.image_size
    rng = torch.Generator().manual_seed(0)
    pictures = torch.rand(samples * (prior.frames if prior.video else 1), size, size, 3, generator=rng)
    x = prior.encode(pictures).float()
    t = torch.full((samples,), 0.6)
    condition = Condition(
        ("a red cube",) * samples,
        cameras=None if prior.video else ring(samples),
        times=torch.linspace(0.0, 1.0, prior.frames)[None] if prior.video else None,
        reference=ReferenceView(pictures[0], azimuth=20.0, elevation=5.0, distance=3.0),
        pictures=None if prior.video else pictures,
    )
    return prior.add_noise(x, torch.randn(x.shape, generator=rng), t), t, condition


def close(half: torch.Tensor, full: torch.Tensor, most: float) -> None:
    assert half.dtype == full.dtype == torch.float32
    assert float((half - full).detach().norm() / full.detach().norm()) < most


@pytest.mark.parametrize("kind", [*PICTURES, *VIDEO_KINDS])
def test_bfloat16_is_float32_with_fewer_digits(pipelines, video_pipelines, kind):
    folders = pipelines if kind in KINDS else video_pipelines
    half, full = loaded(folders, kind, "bfloat16"), loaded(folders, kind, "float32")
    assert half.dtype == torch.bfloat16
    z, t, condition = question(full)
    close(half.predict(z, t, condition).eps, full.predict(z, t, condition).eps, 0.1)


def test_a_controlnet_in_bfloat16(pipelines):
    half, full = (
        loaded(pipelines, "sd1", dtype, control=str(pipelines["controlnet"]))
        for dtype in ("bfloat16", "float32")
    )
    z, t, condition = question(full)
    close(half.predict(z, t, condition).eps, full.predict(z, t, condition).eps, 0.1)


@pytest.mark.parametrize("kind", LEARN)
@pytest.mark.parametrize("how", ["lora", "copy"])
def test_particle_models_learn_beside_a_prior_in_bfloat16(pipelines, kind, how):
    half, full = loaded(pipelines, kind, "bfloat16"), loaded(pipelines, kind, "float32")
    z, t, condition = question(full)
    model, exact = (prior.particle_model(how, 4, seed=0) for prior in (half, full))
    close(model.predict(z, t, condition).eps, exact.predict(z, t, condition).eps, 0.1)
    loss = model.denoising_loss(z, torch.randn_like(z), t, condition)
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert all(gradient is None or bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(gradient is not None and bool(gradient.any()) for gradient in gradients)


def test_small_gradients_survive_float16(pipelines):
    """They are as small here as where the mean is over the many latents of large pictures."""
    found = []
    for dtype in (torch.float16, torch.float32):
        prior = load_folder(pipelines["sd1"], dtype=dtype)
        z, t, condition = question(prior)
        model = prior.particle_model("lora", 4, seed=0)
        loss = model.denoising_loss(z, torch.ones_like(z), t, condition) * 1e-5
        learns = [weight for name, weight in model.named_parameters() if "lora_B" in name]
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, learns)]))
    close(found[0], found[1], 0.02)


def test_a_gradient_that_overflows_float16_does_not_reach_the_weights(pipelines):
    prior = load_folder(pipelines["sd1"], dtype=torch.float16)
    z, t, condition = question(prior)
    model = prior.particle_model("lora", 4, seed=0)
    loss = model.denoising_loss(z, torch.ones_like(z), t, condition) * 1e5
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert all(gradient is None or bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize("kind", ["sd1", "svd", "cogvideox", "wan"])
def test_an_autoencoder_in_bfloat16_is_that_of_float32_with_fewer_digits(pipelines, video_pipelines, kind):
    folders = pipelines if kind in KINDS else video_pipelines
    half = loaded(folders, kind, "float32", vae_dtype="bfloat16")
    full = loaded(folders, kind, "float32")
    assert (half.dtype, half.codec.vae.dtype) == (torch.float32, torch.bfloat16)
    count, size = full.frames if full.video else 2, full.image_size
    pictures = torch.rand(
        count, size, size, 3, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    samples, gradients = [], []
    for prior in (half, full):
        samples.append(prior.encode(pictures))
        gradients.append(torch.autograd.grad(samples[-1].square().sum(), pictures)[0])
    close(samples[0], samples[1], 0.05)
    close(gradients[0], gradients[1], 0.1)
    with torch.no_grad():
        close(half.decode(samples[1]), full.decode(samples[1]), 0.05)
