"""What score distillation costs beside the frozen network: one guided step over one bare forward pass.

    python benchmarks/guidance_overhead.py [--network embedded|stable-diffusion-1.5|stable-diffusion-2.1]
                                           [--device cpu|cuda] [--vae-dtype float32|bfloat16] [--linear]
                                           [--steps N] [--warm-up N] [--count] [key=value ...]

A guided step is everything the loop does: render, encode, noise, predict, classifier-free guidance, regularisers,
backward, optimizer, density control. The bare pass is the same network on a batch of the same size and type (views
x 2 for the two branches of guidance), timed between the steps of the same run. The recipe is sds.

stable-diffusion-...: a network, VAE and text width of exactly that model's shapes with random weights, 512 x 512
pixels and 20 thousand Gaussians: weights do not matter for time. On the CPU the milliseconds are those of the
process, which other programs do not change. --linear is a step of `linear_until`, without the encoder. --count
prints operations instead of seconds: what the shapes alone allow, on any machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from threedgen.guidance.priors.adapters.image import DiffusersImagePrior
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.codec import Latents
from threedgen.guidance.priors.folder.text import TextEmbedder
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.guidance.priors.processes import NoiseSchedule
from threedgen.jobs.build import build
from threedgen.loop.distill import distill
from threedgen.loop.events import StepDone
from threedgen.recipes.load import load_recipe

GAUSSIANS, PICTURE = 20_000, 512
SHAPES: dict[str, dict[str, Any]] = {  # of the UNets, where diffusers' defaults differ
    "stable-diffusion-1.5": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "stable-diffusion-2.1": {
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
}
PROMPT = "a red cube"


@dataclass
class Clock:
    """A listener that times each step, and after it one bare pass of the network."""

    bare: Any
    device: str
    warm_up: int
    seconds: Callable[[], float] = time.perf_counter
    guided: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = self._now()

    def __call__(self, event: object) -> None:
        if not isinstance(event, StepDone):
            return
        done = self._now()
        with torch.no_grad():
            self.bare()
        passed = self._now()
        if event.step >= self.warm_up:
            self.guided.append(done - self._began)
            self.passes.append(passed - done)
        self._began = self._now()

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return self.seconds()


def random_weights(name: str, device: str, vae_dtype: torch.dtype) -> DiffusersImagePrior:
    """The UNet and the VAE of a published model by shape (configs of the published folders), random weights."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    dtype = torch.float16 if device == "cuda" else torch.float32
    make_unet: Any = UNet2DConditionModel  # whose hints say a tuple of one for each list of blocks
    make_vae: Any = AutoencoderKL
    shape = SHAPES[name]
    unet = make_unet(sample_size=64, **shape)
    vae = make_vae(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    states = torch.zeros(77, shape["cross_attention_dim"], dtype=dtype)
    text = TextEmbedder(lambda: lambda texts: {"states": states.expand(len(texts), -1, -1)}, "random")
    for network in (unet, vae):
        network.requires_grad_(False).eval()
    return DiffusersImagePrior(
        unet.to(device, dtype).to(memory_format=torch.channels_last),
        Latents(vae.to(device, vae_dtype), PICTURE),
        text,
        NoiseSchedule.scaled_linear(),
        "epsilon",
        scale=100.0,
    )


def bare_pass(prior: DiffusersImagePrior, views: int, device: str) -> Any:
    """() -> one forward pass of the network on a batch of 2 x views."""
    prior.prepare([PROMPT])
    config = prior.network.config
    z = torch.randn(2 * views, config.in_channels, config.sample_size, config.sample_size, device=device)
    arguments = prior.arguments(
        z, torch.full((2 * views,), 0.5, device=device), Condition((PROMPT,) * 2 * views)
    )
    return lambda: prior.network(**arguments, return_dict=False)


def settings(network: str, overrides: list[str]) -> list[str]:
    if network == "embedded":
        return overrides
    return [
        f"cameras.resolution={PICTURE}",
        "cameras.batch=1",
        f"representation.count={GAUSSIANS}",
        *overrides,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=("embedded", *SHAPES), default="embedded")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--vae-dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--linear", action="store_true", help="a linear map instead of the encoder")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--count", action="store_true", help="operations instead of seconds")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    device, steps = arguments.device, arguments.steps + arguments.warm_up
    if arguments.count and arguments.network != "embedded":
        device = "meta"  # shapes without numbers
    recipe = load_recipe("sds", settings(arguments.network, arguments.overrides), prompt=PROMPT, steps=steps)
    prior: Any = (
        load_prior(PriorConfig(), device)
        if arguments.network == "embedded"
        else random_weights(arguments.network, device, getattr(torch, arguments.vae_dtype))
    )
    views = recipe.cameras.make()(0, 0, steps)
    bare = bare_pass(prior, len(views), device)
    if arguments.count:
        print(counted(prior, bare, views))
        return
    parts = build(recipe, device)
    config = replace(parts.guidances[0].config, linear_until=float(arguments.linear))
    guide = type(parts.guidances[0])(config, device, prior=prior)
    seconds = time.perf_counter if device == "cuda" else time.process_time
    clock = Clock(bare, device, arguments.warm_up, seconds)
    distill(
        parts.scene, parts.renderer, parts.cameras, (guide,), PROMPT, steps=steps,
        background=parts.background, regularizers=parts.regularizers, listeners=(clock,),
    )  # fmt: skip
    step, forward = statistics.median(clock.guided), statistics.median(clock.passes)
    ratio = statistics.median(a / b for a, b in zip(clock.guided, clock.passes, strict=True))
    wanted = 1.10 if device == "cuda" else 1.35
    print("| network | device | views | picture | guided step, ms | bare pass, ms | ratio | wanted |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {arguments.network} | {device} | {len(views)} | {views.height} | {1e3 * step:.1f} "
        f"| {1e3 * forward:.1f} | {ratio:.2f} | {wanted:.2f} |"
    )
    print(f"\nmedians of {arguments.steps} steps, {torch.get_num_threads()} threads")


def counted(prior: DiffusersImagePrior, bare: Any, views: Any) -> str:
    """Operations of the bare pass, and of encoding a render with its backward pass, which a step adds to it."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(prior.network.parameters()).device
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        bare()
    pictures = torch.rand(len(views), views.height, views.width, 3, device=device, requires_grad=True)
    with FlopCounterMode(display=False) as encode:
        prior.encode(pictures).sum().backward()
    network, extra = forward.get_total_flops(), encode.get_total_flops()
    return (
        f"bare pass {network / 1e12:.3f} TFLOP, encoding and its backward {extra / 1e12:.3f} TFLOP: "
        f"a step is at least {1 + extra / network:.2f} times the bare pass in operations"
    )


if __name__ == "__main__":
    main()
