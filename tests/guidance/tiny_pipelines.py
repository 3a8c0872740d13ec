"""Tiny pipelines with random weights, written to disk by diffusers itself, and the cameras that see them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

from threedgen.cameras import orbit
from threedgen.types import Cameras

KINDS = ("sd1", "sd2", "if", "cameras")
TEXT_WIDTH = 16


def diffusers() -> Any:
    """The library, typed as Any: its stubs do not know its own lazily exported names."""
    return importlib.import_module("diffusers")


def transformers() -> Any:
    return importlib.import_module("transformers")


def ring(count: int, size: int = 16, elevation: float = 15.0) -> Cameras:
    azimuth = torch.arange(count) * (360.0 / count)
    return orbit(azimuth, torch.full((count,), elevation), torch.full((count,), 3.0), 40.0, size, size)


def clip_parts():
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + [","]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = transformers().CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
    config = transformers().CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=TEXT_WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        pad_token_id=vocabulary["<|endoftext|>"],
    )
    return tokenizer, transformers().CLIPTextModel(config)


def t5_parts():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(chr(code), -3.0) for code in range(ord("a"), ord("z") + 1)]
    tokenizer = transformers().T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=77)
    config = transformers().T5Config(
        vocab_size=len(pieces), d_model=TEXT_WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    return tokenizer, transformers().T5EncoderModel(config)


def unet(channels: int, outputs: int, size: int, **options):
    return diffusers().UNet2DConditionModel(
        sample_size=size,
        in_channels=channels,
        out_channels=outputs,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
        **options,
    )


def autoencoder():
    return diffusers().AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.3,
    )


def stable_diffusion(folder: Path, prediction_type: str) -> None:
    kind = diffusers().PNDMScheduler if prediction_type == "epsilon" else diffusers().DDIMScheduler
    scheduler = kind(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        prediction_type=prediction_type,
    )
    tokenizer, text_encoder = clip_parts()
    diffusers().StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet(4, 4, 16),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def deepfloyd(folder: Path, text_parts, **options) -> None:
    prediction = "v_prediction" if "class_embed_type" in options else "epsilon"
    tokenizer, text_encoder = text_parts()
    diffusers().IFPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet(3, 6, 16, **options),
        scheduler=diffusers().DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def write(kind: str, folder: Path) -> None:
    torch.manual_seed(0)
    if kind == "sd1":
        stable_diffusion(folder, "epsilon")
    elif kind == "sd2":
        stable_diffusion(folder, "v_prediction")
    elif kind == "if":
        deepfloyd(folder, t5_parts, encoder_hid_dim=TEXT_WIDTH)
    else:
        deepfloyd(
            folder,
            clip_parts,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=16,
            addition_embed_type="text",
            addition_embed_type_num_heads=2,
            resnet_time_scale_shift="scale_shift",
        )
