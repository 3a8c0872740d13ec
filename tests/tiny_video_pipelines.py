"""Tiny video pipelines with random weights, written to disk by diffusers itself."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_pipelines import TEXT_WIDTH, autoencoder, clip_parts, diffusers, noise, t5_parts, transformers, unet

FRAMES = {
    "modelscope": 16,
    "animatediff": 16,
    "svd": 4,
    "cogvideox": 9,
    "cogvideox-2b": 9,
    "cogvideox-1.5": 9,
    "wan": 81,
}
"""What each kind's folder says, or where it says nothing what its family was made for."""


def awaken(network: torch.nn.Module) -> torch.nn.Module:
    """Random numbers for layers that start at zero, as temporal ones do: they would hide what they are given."""
    for parameter in network.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def modelscope(folder: Path) -> None:
    tokenizer, text_encoder = clip_parts()
    network = diffusers().UNet3DConditionModel(
        sample_size=16,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=TEXT_WIDTH,
    )
    diffusers().TextToVideoSDPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=awaken(network),
        scheduler=noise(),
    ).save_pretrained(folder)


def animatediff(folder: Path) -> None:
    tokenizer, text_encoder = clip_parts()
    motion = diffusers().MotionAdapter(
        block_out_channels=(8, 16),
        motion_layers_per_block=1,
        motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=4,
    )
    pipeline = diffusers().AnimateDiffPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet(4, 4, 16),
        motion_adapter=awaken(motion),
        scheduler=diffusers().DDIMScheduler(beta_schedule="linear", steps_offset=1, clip_sample=False),
    )
    pipeline.save_pretrained(folder)


def svd(folder: Path) -> None:
    config = transformers().CLIPVisionConfig(
        hidden_size=TEXT_WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=TEXT_WIDTH,
    )
    network = diffusers().UNetSpatioTemporalConditionModel(
        sample_size=16,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=(32, 32),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        num_attention_heads=(2, 2),
        num_frames=4,
    )
    vae = diffusers().AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        sample_size=32,
        scaling_factor=0.3,
    )
    scheduler = diffusers().EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        interpolation_type="linear",
        prediction_type="v_prediction",
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )
    diffusers().StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=transformers().CLIPVisionModelWithProjection(config),
        unet=awaken(network),
        scheduler=scheduler,
        feature_extractor=transformers().CLIPImageProcessor(crop_size=32, size=32),
    ).save_pretrained(folder)


def cogvideox(folder: Path, rotary: bool = True, packed: int | None = None) -> None:
    tokenizer, text_encoder = t5_parts()
    vae = diffusers().AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        sample_height=48,
        sample_width=64,
        scaling_factor=0.7,
    )
    transformer = diffusers().CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=4,
        text_embed_dim=TEXT_WIDTH,
        num_layers=1,
        sample_width=12,  # twice as wide as high: a square has places in the middle
        sample_height=6,
        sample_frames=FRAMES["cogvideox"],
        patch_size_t=packed,
        use_rotary_positional_embeddings=rotary,
    )
    diffusers().CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        transformer=awaken(transformer),
        scheduler=diffusers().CogVideoXDDIMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=3.0 if not rotary else 1.0,
            timestep_spacing="trailing",
        ),
    ).save_pretrained(folder)


def wan(folder: Path) -> None:
    tokenizer, _ = t5_parts()
    config = transformers().UMT5Config(
        vocab_size=len(tokenizer), d_model=TEXT_WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    diffusers().WanPipeline(
        tokenizer=tokenizer,
        text_encoder=transformers().UMT5EncoderModel(config),
        vae=diffusers().AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.1, -0.2, 0.3, -0.4],
            latents_std=[1.5, 0.5, 2.0, 1.0],
        ),
        scheduler=diffusers().UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
        ),
        transformer=awaken(
            diffusers().WanTransformer3DModel(
                num_attention_heads=2,
                attention_head_dim=12,
                in_channels=4,
                out_channels=4,
                text_dim=TEXT_WIDTH,
                freq_dim=16,
                ffn_dim=16,
                num_layers=1,
                rope_max_seq_len=32,
            )
        ),
    ).save_pretrained(folder)


VIDEO_KINDS = {
    "modelscope": modelscope,
    "animatediff": animatediff,
    "svd": svd,
    "cogvideox": cogvideox,
    "cogvideox-2b": lambda folder: cogvideox(folder, rotary=False),
    "cogvideox-1.5": lambda folder: cogvideox(folder, packed=2),
    "wan": wan,
}
