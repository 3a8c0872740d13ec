"""Video models of diffusers behind the Prior contract: the same numbers as the code of the pipelines."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recording import Recorded, own_pipeline
from tiny_video_pipelines import FRAMES, VIDEO_KINDS

from threedgen.guidance.priors.base import Condition, Prior, ReferenceView
from threedgen.guidance.priors.clip_codec import frames_of
from threedgen.guidance.priors.load import PriorConfig, load_prior

PROMPT = "a red cube  &amp; a cone "
BOTH = ("", PROMPT)  # pipelines put the unconditional branch first
CLOSE: Any = {"rtol": 1e-4, "atol": 1e-5}
TABLE = ("modelscope", "animatediff", "cogvideox", "cogvideox-2b", "cogvideox-1.5")
PACKED = ("cogvideox", "cogvideox-2b", "cogvideox-1.5", "wan")
KINDS = list(VIDEO_KINDS)
SHORT = {"modelscope": 3, "animatediff": 3, "svd": 4, "wan": 5}  # frames; CogVideoX keeps its own


def loaded(pipelines, kind: str, **options: Any) -> Any:
    small = {"frames": SHORT[kind]} if kind in SHORT else {}
    size = {"size": 16} if kind == "wan" else {}
    return load_prior(PriorConfig(path=str(pipelines[kind]), options={**small, **size, **options}))


def own(pipelines, kind: str) -> Any:
    from tiny_pipelines import transformers

    parts = {}
    if kind == "svd":
        parts["feature_extractor"] = transformers().CLIPImageProcessor.from_pretrained(
            pipelines[kind] / "feature_extractor"
        )
    return own_pipeline(pipelines[kind], **parts)


def clip_condition(prior: Any, prompts: tuple[str, ...], **more: Any) -> Condition:
    times = torch.linspace(0.0, 1.0, prior.frames).repeat(len(prompts), 1)
    return Condition(prompts, times=times, **more)


def recorded_call(pipelines, kind: str, prior: Any) -> Recorded:
    options = {"num_frames": prior.frames, "height": prior.image_size, "width": prior.image_size}
    if kind == "wan":
        options["guidance_scale"] = 1.0  # its branches are calls of their own
    return Recorded(own(pipelines, kind), PROMPT, **options)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "svd"])
def test_its_answer_is_that_of_the_pipelines_own_call(video_pipelines, kind):
    """Texts, positions of tokens, layout of frames and the time are all correct."""
    prior = loaded(video_pipelines, kind)
    contract: object = prior
    assert isinstance(contract, Prior)
    recorded = recorded_call(video_pipelines, kind, prior)
    z = prior.flat(recorded.arguments["sample" if "sample" in recorded.arguments else "hidden_states"])
    level = recorded.timestep / 1000
    t = torch.tensor([level / (3.0 - 2.0 * level) if kind == "wan" else level])
    condition = clip_condition(prior, (PROMPT,) if kind == "wan" else BOTH)
    with torch.no_grad():
        answer = prior.answer(prior.network, z, t.expand(len(z)), condition)
    torch.testing.assert_close(prior.process.timestep(t).float(), torch.tensor([recorded.timestep]))
    torch.testing.assert_close(answer, prior.flat(recorded.output), **CLOSE)
    # It depends on the text, and frames are denoised together: a later frame changes the output for the first.
    with torch.no_grad():
        deaf = prior.answer(prior.network, z, t.expand(len(z)), clip_condition(prior, ("a",) * len(z)))
        z[:, -1] += 1.0
        moved = prior.answer(prior.network, z, t.expand(len(z)), condition)
    assert (deaf - answer).abs().max() > 1e-5
    assert (frames_of(moved - answer, prior.latent_frames)[:, 0]).abs().max() > 1e-5


def test_stable_video_diffusion_is_the_pipelines_own_call(video_pipelines):
    prior = loaded(video_pipelines, "svd", noise_aug_strength=0.0, fps=9, motion_bucket_id=80)
    pipeline = own(video_pipelines, "svd")
    image = torch.rand(32, 32, 3)
    size = {"height": 32, "width": 32, "fps": 9, "motion_bucket_id": 80, "noise_aug_strength": 0.0}
    recorded = Recorded(pipeline, image.permute(2, 0, 1)[None], num_frames=4, **size)  # type: ignore[arg-type]
    sample = recorded.arguments["sample"]
    z = prior.flat(sample[:, :, :4])
    t = time_of(prior, 4.0 * recorded.timestep)
    torch.testing.assert_close(prior.process.timestep(t), torch.tensor([recorded.timestep]))
    condition = clip_condition(prior, BOTH, reference=ReferenceView(image), dropped=(True, False))
    answer = prior.answer(prior.network, z, t.expand(2), condition)
    torch.testing.assert_close(answer, prior.flat(recorded.output), **CLOSE)
    arguments = prior.arguments(z, t.expand(2), condition)
    torch.testing.assert_close(arguments["sample"], sample, **CLOSE)
    torch.testing.assert_close(arguments["added_time_ids"], recorded.arguments["added_time_ids"])
    # The step of the sampler for the same output, at its own (variance exploding) noise level.
    level = float(prior.process.level(t))
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(3)
    scheduler._step_index = 1
    torch.testing.assert_close(scheduler.sigmas[1], torch.tensor(level), rtol=1e-3, atol=0)
    there = z * (1.0 + level**2) ** 0.5
    x0 = scheduler.step(answer, scheduler.timesteps[1], there).pred_original_sample
    torch.testing.assert_close(prior.read(z, t.expand(2), answer).x0, x0, rtol=1e-3, atol=1e-4)


def time_of(prior: Any, log_level: float) -> torch.Tensor:
    first, last = (value ** (1 / 7) for value in (prior.process.low, prior.process.high))
    return ((torch.tensor([log_level]) / 7.0).exp() - first) / (last - first)


def test_its_levels_of_noise_are_the_samplers_own(video_pipelines):
    prior, scheduler = loaded(video_pipelines, "svd"), own(video_pipelines, "svd").scheduler
    scheduler.set_timesteps(11)
    even = torch.linspace(1.0, 0.0, 11)
    torch.testing.assert_close(prior.process.level(even), scheduler.sigmas[:-1].float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        prior.process.timestep(even), scheduler.timesteps.float(), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(prior.alpha(even) ** 2 + prior.sigma(even) ** 2, torch.ones(11))


def test_the_picture_counts_and_the_noise_on_it_is_one_draw(video_pipelines):
    calm, noisy = (loaded(video_pipelines, "svd", noise_aug_strength=value) for value in (0.0, 0.5))
    z, t = torch.randn(1, 16, 16, 16), torch.tensor([0.5])
    first, second = (ReferenceView(torch.rand(32, 32, 3)) for _ in range(2))

    def said(prior: Any, reference: ReferenceView) -> torch.Tensor:
        return prior.predict(z, t, clip_condition(prior, ("",), reference=reference)).x0

    assert (said(calm, first) - said(calm, second)).abs().max() > 1e-4
    assert torch.equal(said(noisy, first), said(noisy, first))
    shown = [
        prior.arguments(z, t, clip_condition(prior, ("",), reference=first))["sample"][:, :, 4:]
        for prior in (calm, noisy)
    ]
    assert (shown[0] - shown[1]).abs().max() > 1e-3
    assert torch.equal(shown[1][:, 0], shown[1][:, 3])


@pytest.mark.parametrize("kind", TABLE)
def test_noise_follows_the_scheduler_of_the_folder(video_pipelines, kind):
    prior, scheduler = loaded(video_pipelines, kind), own(video_pipelines, kind).scheduler
    x, eps, t = torch.randn(3, 8, 4, 4), torch.randn(3, 8, 4, 4), torch.tensor([0.02, 0.4, 0.98])
    steps = (1000 * t).round().long()
    torch.testing.assert_close(prior.add_noise(x, eps, t), scheduler.add_noise(x, eps, steps), **CLOSE)


def test_wan_is_the_flow_that_its_sampler_steps_through(video_pipelines):
    prior, scheduler = loaded(video_pipelines, "wan"), own(video_pipelines, "wan").scheduler
    scheduler.set_timesteps(5)
    even = torch.linspace(1.0, 0.0, 6)[:-1]
    torch.testing.assert_close(prior.sigma(even), scheduler.sigmas[:-1].float(), rtol=0, atol=2e-3)
    scheduler._step_index = 2
    z, answer = torch.randn(1, 8, 2, 2), torch.randn(1, 8, 2, 2)
    x0 = scheduler.convert_model_output(answer, sample=z)
    torch.testing.assert_close(prior.read(z, even[2:3], answer).x0, x0, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_clips_become_latents_as_the_pipeline_makes_pictures_of_them(video_pipelines, kind):
    prior, pipeline = loaded(video_pipelines, kind), own(video_pipelines, kind)
    size, frames = prior.image_size, prior.frames
    images = torch.rand(2 * frames, size, size, 3)
    with torch.no_grad():
        x = prior.encode(images)
        back = prior.decode(x)
    assert x.shape == (2, 4 * prior.latent_frames, *x.shape[2:])
    assert back.shape == images.shape
    latents = prior.flat(prior.volume(x))
    assert torch.equal(latents, x)
    volume = prior.volume(x)
    with torch.no_grad():
        if kind == "wan":
            mean, std = (
                torch.tensor(values).view(1, 4, 1, 1, 1)
                for values in ([0.1, -0.2, 0.3, -0.4], [1.5, 0.5, 2.0, 1.0])
            )
            video = pipeline.vae.decode(volume * std + mean).sample
            mode = pipeline.vae.encode(
                (images * 2 - 1).unflatten(0, (2, -1)).movedim(-1, 1)
            ).latent_dist.mode()
            torch.testing.assert_close(volume, (mode - mean) / std, **CLOSE)
        elif kind == "svd":
            video = pipeline.decode_latents(volume, frames, frames)
        else:
            extra = 1 if kind == "cogvideox-1.5" else 0
            video = pipeline.decode_latents(volume[:, extra:])
            if kind == "cogvideox-1.5":  # trained with copies of the first where a token holds two
                assert torch.equal(volume[:, 0], volume[:, 1])
                assert not torch.equal(volume[:, 1], volume[:, 2])
    torch.testing.assert_close(back, video.movedim(1, -1).flatten(0, 1) / 2 + 0.5, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_encoding_is_differentiable_and_frames_keep_their_places(video_pipelines, kind):
    prior = loaded(video_pipelines, kind)
    # Not the native size: resized on the way.
    images = torch.rand(prior.frames, 24, 24, 3, requires_grad=True)
    x = prior.encode(images)
    last = frames_of(x, prior.latent_frames)[:, -1]
    (gradient,) = torch.autograd.grad(last.square().sum(), images, retain_graph=True)
    reached = gradient.abs().amax((1, 2, 3)) > 0.0
    assert reached[-1]
    if kind not in PACKED:
        assert reached.sum() == 1
    # The first latent frame of an autoencoder that compresses time is the first picture.
    first = frames_of(x, prior.latent_frames)[:, 0]
    (gradient,) = torch.autograd.grad(first.square().sum(), images)
    reached = gradient.abs().amax((1, 2, 3))
    assert reached.argmax() == 0
    if "cogvideox" not in kind:  # whose norms go over time
        assert reached[1:].max() == 0.0
    assert not any(p.requires_grad for part in (prior.network, prior.codec.vae) for p in part.parameters())


@pytest.mark.parametrize("kind", ["modelscope", "wan"])
def test_what_is_recomputed_has_the_gradient_of_what_is_kept(video_pipelines, kind, monkeypatch):
    from threedgen.guidance.priors import clip_codec, codec

    prior = loaded(video_pipelines, kind)
    images = torch.rand(2 * prior.frames, 16, 16, 3, requires_grad=True)
    weights = torch.randn_like(prior.encode(images))
    (recomputed,) = torch.autograd.grad((prior.encode(images) * weights).sum(), images)
    for module in (codec, clip_codec):
        monkeypatch.setattr(module, "recomputed", lambda encode, pictures: encode(pictures))
    (kept,) = torch.autograd.grad((prior.encode(images) * weights).sum(), images)
    torch.testing.assert_close(recomputed, kept)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_a_batch_do_not_mix(video_pipelines, kind):
    prior = loaded(video_pipelines, kind)
    side = 6 if "cog" in kind else 16 if kind != "wan" else 2
    z, t = torch.randn(2, 4 * prior.latent_frames, side, side), torch.tensor([0.3, 0.7])
    told = {"reference": ReferenceView(torch.rand(32, 32, 3))} if kind == "svd" else {}
    together = prior.predict(z, t, clip_condition(prior, ("a cone", "a cube"), **told))
    alone = prior.predict(z[1:], t[1:], clip_condition(prior, ("a cube",), **told))
    assert together.x0.shape == z.shape
    torch.testing.assert_close(together.x0[1:], alone.x0, **CLOSE)
    assert not together.eps.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_clips_are_as_long_as_the_folder_says(video_pipelines, kind):
    from threedgen.guidance.priors.adapters.choose import adapter_of
    from threedgen.guidance.priors.folder.files import PipelineFolder

    folder = PipelineFolder(video_pipelines[kind])
    adapter = adapter_of(folder)
    assert adapter.video
    assert adapter.clip_frames(folder, adapter.Config()) == FRAMES[kind]
