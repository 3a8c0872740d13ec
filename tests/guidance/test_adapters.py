"""Each adapter compared with the pipeline of diffusers: the same call of the network with the same inputs, the
same output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recording import Recorded, own_pipeline
from tiny_pipelines import VIEWS, diffusers, edit, ring

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.guidance.priors.adapters.flow import packed, unpacked
from threedgen.guidance.priors.adapters.multiview import camera_vectors
from threedgen.guidance.priors.adapters.view import relative_pose
from threedgen.guidance.priors.base import Condition, Prior, ReferenceView
from threedgen.guidance.priors.load import PriorConfig, load_folder, load_prior

PROMPT = "a red cube"
BOTH = ("", PROMPT)  # pipelines put the unconditional branch first
CLOSE: Any = {"rtol": 1e-4, "atol": 1e-5}


def same_call(prior: Any, recorded: Recorded, z: torch.Tensor, t: float, condition: Condition) -> None:
    with torch.no_grad():
        answer = prior.answer(prior.network, z, torch.full((len(z),), t), condition)
    torch.testing.assert_close(answer, recorded.output[:, : z.shape[1]], **CLOSE)


def unshifted(sigma: float, shift: float) -> float:
    """The t at which FlowSchedule has this sigma."""
    return sigma / (shift - (shift - 1.0) * sigma)


def test_sdxl(pipelines):
    prior = load_folder(pipelines["sdxl"])
    contract: object = prior
    assert isinstance(contract, Prior)
    recorded = Recorded(own_pipeline(pipelines["sdxl"]), PROMPT, height=32, width=32)
    same_call(prior, recorded, recorded.arguments["sample"], recorded.timestep / 1000, Condition(BOTH))
    added = prior.arguments(recorded.arguments["sample"], torch.full((2,), 0.5), Condition(BOTH))
    torch.testing.assert_close(
        added["added_cond_kwargs"]["time_ids"], recorded.arguments["added_cond_kwargs"]["time_ids"]
    )
    # The folder asks for zeros for the empty text; the next test has one that does not.
    assert prior.text([""])["states"].abs().max() == 0.0


def test_sdxl_without_zeroed_empty_text(pipelines, copied):
    folder = copied("sdxl")
    edit(folder / "model_index.json", force_zeros_for_empty_prompt=False)
    assert load_folder(folder).text([""])["states"].abs().max() > 0.0


@pytest.mark.parametrize("kind", ["sd3", "sd3-small"])
def test_sd3(pipelines, kind):
    prior = load_folder(pipelines[kind])
    absent: dict[str, Any] = {} if kind == "sd3" else {"text_encoder_3": None, "tokenizer_3": None}
    recorded = Recorded(own_pipeline(pipelines[kind], **absent), PROMPT, height=32, width=32)
    z, t = recorded.arguments["hidden_states"], unshifted(recorded.timestep / 1000, 3.0)
    torch.testing.assert_close(prior.process.timestep(torch.tensor([t])), torch.tensor([recorded.timestep]))
    same_call(prior, recorded, z, t, Condition(BOTH))


@pytest.mark.parametrize("kind", ["flux", "flux-schnell"])
def test_flux(pipelines, kind):
    prior = load_folder(pipelines[kind])
    pipeline = own_pipeline(pipelines[kind])
    recorded = Recorded(pipeline, PROMPT, height=32, width=32, guidance_scale=3.5)
    z = unpacked(recorded.arguments["hidden_states"], 16, 16)
    assert torch.equal(packed(z), recorded.arguments["hidden_states"])
    # The recorded times are 1, 2/3 and 1/3 after the shift of the scheduler.
    even = torch.linspace(1.0, 1.0 / 3.0, 3)
    times = pipeline.scheduler.sigmas[:3]
    torch.testing.assert_close(prior.sigma(even), times)
    assert torch.isclose(prior.process.timestep(even)[1], torch.tensor(recorded.timestep))
    t, condition = even[1:2], Condition((PROMPT,))
    with torch.no_grad():
        answer = prior.answer(prior.network, z, t, condition)
    torch.testing.assert_close(packed(answer), recorded.output, **CLOSE)
    arguments = prior.arguments(z, t, condition)
    assert (arguments["guidance"] is None) == (kind == "flux-schnell")
    if kind == "flux":
        louder = load_prior(PriorConfig(path=str(pipelines[kind]), options={"guidance": 7.0}))
        assert not torch.equal(louder.predict(z, t, condition).eps, prior.predict(z, t, condition).eps)


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_a_flow_prior_is_a_rectified_flow(pipelines, kind):
    prior = load_folder(pipelines[kind])
    x, eps = prior.encode(torch.rand(2, 32, 32, 3)), torch.randn(2, 4, 16, 16)
    t = torch.tensor([0.2, 0.7])
    torch.testing.assert_close(prior.alpha(t) + prior.sigma(t), torch.ones(2))
    z = prior.add_noise(x, eps, t)
    sigma = prior.sigma(t)[:, None, None, None]
    torch.testing.assert_close(z, (1 - sigma) * x + sigma * eps)
    said = prior.predict(z, t, Condition((PROMPT,) * 2))
    raw = prior.answer(prior.network, z, t, Condition((PROMPT,) * 2))
    torch.testing.assert_close(said.flow, raw.detach(), **CLOSE)
    # Its training target is the velocity of the straight line from x to eps.
    torch.testing.assert_close(prior.target(x, eps, t), eps - x)


def test_latents_are_shifted_and_scaled_as_the_pipeline_decodes_them(pipelines):
    prior = load_folder(pipelines["sd3"])
    images = torch.rand(1, 32, 32, 3)
    with torch.no_grad():
        mode = prior.codec.vae.encode(images.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode()
        torch.testing.assert_close(prior.encode(images), (mode - 0.06) * 0.3)
        pixels = prior.codec.vae.decode(mode).sample
        torch.testing.assert_close(prior.decode(prior.encode(images)), pixels.permute(0, 2, 3, 1) / 2 + 0.5)


def test_deepfloyd_stage_2(pipelines, monkeypatch):
    prior = load_folder(pipelines["if2"])
    pipeline = own_pipeline(pipelines["if2"])
    small = torch.rand(1, 3, 4, 4) * 2 - 1
    recorded = Recorded(pipeline, PROMPT, image=small, height=16, width=16, noise_level=250)
    sample = recorded.arguments["sample"]
    z, shown = sample[:, :3], sample[:, 3:]
    monkeypatch.setattr(type(prior), "blurred", lambda self, pictures: shown)
    condition = Condition(BOTH, pictures=torch.zeros(2, 16, 16, 3))
    same_call(prior, recorded, z, recorded.timestep / 1000, condition)


def test_deepfloyd_stage_2_sees_a_noised_small_copy(pipelines):
    prior = load_folder(pipelines["if2"])
    pictures = torch.rand(2, 32, 32, 3)
    shown = prior.blurred(pictures)
    small = torch.nn.functional.avg_pool2d(pictures.permute(0, 3, 1, 2), 8) * 2 - 1
    enlarged = torch.nn.functional.interpolate(small, (16, 16), mode="bilinear", align_corners=True)
    scheduler = own_pipeline(pipelines["if2"]).image_noising_scheduler
    level = torch.tensor([250, 250])
    clean = scheduler.add_noise(enlarged, torch.zeros_like(enlarged), level)
    noise = shown - clean
    torch.testing.assert_close(noise[0], noise[1])
    strength = float((1 - scheduler.alphas_cumprod[250]).sqrt())
    assert abs(float(noise[0].std()) / strength - 1.0) < 0.1
    assert torch.equal(shown, prior.blurred(pictures))
    calm: Any = load_prior(PriorConfig(path=str(pipelines["if2"]), options={"noise_level": 0}))
    assert float((calm.blurred(pictures) - enlarged).std()) < 0.1


def controlled(pipelines, **options: Any) -> Any:
    paths = {"path": str(pipelines["sd1"]), "control": str(pipelines["controlnet"])}
    return load_prior(PriorConfig(**paths, **options))


def test_controlnet(pipelines):
    prior = controlled(pipelines, control_scale=0.7)
    network = diffusers().ControlNetModel.from_pretrained(pipelines["controlnet"])
    pipeline = own_pipeline(pipelines["sd1"], "StableDiffusionControlNetPipeline", controlnet=network)
    picture = torch.rand(1, 3, 32, 32)
    options = {"height": 32, "width": 32, "controlnet_conditioning_scale": 0.7}
    recorded = Recorded(pipeline, PROMPT, image=picture, **options)
    shown = picture.permute(0, 2, 3, 1).repeat(2, 1, 1, 1)
    condition = Condition(BOTH, pictures=shown)
    z = recorded.arguments["sample"]
    same_call(prior, recorded, z, recorded.timestep / 1000, condition)
    t = torch.full((2,), 0.5)
    plain = load_folder(pipelines["sd1"]).predict(z, t, Condition(BOTH)).eps
    assert (prior.predict(z, t, condition).eps - plain).abs().max() > 1e-4
    off = controlled(pipelines, control_scale=0.0).predict(z, t, condition).eps
    torch.testing.assert_close(off, plain, **CLOSE)


def test_instruct_pix2pix_gives_the_papers_three_branches(pipelines):
    prior = load_prior(PriorConfig(path=str(pipelines["edit"]), options={"image": 1.8}))
    torch.manual_seed(0)  # guidance amplifies rounding, which for some pictures exceeds the tolerance
    picture = torch.rand(1, 3, 32, 32)
    options = {"image": picture, "guidance_scale": 7.0, "image_guidance_scale": 1.8}
    recorded = Recorded(own_pipeline(pipelines["edit"]), PROMPT, **options)
    sample = recorded.arguments["sample"]
    assert torch.equal(sample[0, :4], sample[2, :4])
    z, t = sample[:1, :4], torch.tensor([recorded.timestep / 1000])
    text, image, nothing = recorded.output.chunk(3)
    condition = Condition((PROMPT,), pictures=picture.permute(0, 2, 3, 1))
    paper = nothing + 7.0 * (text - image) + 1.8 * (image - nothing)
    both = condition.followed_by(condition.unconditional())
    said, silent = prior.predict(z.repeat(2, 1, 1, 1), t.repeat(2), both).chunk(2)
    torch.testing.assert_close(silent.eps + 7.0 * (said.eps - silent.eps), paper, **CLOSE)


def test_instruct_pix2pix_does_not_mix_samples(pipelines):
    prior = load_folder(pipelines["edit"])
    z, t = torch.randn(3, 4, 16, 16), torch.tensor([0.3, 0.5, 0.7])
    pictures = torch.rand(3, 32, 32, 3)
    together = prior.predict(z, t, Condition((PROMPT,) * 3, pictures=pictures)).eps
    for i in range(3):
        alone = prior.predict(z[i : i + 1], t[i : i + 1], Condition((PROMPT,), pictures=pictures[i : i + 1]))
        torch.testing.assert_close(together[i : i + 1], alone.eps, **CLOSE)


def test_mvdream_cameras_by_hand():
    """The camera and the z-up world of Blender, with positions at unit distance (MVDream, Shi et al. 2023)."""
    views = orbit(torch.tensor([0.0, 90.0]), torch.zeros(2), torch.full((2,), 3.0), 40.0, 8, 8)
    vectors = camera_vectors(views).reshape(2, 4, 4)
    # From the front (-y in Blender) right is +x and up is +z, and the camera looks along its own -z.
    expected = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, -1], [0, 1, 0, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(vectors[0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(vectors[1, :3, 3], torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0)


def test_mvdream_views_of_a_group_see_each_other_and_no_others(pipelines):
    prior = load_folder(pipelines["mvdream"])
    assert prior.camera_conditioned
    assert prior.group == VIEWS
    views = ring(2 * VIEWS)
    z, t = torch.randn(2 * VIEWS, 4, 16, 16), torch.full((2 * VIEWS,), 0.5)
    condition = Condition((PROMPT,) * len(z), cameras=views)
    before = prior.predict(z, t, condition).eps
    changed = z.clone()
    changed[1] += 1.0
    moved = (prior.predict(changed, t, condition).eps - before).abs().amax((1, 2, 3))
    assert moved[:VIEWS].min() > 1e-5
    assert moved[VIEWS:].max() < 1e-6
    # Attention has no order: views and cameras permuted together give the answers permuted.
    order = torch.tensor([2, 0, 3, 1, 4, 5, 6, 7])
    permuted = prior.predict(z[order], t, Condition((PROMPT,) * len(z), cameras=views[order])).eps
    torch.testing.assert_close(permuted, before[order], **CLOSE)


def test_mvdream_of_one_view_is_the_plain_unet(pipelines, copied):
    folder = copied("mvdream")
    edit(folder / "unet" / "config.json", num_views=1)
    prior = load_folder(folder)
    unet = diffusers().UNet2DConditionModel.from_pretrained(pipelines["mvdream"] / "unet")
    z, t, views = torch.randn(2, 4, 16, 16), torch.tensor([0.3, 0.7]), ring(2)
    states = prior.text((PROMPT,) * 2)["states"]
    with torch.no_grad():
        raw = unet(z, (t * 1000).long(), states, class_labels=camera_vectors(views)).sample
    said = prior.predict(z, t, Condition((PROMPT,) * 2, cameras=views))
    torch.testing.assert_close(said.eps, raw, **CLOSE)


def test_mvdream_needs_whole_groups_and_cameras(pipelines):
    prior = load_folder(pipelines["mvdream"])
    z, t = torch.randn(3, 4, 16, 16), torch.full((3,), 0.5)
    with pytest.raises(UserError, match=r"4 views together and got 3: set cameras\.batch"):
        prior.predict(z, t, Condition((PROMPT,) * 3, cameras=ring(3)))
    with pytest.raises(UserError, match="needs the camera of each view"):
        prior.predict(torch.randn(4, 4, 16, 16), torch.full((4,), 0.5), Condition((PROMPT,) * 4))


def test_relative_poses_and_their_signs():
    """A view above the reference has a smaller polar angle, a view to the right a larger azimuth (Zero-1-to-3,
    Liu et al. 2023)."""
    views = orbit(torch.tensor([0.0, 90.0]), torch.tensor([40.0, 10.0]), torch.tensor([2.0, 3.0]), 40.0, 8, 8)
    reference = ReferenceView(torch.zeros(8, 8, 3), azimuth=0.0, elevation=10.0, distance=2.0)
    rad = torch.pi / 180.0
    expected = torch.tensor([[-30.0 * rad, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]])
    torch.testing.assert_close(relative_pose(views, reference, "zero123"), expected, atol=1e-5, rtol=0)
    stable = relative_pose(views, reference, "stable-zero123")
    torch.testing.assert_close(stable[:, 3], torch.full((2,), 80.0 * rad))
    torch.testing.assert_close(stable[:, :3], expected[:, :3], atol=1e-5, rtol=0)


@pytest.mark.parametrize("pose", ["zero123", "stable-zero123"])
def test_zero123_is_the_networks_call_with_what_the_paper_says(pipelines, pose):
    from safetensors.torch import load_file

    prior = load_prior(PriorConfig(path=str(pipelines["zero123"]), options={"pose": pose}))
    pipeline = own_pipeline(pipelines["zero123"])
    reference = ReferenceView(torch.rand(32, 32, 3), azimuth=20.0, elevation=5.0, distance=2.5)
    views = ring(2)
    z, t = torch.randn(2, 4, 16, 16), torch.tensor([0.3, 0.7])
    condition = Condition((PROMPT,) * 2, cameras=views, reference=reference)
    said = prior.predict(z, t, condition)
    weights = load_file(pipelines["zero123"] / "cc_projection" / "diffusion_pytorch_model.safetensors")
    pixels = reference.image.permute(2, 0, 1)[None]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    with torch.no_grad():
        embedding = pipeline.image_encoder((pixels - mean) / std).image_embeds.repeat(2, 1)
        joined = torch.cat([embedding, relative_pose(views, reference, pose)], dim=1)
        token = torch.nn.functional.linear(joined, weights["projection.weight"], weights["projection.bias"])
        latent = pipeline.vae.encode(pixels * 2 - 1).latent_dist.mode().repeat(2, 1, 1, 1)
        shown = torch.cat([z, latent], dim=1)
        raw = pipeline.unet(shown, torch.tensor([300, 700]), token[:, None]).sample
        free = pipeline.unet(
            torch.cat([z, torch.zeros_like(latent)], 1), torch.tensor([300, 700]), 0 * token[:, None]
        )
    torch.testing.assert_close(said.eps, raw, **CLOSE)
    torch.testing.assert_close(prior.predict(z, t, condition.unconditional()).eps, free.sample, **CLOSE)
