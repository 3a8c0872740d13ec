"""What a single file of weights is, told from the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder.single_weights import shapes_of

DENOISER = "model.diffusion_model."
VAE = "first_stage_model."


class Kind(Enum):
    """The models that are read from single files. The value is what a message calls them."""

    SD1 = "Stable Diffusion 1.x"
    SD2 = "Stable Diffusion 2.x"
    SDXL = "Stable Diffusion XL"
    SD3 = "Stable Diffusion 3"
    FLUX = "FLUX"
    LORA = "a file of low-rank changes (LoRA)"
    CONTROLNET = "a ControlNet"
    VAE = "an autoencoder (VAE)"


_CHANGES = ("lora_", ".lora_A.", ".lora_B.", ".lora.", ".hada_w", ".lokr_w", "lora_unet", "lora_te")
_CONTROLS = ("control_model.", "controlnet_cond_embedding.", "input_hint_block.", "controlnet_down_blocks.")
_OTHERS = (
    ("edm_mean", "Playground 2.5, whose noise levels are continuous"),
    ("single_stream_modulation.", "FLUX.2"),
    ("distilled_guidance_layer.", "Chroma, which has no guidance embedding of FLUX"),
    ("conditioner.embedders.0.model.", "the refiner of Stable Diffusion XL"),
    ("emb_params", "an embedding (textual inversion)"),
    ("scaled_fp8", "a model in scaled 8-bit numbers"),
    ("motion_modules.", "the motion module of AnimateDiff alone"),
    ("text_model.encoder.", "the text encoder CLIP alone"),
    ("encoder.block.0.layer.0.SelfAttention", "the text encoder T5 alone"),
    ("down_blocks.0.", "one part of a pipeline folder"),
    ("transformer_blocks.0.", "one part of a pipeline folder"),
)


def kind_of(file: Path) -> Kind:
    """The kind of a file. Raises UserError for one that is truncated, and for one that is none of them, by its name
    as far as that is known."""
    shapes = shapes_of(file)
    if _has(shapes, *_CHANGES):
        return Kind.LORA
    if _has(shapes, *_CONTROLS):
        return Kind.CONTROLNET
    whole = any(name.startswith(DENOISER) for name in shapes)
    for part, what in _OTHERS:
        alone = "alone" in what or "one part" in what
        if _has(shapes, part) and not (alone and whole):
            raise _refusal(file, what)
    if _has(shapes, "double_blocks.0.img_attn."):
        return Kind.FLUX
    if _has(shapes, "joint_blocks.0.x_block."):
        return Kind.SD3
    if f"{DENOISER}input_blocks.0.0.weight" in shapes:
        return _stable_diffusion(file, shapes)
    if not whole and _has(shapes, "decoder.conv_in.weight") and _has(shapes, "encoder.conv_in.weight"):
        return Kind.VAE
    raise _refusal(file, _name_of_diffusers(shapes))


def _stable_diffusion(file: Path, shapes: Mapping[str, Sequence[int]]) -> Kind:
    added = f"{DENOISER}label_emb.0.0.weight" in shapes
    linear = any(name.endswith("proj_in.weight") and len(shape) == 2 for name, shape in shapes.items())
    if added and not any(name.startswith("cond_stage_model.") for name in shapes):
        return Kind.SDXL
    if added:
        raise _refusal(file, "a Stable Diffusion that is told the embedding of a picture")
    return Kind.SD2 if linear else Kind.SD1


def _has(shapes: Mapping[str, Sequence[int]], *parts: str) -> bool:
    return any(part in name for part in parts for name in shapes)


def _name_of_diffusers(shapes: Mapping[str, Sequence[int]]) -> str:
    """What diffusers takes a file for; it knows many more kinds."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    try:
        name = infer_diffusers_model_type({key: SimpleNamespace(shape=tuple(s)) for key, s in shapes.items()})
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # it looks for more than is there
        name = "v1"
    return "of an unknown kind" if name == "v1" else f"a model of the kind {name}"


def _refusal(file: Path, what: str) -> UserError:
    kinds = ", ".join(kind.value for kind in (Kind.SD1, Kind.SD2, Kind.SDXL, Kind.SD3, Kind.FLUX))
    return UserError(f"prior file '{file}' is {what}: name a file of {kinds}, or a pipeline folder")
