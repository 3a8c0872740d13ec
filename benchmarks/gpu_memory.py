"""The memory that a recipe takes on a GPU with a real prior, counted on torch's meta device: no GPU, no weights.

    python benchmarks/gpu_memory.py [--check] [RECIPE ...]

The networks have the shapes of the published models in float16, the autoencoder is float32, and attention counts
as the fused kernels of CUDA compute it, which keep no square of scores. For each recipe: the weights of its
priors, and the most that any part of a step takes beside them: a picture in the autoencoder, forward and
backward, whose numbers wait for a pass of the denoiser with all views and three texts, or for VSD's pass with a
gradient; the samples of the renderer (its own limit). Text encoders count where they take more, at the start.
Gaussians take 1 KB each with their moments. 1 GB is added for what the libraries and CUDA itself take.

--check: the command fails unless the line `memory` of each recipe says this figure.
"""

from __future__ import annotations

import argparse
import functools
import math
import re
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from threedgen.guidance.priors.codec import Latents
from threedgen.recipes.layers import recipe_card
from threedgen.recipes.load import load_recipe

GB = 1024.0**3
TEXTS = 3  # branches of the guidance that are computed in one pass: the text, none, and a negative one
PER_GAUSSIAN, CONTEXT = 1000, 1.0
RECIPES = (
    *("text-to-3d", "sds", "sjc", "csd", "nfsd", "sdi", "hifa", "dreamfusion", "dreamfusion-if", "magic3d"),
    *("fantasia3d", "prolificdreamer", "dreamgaussian", "gaussiandreamer", "luciddreamer", "mvdream"),
    *("image-to-3d", "zero123", "magic123", "dreamgaussian-image", "dreamgaussian4d"),
    *("4d-fy", "align-your-gaussians"),
)


@dataclass
class Model:
    """network: makes the denoiser. states: width of its texts. side: of its latents or pixels. encoders: billions
    of weights of its text or image encoders. pixels: of the pictures of its autoencoder; 0: none."""

    network: Callable[[], Any]
    states: int
    side: int
    encoders: float
    pixels: int
    frames: int = 1
    more: dict[str, tuple[int, ...]] = field(default_factory=dict)


def _unet(**options: Any) -> Callable[[], Any]:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    make: Any = UNet2DConditionModel  # whose hints say a tuple of one for each list of blocks
    return lambda: make(**options)


def _clips(**options: Any) -> Callable[[], Any]:
    from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel

    make: Any = UNet3DConditionModel
    return lambda: make(**options)


SD2 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
CROSS = ("SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D")
MODELS = {
    "Stable Diffusion": Model(_unet(cross_attention_dim=768, attention_head_dim=8), 768, 64, 0.123, 512),
    "MVDream": Model(_unet(**SD2), 1024, 32, 0.34, 256),
    "Zero-1-to-3": Model(
        _unet(in_channels=8, out_channels=4, cross_attention_dim=768, attention_head_dim=8),
        768,
        32,
        0.304,
        256,
    ),
    "ModelScope": Model(_clips(cross_attention_dim=1024, attention_head_dim=64), 1024, 32, 0.34, 256, 16),
    "ZeroScope": Model(_clips(cross_attention_dim=1024, attention_head_dim=64), 1024, 32, 0.34, 256, 24),
    "DeepFloyd IF": Model(
        _unet(
            in_channels=3,
            out_channels=6,
            block_out_channels=(704, 1408, 2112, 2816),
            layers_per_block=3,
            down_block_types=("ResnetDownsampleBlock2D", *3 * CROSS[:1]),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=(*3 * CROSS[1:], "ResnetUpsampleBlock2D"),
            cross_attention_dim=2816,
            attention_head_dim=64,
            encoder_hid_dim=4096,
            addition_embed_type="text",
            addition_embed_type_num_heads=64,
            resnet_time_scale_shift="scale_shift",
            act_fn="gelu",
        ),
        4096,
        64,
        4.76,
        0,
    ),
    "SDXL": Model(
        _unet(
            cross_attention_dim=2048,
            attention_head_dim=(5, 10, 20),
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        2048,
        128,
        0.82,
        1024,
        more={"text_embeds": (1280,), "time_ids": (6,)},
    ),
}


class Peak(TorchDispatchMode):
    """The most bytes that the tensors made inside the block held at once. without: tensors that do not count."""

    def __init__(self, without: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in without}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: Any) -> None:
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class _Fused(torch.autograd.Function):
    """What the fused attention of CUDA keeps: its inputs and its output."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


@contextmanager
def counted(without: Iterable[torch.Tensor] = ()) -> Iterator[Peak]:
    def fused(q: Any, k: Any, v: Any, *rest: Any, **options: Any) -> Any:
        return _Fused.apply(q, k, v)

    with mock.patch.object(F, "scaled_dot_product_attention", fused), Peak(without) as peak:
        yield peak


def autoencoder() -> Any:
    """The autoencoder of Stable Diffusion and SDXL, on the meta device."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    make: Any = AutoencoderKL
    with torch.device("meta"):
        return make(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )


