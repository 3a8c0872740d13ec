"""Single files of SD3 and FLUX: configs and names of weights against the classes of diffusers, without numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tiny_pipelines import diffusers

from threedgen.core.empty import made_empty
from threedgen.guidance.priors.folder import single_configs
from threedgen.guidance.priors.folder.single_weights import converted

Shapes = dict[str, tuple[int, ...]]


def linear(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def flux(guided: bool) -> Shapes:
    """One block of each kind, under the names of the original code (black-forest-labs/flux), in its width."""
    w = 3072
    layers = [("img_in", w, 64), ("txt_in", w, 4096), ("final_layer.linear", 64, w)]
    layers += [("final_layer.adaLN_modulation.1", 2 * w, w)]
    inputs = {"time_in": 256, "vector_in": 768, **({"guidance_in": 256} if guided else {})}
    for name, width in inputs.items():
        layers += [(f"{name}.in_layer", w, width), (f"{name}.out_layer", w, w)]
    for side in ("img", "txt"):
        block = f"double_blocks.0.{side}_"
        layers += [(f"{block}mod.lin", 6 * w, w), (f"{block}attn.qkv", 3 * w, w), (f"{block}attn.proj", w, w)]
        layers += [(f"{block}mlp.0", 4 * w, w), (f"{block}mlp.2", w, 4 * w)]
    single = "single_blocks.0."
    layers += [
        (f"{single}linear1", 7 * w, w),
        (f"{single}linear2", w, 5 * w),
        (f"{single}modulation.lin", 3 * w, w),
    ]
    shapes = dict(item for layer in layers for item in linear(*layer))
    norms = [f"double_blocks.0.{side}_attn.norm" for side in ("img", "txt")] + [f"{single}norm"]
    return shapes | {f"{norm}.{kind}_norm.scale": (128,) for norm in norms for kind in ("query", "key")}


def sd3(second_attention: bool, normed: bool) -> Shapes:
    """Two blocks under the names of the original code (Stability-AI/sd3-ref). second_attention: as in 3.5."""
    w = 128
    layers = [("t_embedder.mlp.0", w, 256), ("t_embedder.mlp.2", w, w), ("y_embedder.mlp.0", w, 2048)]
    layers += [("y_embedder.mlp.2", w, w), ("context_embedder", w, 4096), ("final_layer.linear", 64, w)]
    layers += [("final_layer.adaLN_modulation.1", 2 * w, w)]
    norms = []
    for number, side in ((number, side) for number in (0, 1) for side in ("x", "context")):
        block = f"joint_blocks.{number}.{side}_block."
        last = number == 1 and side == "context"
        twice = second_attention and number == 0 and side == "x"
        layers += [(f"{block}adaLN_modulation.1", (2 if last else 9 if twice else 6) * w, w)]
        for name in ("attn", "attn2") if twice else ("attn",):
            layers += [(f"{block}{name}.qkv", 3 * w, w)]
            layers += [] if last else [(f"{block}{name}.proj", w, w)]
            norms += [f"{block}{name}.ln_{kind}.weight" for kind in "qk"] if normed else []
        layers += [] if last else [(f"{block}mlp.fc1", 4 * w, w), (f"{block}mlp.fc2", w, 4 * w)]
    shapes = dict(item for layer in layers for item in linear(*layer))
    shapes |= {"x_embedder.proj.weight": (w, 16, 2, 2), "x_embedder.proj.bias": (w,), "pos_embed": (1, 64, w)}
    return shapes | dict.fromkeys(norms, (64,))


@pytest.mark.parametrize(
    ("form", "shapes", "prefix"),
    [
        ("flux", flux(guided=True), ""),
        ("flux", flux(guided=False), "model.diffusion_model."),
        ("sd3", sd3(second_attention=False, normed=False), "model.diffusion_model."),
        ("sd3", sd3(second_attention=True, normed=True), ""),
    ],
)
def test_every_weight_of_the_class_comes_from_the_file(form, shapes, prefix):
    config = getattr(single_configs, form)(shapes)
    tensors = {prefix + name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    found = converted(form, tensors, prefix, config)
    with made_empty():
        model = getattr(diffusers(), config["_class_name"]).from_config(config)
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in found.items()} == wanted


def test_the_families_have_the_sizes_that_are_published():
    config = single_configs.flux(flux(guided=True))
    assert (config["num_attention_heads"], config["guidance_embeds"], config["in_channels"]) == (24, True, 64)
    config = single_configs.sd3(sd3(second_attention=True, normed=True))
    assert config["pos_embed_max_size"] == 8
    assert config["dual_attention_layers"] == [0]
