"""Diffusion models on a device: tiny pipelines in every precision and way of saving memory, and real shapes."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gpu_memory
import torch
from gpu_blocks import Block, Place
from guidance_overhead import PROMPT, Clock, bare_pass

from threedgen.cameras.orbit import OrbitSampler
from threedgen.guidance.priors.adapters.image import DiffusersImagePrior
from threedgen.guidance.priors.adapters.sdxl import DiffusersSDXLPrior
from threedgen.guidance.priors.base import Condition, roles_of
from threedgen.guidance.priors.codec import Latents
from threedgen.guidance.priors.folder.text import TextEmbedder
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.guidance.priors.processes import NoiseSchedule
from threedgen.guidance.score_distillation import ScoreDistillation
from threedgen.loop.distill import distill
from threedgen.renderers.splatting import SplattingRenderer
from threedgen.representations.gaussians import Gaussians

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny_pipelines  # pyright: ignore[reportMissingImports]
import tiny_video_pipelines  # pyright: ignore[reportMissingImports]

# Ways of saving memory: none, each measure by itself, and a budget that nothing meets, which takes all of them.
_WAYS: tuple[dict[str, Any], ...] = ({}, {"vae_tiling": True}, {"attention_slicing": True}, {"memory": 1e-6})
_FEW = ("sd1", "if", "sd3", "modelscope")
# Side of the pictures, and the name in benchmarks/gpu_memory.py, which counts the memory of a step.
_MODELS = {"stable-diffusion-1.5": (512, "Stable Diffusion"), "stable-diffusion-xl": (1024, "SDXL")}
_GAUSSIANS = 20_000
_XL: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_PICTURED = ("if2", "edit", "zero123", "controlnet", "svd")  # which need more than a text and cameras


def pipelines(place: Place) -> Block:
    """A prediction and its gradient by each tiny pipeline; those that need a picture beside the text are tested by
    the tests alone."""
    block, ways = Block(), ({}, {"memory": 1e-6}) if place.small else _WAYS
    kinds = {**tiny_pipelines.KINDS, **tiny_video_pipelines.VIDEO_KINDS}
    names = _FEW if place.small else [name for name in kinds if name not in _PICTURED]
    folders = tiny_pipelines.Pipelines(place.work / "pipelines", kinds)
    dtypes = ("float32", "bfloat16", "float16") if place.on_gpu else ("float32", "bfloat16")
    for name in names:
        for dtype in dtypes:
            for way in ways:
                title = f"{name} in {dtype} with {way or 'no measure'}"
                try:
                    found = _predicted(folders[name], place, dtype, way)
                except Exception as error:  # noqa: BLE001  the other models are to be seen all the same
                    block.must(
                        False, f"{title}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
                    )
                    continue
                block.must(all(value.isfinite().all() for value in found), f"{title}: not finite")
                block.must(bool(found[-1].any()), f"{title}: no gradient reaches the pictures")
    block.measured["pipelines"] = list(names)
    return block


def _predicted(folder: Path, place: Place, dtype: str, way: dict[str, Any]) -> list[torch.Tensor]:
    """The prediction for noised pictures of a prior, and the gradient of their encoding."""
    prior: Any = load_prior(PriorConfig(path=str(folder), dtype=dtype, executor="eager", **way), place.device)
    frames = roles_of(prior).frames
    count = frames if frames > 1 else tiny_pipelines.VIEWS
    cameras = tiny_pipelines.ring(count).to(place.device)
    draw = torch.Generator().manual_seed(0)
    pictures = torch.rand(count, 32, 32, 3, generator=draw).to(place.device).requires_grad_()
    x = prior.encode(pictures)
    eps = torch.randn(x.shape, generator=draw).to(x)
    t = torch.full((len(x),), 0.5, device=place.device)
    times = torch.linspace(0.0, 1.0, frames, device=place.device).expand(len(x), -1) if frames > 1 else None
    condition = Condition(("a red cube",) * len(x), cameras=cameras[: len(x)], times=times)
    said = prior.predict(prior.add_noise(x, eps, t).detach(), t, condition)
    (gradient,) = torch.autograd.grad((x * said.eps.detach()).sum(), pictures)
    return [said.eps, gradient]


def shapes(place: Place) -> Block:
    """Seconds of a guided step and of the bare passes of its network, with the exact shapes of two published models
    and random weights, and the most memory. On the CPU a tiny Stable Diffusion stands for both."""
    block, views = Block(), 1 if place.small else 4
    for name, (side, family) in ({"tiny": (32, "")} if place.small else _MODELS).items():
        prior = _tiny(place) if place.small else _random(name, place.device)
        if place.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        guide = ScoreDistillation(ScoreDistillation.Config(), place.device, prior=prior)
        scene = Gaussians(Gaussians.Config(count=200 if place.small else _GAUSSIANS)).to(place.device)
        cameras = OrbitSampler(OrbitSampler.Config(batch=views, resolution=side))
        clock = Clock(bare_pass(prior, views, place.device), place.device, warm_up=1)
        steps = 3 if place.small else 8
        distill(scene, SplattingRenderer(), cameras, (guide,), PROMPT, steps=steps, listeners=(clock,))
        step, bare = statistics.median(clock.guided), statistics.median(clock.passes)
        found = {"step, seconds": step, "bare passes, seconds": bare, "ratio": step / bare}
        finite = all(value.isfinite().all() for value in scene.state_dict().values())
        block.must(finite, f"{name}: a parameter is not finite after {steps} steps")
        if place.on_gpu:
            found["gigabytes"] = torch.cuda.max_memory_allocated() / 1024**3
            counted = gpu_memory.of_step(family, views, _GAUSSIANS)
            block.at_most(f"{name}: GB", found["gigabytes"], counted)
        block.measured[name] = found
    return block


def _tiny(place: Place) -> Any:
    folder = tiny_pipelines.Pipelines(place.work / "pipelines", tiny_pipelines.KINDS)["sd1"]
    return load_prior(PriorConfig(path=str(folder), executor="eager"), place.device)


def _random(name: str, device: str) -> Any:
    """A prior with the networks of a published model (their configs), in half precision, and texts of zeros."""
    diffusers = tiny_pipelines.diffusers()
    wide = name == "stable-diffusion-xl"
    side, width = _MODELS[name][0], 2048 if wide else 768
    with torch.device(device):
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            sample_size=side // 8, cross_attention_dim=width, **(_XL if wide else {"attention_head_dim": 8})
        )
        vae = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            sample_size=side,
        )
    for network in (unet, vae):
        network.requires_grad_(False).eval()
    unet = unet.to(torch.float16).to(memory_format=torch.channels_last)
    texts = {"states": torch.zeros(77, width, dtype=torch.float16), "pooled": torch.zeros(1280).half()}
    if not wide:
        del texts["pooled"]

    def encode(prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        return {key: value.expand(len(prompts), *value.shape) for key, value in texts.items()}

    text = TextEmbedder(lambda: encode, "random")
    kind: Any = DiffusersSDXLPrior if wide else DiffusersImagePrior
    return kind(unet, Latents(vae, side), text, NoiseSchedule.scaled_linear(), "epsilon", 100.0)


BLOCKS: dict[str, Any] = {"pipelines": pipelines, "shapes": shapes}