@functools.cache
def encoding(pixels: int, views: int, dtype: torch.dtype = torch.float32) -> float:
    """GB of the encoding of `views` pictures and of its backward pass."""
    codec = Latents(autoencoder().to(dtype), pixels)
    pictures = torch.empty(views, pixels, pixels, 3, device="meta", requires_grad=True)
    with counted() as peak:
        codec.encode(pictures).sum().backward()
    return peak.most / GB


@functools.cache
def denoising(name: str, samples: int, learns: bool) -> tuple[float, float]:
    """GB of the weights of a denoiser, and of a pass with `samples` samples, with a gradient if it `learns`."""
    model = MODELS[name]
    with torch.device("meta"):
        network = model.network().half().requires_grad_(False)
        shape = (model.frames, model.side, model.side) if model.frames > 1 else (model.side, model.side)
        z = torch.empty(samples, network.config.in_channels, *shape).half().requires_grad_(learns)
        states = torch.empty(samples, 77, model.states).half()
        more = {key: torch.empty(samples, *rest).half() for key, rest in model.more.items()}
        time = torch.tensor(500)
    options = {"added_cond_kwargs": more} if more else {}
    with torch.set_grad_enabled(learns), counted(network.parameters()) as peak:
        out = network(z, time, states, **options).sample
        if learns:
            out.sum().backward()
    return sum(weight.nbytes for weight in network.parameters()) / GB, peak.most / GB


def of_step(family: str, views: int, gaussians: int) -> float:
    """GB of a guided step of a model without its text encoders, as `of_recipe` counts it."""
    model = MODELS[family]
    network, passed = denoising(family, TEXTS * views, False)
    weights = network + sum(weight.numel() for weight in autoencoder().parameters()) * 4 / GB
    return weights + PER_GAUSSIAN * gaussians / GB + encoding(model.pixels, 1) + passed + CONTEXT


def of_recipe(name: str) -> float:
    """GB of a recipe with real priors."""
    recipe = load_recipe(name, ["prompt=a cube"], real_prior=True)
    line = recipe_card(name).memory
    families = [family for family in MODELS if family in line]
    most = 0.0
    for stage in recipe.all_stages:
        cameras, guidances = stage.resolved["cameras"], stage.resolved["guidance"]
        learns = any(guide.get("objective") == "vsd" for guide in guidances)
        count = stage.resolved["representation"].get("count") or 0
        count = max(count, (stage.resolved["representation"].get("density") or {}).get("max_count") or 0)
        scene = PER_GAUSSIAN * count / GB
        work = [stage.resolved["renderer"].get("memory", 0.0) * 1e6 / GB]
        weights = start = 0.0
        for family in families:
            model = MODELS[family]
            views = 1 if model.frames > 1 else cameras["batch"]
            network, passed = denoising(family, TEXTS * views, False)
            work.append(passed)
            if learns and model.frames == 1:
                passed = max(passed, denoising(family, views, True)[1])
            weights += network
            if model.pixels:
                kept = encoding(model.pixels, 1)
                weights += sum(weight.numel() for weight in autoencoder().parameters()) * 4 / GB
                work += [kept, kept + passed]  # the last picture's activations wait for the denoiser
            start = max(start, weights + 2e9 * model.encoders / GB)
        most = max(most, start, weights + scene + max(work))
    return most + CONTEXT


def said(text: str) -> int | None:
    found = re.search(r"about (\d+) GB on the GPU", text)
    return int(found[1]) if found else None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", default=RECIPES)
    arguments = parser.parse_args()
    print(
        "| encoding, forward and backward | one view | four views | one view, bfloat16 |\n|---|---|---|---|"
    )
    for pixels in (256, 512, 1024):
        sizes = encoding(pixels, 1), encoding(pixels, 4), encoding(pixels, 1, torch.bfloat16)
        print(f"| {pixels} x {pixels} | " + " | ".join(f"{size:.1f} GB" for size in sizes) + " |")
    print("\n| recipe | GB on the GPU | its line says |\n|---|---|---|")
    wrong = 0
    for name in arguments.recipes:
        size = of_recipe(name)
        line = said(recipe_card(name).memory)
        wrong += line != math.ceil(size)
        print(f"| {name} | {size:.1f} | {line} |", flush=True)
    return int(arguments.check and wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
