"""Tiny models of diffusers under the names of the original code, as single files have them.

The inverse of what is tested, written from the tables of the original code (CompVis/latent-diffusion, OpenCLIP).
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_pipelines import diffusers, transformers
from torch import Tensor

Tensors = dict[str, Tensor]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet(model) -> Tensors:
    """A UNet2DConditionModel under the names of latent-diffusion."""
    with_attention = tuple(kind.startswith("Cross") for kind in model.config.up_block_types)
    return _renamed(model.state_dict(), model.config.layers_per_block, with_attention)


def _renamed(state: Tensors, layers: int, with_attention: tuple[bool, ...]) -> Tensors:
    found = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] in ("down_blocks", "up_blocks"):
            level, sort, item = int(parts[1]), parts[2], int(parts[3])
            rest = ".".join(parts[4:])
            if parts[0] == "down_blocks":
                block = level * (layers + 1) + 1 + (layers if sort == "downsamplers" else item)
                start = f"input_blocks.{block}."
                rest = rest.replace("conv.", "op.") if sort == "downsamplers" else rest
                place = {"resnets": "0.", "attentions": "1.", "downsamplers": "0."}[sort]
            else:
                block = level * (layers + 1) + (layers if sort == "upsamplers" else item)
                start = f"output_blocks.{block}."
                place = {"resnets": "0.", "attentions": "1."}.get(
                    sort, "2." if with_attention[level] else "1."
                )
        elif parts[0] == "mid_block":
            sort, item, rest = parts[1], int(parts[2]), ".".join(parts[3:])
            start, place = "middle_block.", "1." if sort == "attentions" else f"{2 * item}."
        else:
            start, place, sort, rest = "", "", "", name
            for ours, theirs in _ENDS.items():
                if name.startswith(f"{ours}."):
                    rest = name.replace(ours, theirs)
        if sort == "resnets":
            inner, end = rest.rsplit(".", 1)
            rest = f"{_RESNET[inner]}.{end}"
        found[f"model.diffusion_model.{start}{place}{rest}"] = value
    return found


def autoencoder(model, prefix: str = "first_stage_model.") -> Tensors:
    """An AutoencoderKL under the names of latent-diffusion."""
    levels = len(model.config.block_out_channels)
    found = {}
    for name, value in model.state_dict().items():
        new = name
        for level in range(levels):
            new = new.replace(f"down_blocks.{level}.resnets", f"down.{level}.block")
            new = new.replace(f"down_blocks.{level}.downsamplers.0", f"down.{level}.downsample")
            new = new.replace(f"up_blocks.{level}.resnets", f"up.{levels - 1 - level}.block")
            new = new.replace(f"up_blocks.{level}.upsamplers.0", f"up.{levels - 1 - level}.upsample")
        new = new.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        new = new.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if "mid_block.attentions.0" in new:
            new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            for ours, theirs in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
                new = new.replace(f"{ours}.", f"{theirs}.")
            value = value[:, :, None, None] if value.ndim == 2 else value
        found[prefix + new] = value
    return found


def clip(model, prefix: str = "cond_stage_model.transformer.") -> Tensors:
    """A text encoder of transformers, always with the name of the inner model, which its newest version drops."""
    found = {}
    for name, value in model.state_dict().items():
        outer = name.startswith(("text_model.", "text_projection."))
        found[f"{prefix}{name if outer else f'text_model.{name}'}"] = value
    return found


def open_clip(model, prefix: str, extra_layer: bool = False) -> Tensors:
    """A text encoder of transformers under OpenCLIP's names. extra_layer: one more, which is not read."""
    state = {name.removeprefix("text_model."): value for name, value in model.state_dict().items()}
    width = state["embeddings.token_embedding.weight"].shape[1]
    found = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "text_projection": state.get("text_projection.weight", torch.eye(width)).T,
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
    }
    count = model.config.num_hidden_layers
    for layer in range(count + extra_layer):
        ours, theirs = f"encoder.layers.{min(layer, count - 1)}.", f"transformer.resblocks.{layer}."
        for end in ("weight", "bias"):
            found[f"{theirs}attn.in_proj_{end}"] = torch.cat(
                [state[f"{ours}self_attn.{name}_proj.{end}"] for name in "qkv"]
            )
            for old, new in (
                ("self_attn.out_proj", "attn.out_proj"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                found[f"{theirs}{new}.{end}"] = state[f"{ours}{old}.{end}"]
    return {prefix + name: value for name, value in found.items()}


def write(file: Path, *parts: Tensors) -> Path:
    tensors = {name: value.clone().contiguous() for part in parts for name, value in part.items()}
    save_file(tensors, file)
    return file


def text_encoder(width: int = 64, projection: bool = False, activation: str = "quick_gelu"):
    """A tokenizer of letters and an encoder with heads of 64 channels, as all published ones have."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + [",", "!"]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    config = transformers().CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=width // 64,
        max_position_embeddings=77,
        projection_dim=width,
        hidden_act=activation,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
        pad_token_id=len(words) - 1,
    )
    encoder = transformers().CLIPTextModelWithProjection if projection else transformers().CLIPTextModel
    filler = "!" if activation == "gelu" else "<|endoftext|>"
    tokenizer = transformers().CLIPTokenizer(
        vocab=vocabulary, merges=[], model_max_length=77, pad_token=filler
    )
    return tokenizer, encoder(config)


def plain_autoencoder(scale: float):
    return diffusers().AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
        sample_size=512,
        scaling_factor=scale,
    )


def plain_unet(context: int, size: int = 64, linear: bool = False, **options):
    """A UNet with the widths, groups and heads of latent-diffusion: 8 heads, or with linear layers heads of 64."""
    return diffusers().UNet2DConditionModel(
        sample_size=size,
        block_out_channels=(32, 64),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=context,
        attention_head_dim=1 if linear else 8,
        use_linear_projection=linear,
        **options,
    )


def controlnet(model) -> Tensors:
    """A ControlNetModel under the names of the original code (lllyasviel/ControlNet)."""
    state = model.state_dict()
    alike = {name: value for name, value in state.items() if not name.startswith("controlnet_")}
    found = {
        name.replace("model.diffusion_model.", "control_model."): value
        for name, value in _renamed(alike, model.config.layers_per_block, ()).items()
    }
    hints = ["conv_in", *(f"blocks.{index}" for index in range(6)), "conv_out"]
    for end in ("weight", "bias"):
        for index in range(len(model.controlnet_down_blocks)):
            found[f"control_model.zero_convs.{index}.0.{end}"] = state[
                f"controlnet_down_blocks.{index}.{end}"
            ]
        found[f"control_model.middle_block_out.0.{end}"] = state[f"controlnet_mid_block.{end}"]
        for index, name in enumerate(hints):
            hint = f"controlnet_cond_embedding.{name}.{end}"
            found[f"control_model.input_hint_block.{2 * index}.{end}"] = state[hint]
    return found
