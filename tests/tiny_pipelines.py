"""Tiny pipelines with random weights, written to disk by diffusers itself, and the cameras that see them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras

TEXT_WIDTH = 16
VIEWS = 4  # of a group of the multi-view pipeline


def diffusers() -> Any:
    """The library, typed as Any: its stubs do not know its own lazily exported names."""
    return importlib.import_module("diffusers")


def transformers() -> Any:
    return importlib.import_module("transformers")


def ring(count: int, size: int = 16, elevation: float = 15.0) -> Cameras:
    azimuth = torch.arange(count) * (360.0 / count)
    return orbit(azimuth, torch.full((count,), elevation), torch.full((count,), 3.0), 40.0, size, size)


class Pipelines(Mapping[str, Path]):
    """Folder of each of some kinds, written when first asked for."""

    def __init__(self, root: Path, kinds: Mapping[str, Callable[[Path], None]]) -> None:
        self._root, self._kinds = root, kinds

    def __getitem__(self, kind: str) -> Path:
        folder = self._root / kind
        if not folder.is_dir():
            torch.manual_seed(0)
            self._kinds[kind](folder)
        return folder

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def clip_parts(projection: bool = False):
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
        projection_dim=TEXT_WIDTH,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        pad_token_id=vocabulary["<|endoftext|>"],
    )
    encoder = transformers().CLIPTextModelWithProjection if projection else transformers().CLIPTextModel
    return tokenizer, encoder(config)


def t5_parts(width: int = TEXT_WIDTH):
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(chr(code), -3.0) for code in range(ord("a"), ord("z") + 1)]
    tokenizer = transformers().T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=77)
    config = transformers().T5Config(
        vocab_size=len(pieces), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    return tokenizer, transformers().T5EncoderModel(config)


_BLOCKS = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}


def unet(channels: int, outputs: int, size: int, width: int = TEXT_WIDTH, **options):
    return diffusers().UNet2DConditionModel(
        sample_size=size,
        in_channels=channels,
        out_channels=outputs,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        **_BLOCKS,
        **options,
    )


def autoencoder(**options):
    return diffusers().AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.3,
        **options,
    )


def noise(prediction_type: str = "epsilon"):
    return diffusers().DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        prediction_type=prediction_type,
    )


_NO_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def stable_diffusion(
    folder: Path, prediction_type: str = "epsilon", pipeline: str = "", channels: int = 4, **options
) -> None:
    scheduler = noise(prediction_type)
    if not pipeline and prediction_type == "epsilon":
        scheduler = diffusers().PNDMScheduler.from_config(scheduler.config, skip_prk_steps=True)
    tokenizer, text_encoder = clip_parts()
    getattr(diffusers(), pipeline or "StableDiffusionPipeline")(
        vae=autoencoder(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet(channels, 4, 16, **options),
        scheduler=scheduler,
        **_NO_CHECKER,
    ).save_pretrained(folder)


def multiview(folder: Path) -> None:
    stable_diffusion(folder, class_embed_type="projection", projection_class_embeddings_input_dim=16)
    edit(folder / "unet" / "config.json", num_views=VIEWS)


def deepfloyd(folder: Path, text_parts=t5_parts, **options) -> None:
    prediction = "v_prediction" if "class_embed_type" in options else "epsilon"
    tokenizer, text_encoder = text_parts()
    diffusers().IFPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet(3, 6, 16, **options),
        scheduler=diffusers().DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction),
        watermarker=None,
        **_NO_CHECKER,
    ).save_pretrained(folder)


def cameras(folder: Path) -> None:
    deepfloyd(
        folder,
        clip_parts,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        resnet_time_scale_shift="scale_shift",
    )


def deepfloyd_2(folder: Path) -> None:
    tokenizer, text_encoder = t5_parts()
    scheduler = diffusers().DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range")
    diffusers().IFSuperResolutionPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet(6, 6, 16, encoder_hid_dim=TEXT_WIDTH, class_embed_type="timestep"),
        scheduler=scheduler,
        image_noising_scheduler=diffusers().DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        watermarker=None,
        **_NO_CHECKER,
    ).save_pretrained(folder)


def sdxl(folder: Path) -> None:
    tokenizer, text_encoder = clip_parts()
    tokenizer_2, text_encoder_2 = clip_parts(projection=True)
    diffusers().StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet(
            4,
            4,
            16,
            2 * TEXT_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
        ),
        scheduler=noise(),
        add_watermarker=False,
    ).save_pretrained(folder)


def sd3(folder: Path, t5: bool = True) -> None:
    clips = [clip_parts(projection=True), clip_parts(projection=True)]
    tokenizer_3, text_encoder_3 = t5_parts(2 * TEXT_WIDTH + 8) if t5 else (None, None)
    diffusers().StableDiffusion3Pipeline(
        transformer=diffusers().SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=2 * TEXT_WIDTH + 8,
            caption_projection_dim=16,
            pooled_projection_dim=2 * TEXT_WIDTH,
            pos_embed_max_size=16,
        ),
        scheduler=diffusers().FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clips[0][1],
        tokenizer=clips[0][0],
        text_encoder_2=clips[1][1],
        tokenizer_2=clips[1][0],
        text_encoder_3=text_encoder_3,
        tokenizer_3=tokenizer_3,
    ).save_pretrained(folder)


def flux(folder: Path, dev: bool = True) -> None:
    tokenizer, text_encoder = clip_parts()
    tokenizer_2, text_encoder_2 = t5_parts()
    dynamic = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
    diffusers().FluxPipeline(
        scheduler=diffusers().FlowMatchEulerDiscreteScheduler(**(dynamic if dev else {})),
        vae=autoencoder(shift_factor=0.1),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=diffusers().FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=1,
            joint_attention_dim=TEXT_WIDTH,
            pooled_projection_dim=TEXT_WIDTH,
            guidance_embeds=dev,
            axes_dims_rope=(4, 4, 8),
        ),
    ).save_pretrained(folder)


def picture_encoder(projection: bool = True):
    config = transformers().CLIPVisionConfig(
        hidden_size=TEXT_WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=TEXT_WIDTH,
    )
    plain = transformers().CLIPVisionModel
    return (transformers().CLIPVisionModelWithProjection if projection else plain)(config)


def zero123plus(folder: Path) -> None:
    """The parts of the published folders under their names; diffusers has no class of this pipeline."""
    tokenizer, text_encoder = clip_parts()
    scheduler = diffusers().EulerAncestralDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
    )
    parts = {
        "vae": ("diffusers", autoencoder()),
        "unet": ("diffusers", unet(4, 4, 64)),
        "scheduler": ("diffusers", scheduler),
        "text_encoder": ("transformers", text_encoder),
        "tokenizer": ("transformers", tokenizer),
        "vision_encoder": ("transformers", picture_encoder()),
    }
    index: dict[str, Any] = {"_class_name": "Zero123PlusPipeline", "safety_checker": [None, None]}
    for name, (library, part) in parts.items():
        part.save_pretrained(folder / name)
        index[name] = [library, type(part).__name__]
    clip = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    vae = {"image_mean": [0.5] * 3, "image_std": [0.8] * 3}
    for name, side, colours in (("feature_extractor_clip", 32, clip), ("feature_extractor_vae", 24, vae)):
        sides = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        config = {"do_center_crop": True, "do_resize": True, "resample": 3, **sides, **colours}
        (folder / name).mkdir()
        (folder / name / "preprocessor_config.json").write_text(json.dumps(config))
        index[name] = ["transformers", "CLIPImageProcessor"]
    index["ramping_coefficients"] = torch.linspace(0.0, 1.0, 77).tolist()
    (folder / "model_index.json").write_text(json.dumps(index))


def zero123(folder: Path) -> None:
    """As the folders in use: an image variation pipeline of 8 channels, and the layer over embedding and pose."""
    from safetensors.torch import save_file

    diffusers().StableDiffusionImageVariationPipeline(
        vae=autoencoder(),
        image_encoder=picture_encoder(),
        unet=unet(8, 4, 16),
        scheduler=noise(),
        **_NO_CHECKER,
    ).save_pretrained(folder)
    layer = torch.nn.Linear(TEXT_WIDTH + 4, TEXT_WIDTH)
    tensors = {f"projection.{name}": tensor for name, tensor in layer.state_dict().items()}
    (folder / "cc_projection").mkdir()
    save_file(tensors, folder / "cc_projection" / "diffusion_pytorch_model.safetensors")


def controlnet(folder: Path) -> None:
    """Only the ControlNet: it goes beside sd1. Its last layers start at zero, which would hide all it does."""
    network = diffusers().ControlNetModel(
        in_channels=4,
        conditioning_embedding_out_channels=(8, 8),
        cross_attention_dim=TEXT_WIDTH,
        **_BLOCKS,
    )
    for block in (*network.controlnet_down_blocks, network.controlnet_mid_block):
        torch.nn.init.normal_(block.weight, std=0.1)
    torch.nn.init.normal_(network.controlnet_cond_embedding.conv_out.weight, std=0.1)
    network.save_pretrained(folder)


KINDS = {
    "sd1": stable_diffusion,
    "sd2": lambda folder: stable_diffusion(folder, "v_prediction"),
    "if": lambda folder: deepfloyd(folder, encoder_hid_dim=TEXT_WIDTH),
    "cameras": cameras,
    "if2": deepfloyd_2,
    "sdxl": sdxl,
    "sd3": sd3,
    "sd3-small": lambda folder: sd3(folder, t5=False),
    "flux": flux,
    "flux-schnell": lambda folder: flux(folder, dev=False),
    "edit": lambda folder: stable_diffusion(
        folder, pipeline="StableDiffusionInstructPix2PixPipeline", channels=8
    ),
    "mvdream": multiview,
    "zero123": zero123,
    "zero123plus": zero123plus,
    "controlnet": controlnet,
}
PLAIN = ("sd1", "sd2", "if", "cameras")
"""The kinds that DiffusersImagePrior itself serves."""
