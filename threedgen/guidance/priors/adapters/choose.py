"""The choice of the adapter for a pipeline folder, by its configs and never by its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from threedgen.cameras.clips import TIME_FEATURES
from threedgen.cameras.orbit import RELATIVE_VIEW_FEATURES, VIEW_FEATURES
from threedgen.core.errors import UserError
from threedgen.guidance.priors.adapters.base import DiffusersPrior
from threedgen.guidance.priors.adapters.cogvideox import DiffusersCogVideoXPrior
from threedgen.guidance.priors.adapters.edit import DiffusersEditPrior
from threedgen.guidance.priors.adapters.flow import DiffusersFluxPrior, DiffusersSD3Prior
from threedgen.guidance.priors.adapters.image import DiffusersImagePrior
from threedgen.guidance.priors.adapters.imagedream import DiffusersImageDreamPrior
from threedgen.guidance.priors.adapters.multiview import DiffusersMultiViewPrior
from threedgen.guidance.priors.adapters.picture_field import DiffusersPictureFieldPrior
from threedgen.guidance.priors.adapters.pixel_field import DiffusersFieldPrior
from threedgen.guidance.priors.adapters.pixel_multiview import CHANNELS, DiffusersPixelMultiViewPrior
from threedgen.guidance.priors.adapters.pixel_video import DiffusersPixelVideoPrior
from threedgen.guidance.priors.adapters.pixel_view import DiffusersPixelViewPrior
from threedgen.guidance.priors.adapters.sdxl import DiffusersSDXLPrior
from threedgen.guidance.priors.adapters.superres import DiffusersSuperResolutionPrior
from threedgen.guidance.priors.adapters.svd import DiffusersSVDPrior
from threedgen.guidance.priors.adapters.video import (
    DiffusersAnimateDiffPrior,
    DiffusersModelScopePrior,
    DiffusersVideoPrior,
)
from threedgen.guidance.priors.adapters.view import DiffusersViewPrior
from threedgen.guidance.priors.adapters.wan import DiffusersWanPrior
from threedgen.guidance.priors.adapters.zero123plus import EXTRACTORS, RAMP, DiffusersZero123PlusPrior
from threedgen.guidance.priors.folder.files import PipelineFolder
from threedgen.guidance.priors.folder.multiview_unet import PICTURE_TOKENS
from threedgen.guidance.priors.folder.replaced import latents_of

SUPPORTED = (
    "Stable Diffusion 1.x/2.x/XL/3, FLUX, DeepFloyd IF stage I or II, InstructPix2Pix, Zero-1-to-3, "
    "Zero123++, MVDream, ImageDream, for clips ModelScope, AnimateDiff, SVD, CogVideoX or Wan, or a folder of "
    "`threedgen train prior` (docs/priors.md)"
)
_TRANSFORMERS: dict[str, type[DiffusersPrior]] = {
    "SD3Transformer2DModel": DiffusersSD3Prior,
    "FluxTransformer2DModel": DiffusersFluxPrior,
}
_CLIPS: dict[str, type[DiffusersVideoPrior]] = {
    "UNet3DConditionModel": DiffusersModelScopePrior,
    "UNetMotionModel": DiffusersAnimateDiffPrior,
    "UNetSpatioTemporalConditionModel": DiffusersSVDPrior,
    "CogVideoXTransformer3DModel": DiffusersCogVideoXPrior,
    "WanTransformer3DModel": DiffusersWanPrior,
}
_NO_PRIORS = {
    "Marigold": "it predicts the depth or the normals of a picture",
    "LDM3D": "it makes pictures together with their depth",
    "Upscale": "it enlarges pictures",
    "UnCLIP": "it is told the embedding of a picture",
    "LatentConsistency": "it makes samples of a few steps, and a guidance scale is part of its predictions",
}
"""What a word in the name of a pipeline says about a model whose networks look like those of another kind."""
_PICTURE_INPUTS = ("ip_image_proj", "image_proj", "text_image_proj")
_FOR_TEXT = tuple(name + end for name in ("text_encoder", "tokenizer") for end in ("", "_2", "_3"))
_READ = {"unet", "transformer", "vae", "scheduler", "image_encoder", "feature_extractor", "safety_checker"}
_READ |= {"watermarker", "image_noising_scheduler", "cc_projection", "clip_camera_projection", *_FOR_TEXT}
"""Parts of pipelines for pictures that are read, or that only look at finished pictures."""


def adapter_of(folder: PipelineFolder) -> type[DiffusersPrior]:
    """The adapter of a folder. Raises UserError for a model with inputs that no adapter provides."""
    name = str(folder.index.get("_class_name"))
    for word, reason in _NO_PRIORS.items():
        if word in name:
            raise _refusal(folder, reason)
    field = folder.class_of("field")
    if field is not None:
        return DiffusersPictureFieldPrior if field == "PictureField" else DiffusersFieldPrior
    for part in ("unet", "transformer"):
        clips = _CLIPS.get(folder.class_of(part) or "")
        if clips is not None:
            _require_clips(folder, folder.config(part), clips)
            return clips
    autoencoder = folder.class_of("vae")
    if autoencoder not in (None, "AutoencoderKL"):
        raise _refusal(folder, f"its autoencoder is {autoencoder}, not AutoencoderKL")
    transformer = folder.class_of("transformer")
    if transformer is not None:
        if transformer not in _TRANSFORMERS:
            raise _refusal(folder, f"its transformer is {transformer}")
        _require_latents(folder, folder.config("transformer"))
        return _TRANSFORMERS[transformer]
    unet = folder.class_of("unet")
    if unet is None:
        raise _refusal(folder, "it has neither unet nor transformer")
    if unet != "UNet2DConditionModel":
        raise _refusal(folder, f"its unet is {unet}, not UNet2DConditionModel")
    config = folder.config("unet")
    adapter = _for_unet(folder, config)
    _require_inputs(folder, config, adapter)
    return adapter


def _for_unet(folder: PipelineFolder, config: dict[str, Any]) -> type[DiffusersPrior]:
    inputs, latent = config.get("in_channels", 4), folder.class_of("vae") is not None
    if latent and (RAMP in folder.index or "Zero123Plus" in str(folder.index.get("_class_name"))):
        return DiffusersZero123PlusPrior
    if not latent and "num_views" in config:
        return DiffusersPixelMultiViewPrior
    if folder.class_of("image_encoder") is not None and folder.class_of("text_encoder") is None:
        return DiffusersViewPrior if latent else DiffusersPixelViewPrior
    if config.get("addition_embed_type") == "text_time":
        return DiffusersSDXLPrior
    camera_vector = config.get("projection_class_embeddings_input_dim")
    if not latent and inputs % 3 == 0 and camera_vector == VIEW_FEATURES + TIME_FEATURES:
        return DiffusersPixelVideoPrior
    if latent and inputs == 8:
        return DiffusersEditPrior
    if not latent and inputs == 6:
        return DiffusersSuperResolutionPrior
    if latent and "num_views" in config:
        return DiffusersImageDreamPrior if PICTURE_TOKENS in config else DiffusersMultiViewPrior
    return DiffusersImagePrior


def _require_inputs(folder: PipelineFolder, unet: dict[str, Any], adapter: type[DiffusersPrior]) -> None:
    """Raises UserError unless the UNet takes exactly the inputs that its adapter provides."""
    inputs, latent = unet.get("in_channels", 4), folder.class_of("vae") is not None
    channels = 8 if adapter in (DiffusersEditPrior, DiffusersViewPrior) else 4 if latent else 3
    if adapter in (DiffusersSuperResolutionPrior, DiffusersPixelViewPrior):
        channels = 6
    if adapter is DiffusersPixelVideoPrior:
        channels = inputs
    if adapter is DiffusersPixelMultiViewPrior:
        channels = CHANNELS
    numbers = {
        DiffusersPixelViewPrior: RELATIVE_VIEW_FEATURES,
        DiffusersPixelMultiViewPrior: RELATIVE_VIEW_FEATURES,
        DiffusersPixelVideoPrior: VIEW_FEATURES + TIME_FEATURES,
    }.get(adapter, VIEW_FEATURES)
    embedding = unet.get("class_embed_type")
    added = unet.get("addition_embed_type")
    camera_vector = unet.get("projection_class_embeddings_input_dim")
    labels = adapter is DiffusersSuperResolutionPrior
    turning = adapter in (DiffusersPixelViewPrior, DiffusersPixelMultiViewPrior)
    plain = issubclass(adapter, DiffusersImagePrior) and adapter is not DiffusersSDXLPrior
    projection = embedding == "projection"
    pictures = unet.get("encoder_hid_dim_type") in _PICTURE_INPUTS
    refiner = bool(folder.index.get("requires_aesthetics_score"))
    reasons = [
        (
            plain and folder.class_of("text_encoder_2") is not None,
            "it has two text encoders, but its UNet takes the states of one",
        ),
        (inputs != channels, f"its UNet takes {inputs} channels, not {channels} (inpainting or upscaling)"),
        (labels and embedding != "timestep", "its UNet takes 6 channels, but no noise level"),
        (not labels and embedding not in (None, "projection"), "its UNet needs class labels"),
        (projection and not (plain or turning), "its UNet needs class labels"),
        (turning and not projection, "its UNet has no camera input"),
        (unet.get("num_class_embeds") is not None, "its UNet needs class labels"),
        (plain and added not in (None, "text"), "its UNet needs added conditions"),
        (
            projection and camera_vector != numbers,
            f"its camera vector does not have {numbers} numbers",
        ),
        (
            issubclass(adapter, DiffusersMultiViewPrior) and not projection,
            "its UNet has num_views but no camera input",
        ),
        (refiner, "it is a refiner of finished pictures"),
        (pictures, "its UNet needs pictures beside the text"),
        (
            unet.get("time_cond_proj_dim") is not None,
            "its UNet is told a guidance scale (it is distilled for samples of a few steps)",
        ),
    ]
    for wrong, reason in reasons:
        if wrong:
            raise _refusal(folder, reason)
    if latent:
        more = ("vision_encoder", *EXTRACTORS) if adapter is DiffusersZero123PlusPrior else ()
        _require_latents(folder, unet, more)


def _require_latents(folder: PipelineFolder, network: dict[str, Any], more: Sequence[str] = ()) -> None:
    """Raises UserError unless the autoencoder is one of colours and of as many channels as the denoiser makes, and
    every part of the folder is read. more: parts that this kind of model reads beside the usual ones."""
    vae = folder.config("vae") if folder.class_of("vae") is not None else {}
    ends = [vae.get(key, 3) for key in ("in_channels", "out_channels")]
    if ends != [3, 3]:
        raise _refusal(folder, f"its autoencoder is for pictures of {max(ends)} channels, not of 3")
    latents = vae.get("latent_channels", 4)
    made = latents_of(network, latents)
    if vae and made != latents:
        raise _refusal(
            folder,
            f"its network makes {made} channels, and its autoencoder has {latents}: they are of two models",
        )
    unread = sorted(part for part in folder.index if folder.class_of(part) and part not in {*_READ, *more})
    if unread:
        raise _refusal(folder, f"its part {unread[0]} ({folder.class_of(unread[0])}) would not be read")


def _require_clips(
    folder: PipelineFolder, network: dict[str, Any], adapter: type[DiffusersVideoPrior]
) -> None:
    """Raises UserError unless the network denoises latents of its autoencoder, from a text or (SVD) a picture."""
    autoencoder = folder.class_of("vae")
    if autoencoder is None:
        raise UserError(f"prior folder '{folder.path}' lacks the part vae: copy it again")
    if autoencoder != adapter.autoencoder:
        raise _refusal(folder, f"its autoencoder is {autoencoder}, not {adapter.autoencoder}")
    vae = folder.config("vae")
    wide = adapter in (DiffusersCogVideoXPrior, DiffusersWanPrior)
    channels = vae.get("z_dim" if adapter is DiffusersWanPrior else "latent_channels", 16 if wide else 4)
    expected = 2 * channels if adapter is DiffusersSVDPrior else channels
    inputs = network.get("in_channels", 16 if wide else expected)
    second = folder.class_of("transformer_2")
    reasons = [
        (
            inputs != expected,
            f"its network takes {inputs} channels, not {expected} (it needs something beside z)",
        ),
        (second is not None, "it has two transformers, one for each half of the noise"),
        (network.get("addition_embed_type") is not None, "its UNet needs added conditions"),
        (network.get("encoder_hid_dim_type") is not None, "its UNet needs pictures beside the text"),
        (network.get("image_dim") is not None, "its transformer needs a picture"),
    ]
    for wrong, reason in reasons:
        if wrong:
            raise _refusal(folder, reason)


def _refusal(folder: PipelineFolder, reason: str) -> UserError:
    name = folder.index.get("_class_name", "a pipeline without a class name")
    return UserError(f"prior '{folder.path}' ({name}) is not supported, because {reason}: use {SUPPORTED}")
