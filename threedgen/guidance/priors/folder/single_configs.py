"""The configs of the parts of a single file, read off the shapes of its tensors.

What no shape tells (sizes of pictures, numbers of heads, factors of latents) is the same for all models of a
family, and is taken from the papers' code. Every function takes the shapes of one part: name without prefix ->
shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Shapes = Mapping[str, Sequence[int]]

_HEADS = 8  # of each layer of Stable Diffusion 1.x
_HEAD = 64  # channels of a head of the later UNets, of SD3 and of CLIP
_FLUX_HEAD = 128


def unet(shapes: Shapes, side: int, pooled: int = 0) -> dict[str, Any]:
    """UNet2DConditionModel. side: of its samples. pooled: width of the pooled text of Stable Diffusion XL, or 0."""
    first = shapes["input_blocks.0.0.weight"]
    width, inputs = first[0], first[1]
    widths, depths, layers = _levels(shapes)
    context = next(shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight"))
    linear = any(name.endswith("proj_in.weight") and len(shape) == 2 for name, shape in shapes.items())
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": side,
        "in_channels": inputs,
        "out_channels": shapes["out.2.weight"][0] if "out.2.weight" in shapes else inputs,
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "transformer_layers_per_block": [depth or 1 for depth in depths],
        "cross_attention_dim": context,
        "attention_head_dim": [max(value // _HEAD, 1) for value in widths] if linear else _HEADS,
        "use_linear_projection": linear,
    }
    added = shapes.get("label_emb.0.0.weight")
    if added is not None and pooled:
        # Six numbers, each of as many waves, and the pooled text.
        config |= {"addition_embed_type": "text_time", "addition_time_embed_dim": (added[1] - pooled) // 6}
    elif added is not None:
        config["class_embed_type"] = "projection"
    if added is not None:
        config["projection_class_embeddings_input_dim"] = added[1]
    assert widths[0] == width
    return config


def controlnet(shapes: Shapes) -> dict[str, Any]:
    """ControlNetModel for a UNet of Stable Diffusion 1.x or 2.x."""
    described = unet(shapes, 64)
    hints = [shape[0] for name, shape in shapes.items() if _is_hint(name)]
    kept = (
        "in_channels",
        "block_out_channels",
        "layers_per_block",
        "down_block_types",
        "cross_attention_dim",
    )
    more = ("attention_head_dim", "use_linear_projection", "transformer_layers_per_block")
    return {
        "_class_name": "ControlNetModel",
        **{key: described[key] for key in (*kept, *more)},
        "conditioning_channels": shapes["input_hint_block.0.weight"][1],
        # Every width is that of two layers, and the last layer leads to the width of the network.
        "conditioning_embedding_out_channels": sorted(set(hints[:-1])),
    }


def autoencoder(shapes: Shapes, scale: float, shift: float | None = None, side: int = 512) -> dict[str, Any]:
    """AutoencoderKL. scale, shift: of its latents. side: of its pictures."""
    widths = [
        shapes[f"encoder.down.{level}.block.0.conv1.weight"][0]
        for level in range(_count(shapes, "encoder.down"))
    ]
    quant = "quant_conv.weight" in shapes
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": widths,
        "layers_per_block": _count(shapes, "encoder.down.0.block"),
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "sample_size": side,
        "scaling_factor": scale,
        "shift_factor": shift,
        "use_quant_conv": quant,
        "use_post_quant_conv": quant,
    }


def sd3(shapes: Shapes) -> dict[str, Any]:
    """SD3Transformer2DModel, of Stable Diffusion 3 and 3.5."""
    width, channels = shapes["x_embedder.proj.weight"][:2]
    second = sorted({int(name.split(".")[1]) for name in shapes if ".x_block.attn2." in name})
    return {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": shapes["x_embedder.proj.weight"][2],
        "in_channels": channels,
        "out_channels": channels,
        "num_layers": _count(shapes, "joint_blocks"),
        "attention_head_dim": _HEAD,
        "num_attention_heads": width // _HEAD,
        "caption_projection_dim": width,
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "pooled_projection_dim": shapes["y_embedder.mlp.0.weight"][1],
        "pos_embed_max_size": math.isqrt(shapes["pos_embed"][1]),
        "dual_attention_layers": second,
        "qk_norm": "rms_norm" if any(".ln_q." in name for name in shapes) else None,
    }


def flux(shapes: Shapes) -> dict[str, Any]:
    """FluxTransformer2DModel."""
    width, inputs = shapes["img_in.weight"]
    return {
        "_class_name": "FluxTransformer2DModel",
        "patch_size": 1,
        "in_channels": inputs,
        "num_layers": _count(shapes, "double_blocks"),
        "num_single_layers": _count(shapes, "single_blocks"),
        "attention_head_dim": _FLUX_HEAD,
        "num_attention_heads": width // _FLUX_HEAD,
        "joint_attention_dim": shapes["txt_in.weight"][1],
        "pooled_projection_dim": shapes["vector_in.in_layer.weight"][1],
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
        "axes_dims_rope": [16, 56, 56],
    }


def clip(shapes: Shapes, projected: bool) -> dict[str, Any]:
    """CLIP's text encoder under transformers' names: OpenAI's, or if it has a projection OpenCLIP's largest.

    projected: whether the class is the one that projects its pooled state.
    """
    short = {name.removeprefix("text_model."): shape for name, shape in shapes.items()}
    return _clip(
        words=short["embeddings.token_embedding.weight"],
        positions=short["embeddings.position_embedding.weight"][0],
        inner=short["encoder.layers.0.mlp.fc1.weight"][0],
        layers=_count(short, "encoder.layers"),
        projection=short.get("text_projection.weight", short["embeddings.token_embedding.weight"][1:])[0],
        projected=projected,
    )


def open_clip(shapes: Shapes, projected: bool) -> dict[str, Any]:
    """CLIP's text encoder under OpenCLIP's names. Without a projection the last layer is not read: then it is that
    of Stable Diffusion 2.x, which takes the last states but one."""
    width = shapes["token_embedding.weight"][1]
    return _clip(
        words=shapes["token_embedding.weight"],
        positions=shapes["positional_embedding"][0],
        inner=shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        layers=_count(shapes, "transformer.resblocks") - (not projected),
        projection=shapes["text_projection"][1] if "text_projection" in shapes else width,
        projected=projected,
        activation="gelu",
    )


def t5(shapes: Shapes) -> dict[str, Any]:
    """The encoder of T5 1.1."""
    words, width = shapes["shared.weight"]
    heads = shapes["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"][1]
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": words,
        "d_model": width,
        "d_kv": shapes["encoder.block.0.layer.0.SelfAttention.q.weight"][0] // heads,
        "d_ff": shapes["encoder.block.0.layer.1.DenseReluDense.wo.weight"][1],
        "num_heads": heads,
        "num_layers": _count(shapes, "encoder.block"),
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }


def _clip(
    words: Sequence[int],
    positions: int,
    inner: int,
    layers: int,
    projection: int,
    projected: bool,
    activation: str = "quick_gelu",
) -> dict[str, Any]:
    count, width = words
    return {
        "architectures": ["CLIPTextModelWithProjection" if projected else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": count,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": max(width // _HEAD, 1),
        "max_position_embeddings": positions,
        "projection_dim": projection,
        "hidden_act": activation,
        # The marks of a text are the last words, and the second of them also fills it up.
        "bos_token_id": count - 2,
        "eos_token_id": count - 1,
        "pad_token_id": count - 1,
    }


def _levels(shapes: Shapes) -> tuple[list[int], list[int], int]:
    """The width and the number of transformer blocks (0: no attention) of each level, and its number of layers."""
    widths: list[int] = []
    depths: list[int] = []
    layers, level, seen = 0, 0, 0
    for block in range(1, _count(shapes, "input_blocks")):
        name = f"input_blocks.{block}."
        if f"{name}0.op.weight" in shapes:
            level, seen = level + 1, 0
            continue
        seen += 1
        layers = max(layers, seen)
        if level == len(widths):
            widths.append(shapes[f"{name}0.out_layers.3.weight"][0])
            depths.append(_count(shapes, f"{name}1.transformer_blocks"))
    return widths, depths, layers


def _count(shapes: Shapes, start: str) -> int:
    """How many numbers follow a start of names."""
    dot = f"{start}."
    return len({name[len(dot) :].split(".")[0] for name in shapes if name.startswith(dot)})


def _is_hint(name: str) -> bool:
    return name.startswith("input_hint_block.") and name.endswith(".bias")
