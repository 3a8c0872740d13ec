"""The networks of the embedded text prior, and the ordinary pipeline folder of diffusers that holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from threedgen.cameras.orbit import VIEW_FEATURES
from threedgen.core.atomic import replacing_folder
from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError
from threedgen.core.material import Light
from threedgen.datasets.world import FIXED_LIGHT
from threedgen.guidance.priors.folder.libraries import quiet
from threedgen.guidance.priors.folder.light import write_light
from threedgen.training.tokenizer import MAX_TOKENS, vocabulary, write_tokenizer


@dataclass(frozen=True)
class PriorArchitecture:
    """Sizes of the networks of an embedded prior.

    Attributes:
        size (pixels): Width and height of the pictures.
        channels: Number of channels of each level of the UNet, the finest level first.
        attention: Whether each level attends to the text, the finest level first.
        embedding: Width of the vector in which time, camera and text are added. It is wide, because shape and
            azimuth have to be combined in it.
        text_width: Width of the text encoder.
        text_layers: Number of layers of the text encoder.
    """

    size: int = 32
    channels: tuple[int, ...] = (24, 48, 96, 128)
    attention: tuple[bool, ...] = (False, False, True, True)
    embedding: int = 512
    text_width: int = 64
    text_layers: int = 2


def for_size(size: int) -> PriorArchitecture:
    """The architecture for pictures of 32, 64, 128 ... pixels. Each doubling adds a level outside.

    Raises UserError for another size.
    """
    base = PriorArchitecture()
    if size == base.size:
        return base
    if size < base.size or size % 2:
        raise UserError(f"size is {size}; it must be {base.size}, {2 * base.size}, or a further doubling")
    inner = for_size(size // 2)
    channels, attention = (inner.channels[0], *inner.channels), (False, *inner.attention)
    return replace(inner, size=size, channels=channels, attention=attention)


def make_unet(architecture: PriorArchitecture, inputs: int, outputs: int, view_numbers: int) -> Any:
    """The UNet of an embedded prior, whose last convolution starts at zero.

    It attends to states of width `text_width`, which are also pooled into its time embedding. Its class embedding
    is a projection of `view_numbers` numbers. inputs, outputs: numbers of channels.
    """
    from diffusers.models.attention_processor import AttnProcessor
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    down = ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in architecture.attention]
    up = ["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(architecture.attention)]
    unet = UNet2DConditionModel(
        sample_size=architecture.size,
        in_channels=inputs,
        out_channels=outputs,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        block_out_channels=architecture.channels,
        layers_per_block=1,
        cross_attention_dim=architecture.text_width,
        # Here diffusers takes this as the number of heads; two are fast on a CPU.
        attention_head_dim=2,
        norm_num_groups=8,
        time_embedding_dim=architecture.embedding,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=view_numbers,
    )
    # Plain attention, because at 77 tokens and 8x8 pixels the fused kernels are slower on a CPU.
    unet.set_attn_processor(AttnProcessor())
    nn.init.zeros_(unet.conv_out.weight)
    bias = unet.conv_out.bias
    assert bias is not None
    nn.init.zeros_(bias)
    return unet


def make_text_encoder(architecture: PriorArchitecture, more: Sequence[str] = ()) -> Any:
    """A small CLIP text model for the tokens of `vocabulary(more)`."""
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel

    vocab, _ = vocabulary(more)
    end = vocab["<|endoftext|>"]
    return CLIPTextModel._from_config(
        CLIPTextConfig(
            vocab_size=len(vocab),
            hidden_size=architecture.text_width,
            intermediate_size=4 * architecture.text_width,
            num_hidden_layers=architecture.text_layers,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=vocab["<|startoftext|>"],
            eos_token_id=end,
            pad_token_id=end,
        ),
        attn_implementation="eager",
    )


class PriorModel(nn.Module):
    """UNet and text encoder, trained together. Predicts v (Salimans and Ho 2022) of pictures in [-1, 1]."""

    def __init__(self, architecture: PriorArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.text_encoder = make_text_encoder(architecture)
        # IFPipeline splits the output in two and ignores the second half (a learned variance).
        self.unet = make_unet(architecture, 3, 6, VIEW_FEATURES)

    def forward(
        self,
        noisy: Float[Tensor, "B 3 H W"],
        timesteps: Int[Tensor, " B"],
        tokens: Int[Tensor, "B L"],
        mask: Int[Tensor, "B L"],
        views: Float[Tensor, "B 16"],
    ) -> Float[Tensor, "B 3 H W"]:
        """The predicted v.

        mask: 0 at padding, which IFPipeline hides from its text encoder, so training does too. views: see
        `view_features`; zeros mean any camera.
        """
        states = self.text_encoder(tokens, attention_mask=mask).last_hidden_state
        return self.unet(noisy, timesteps, states, class_labels=views).sample[:, :3]


def grow(small: PriorModel) -> PriorModel:
    """A model of twice the resolution that starts with everything that `small` has learnt.

    The levels of `small` become the inner levels of the new model, and the outer convolutions are kept. The new
    outermost level starts as a mere halving and doubling of the picture: its residual branches are 0, on the way
    down it averages 2 x 2 pixels, and on the way up it repeats them.
    """
    large = PriorModel(for_size(2 * small.architecture.size))
    weights = large.state_dict()
    for name, value in small.state_dict().items():
        target = name
        if name.startswith("unet.down_blocks."):
            level = int(name.split(".")[2])
            target = name.replace(f"down_blocks.{level}.", f"down_blocks.{level + 1}.", 1)
        if weights[target].shape != value.shape:
            raise ValueError(f"{name} of the smaller model does not fit {target}")
        weights[target] = value
    last = len(large.architecture.channels) - 1
    resnets = ["down_blocks.0.resnets.0", f"up_blocks.{last}.resnets.0", f"up_blocks.{last}.resnets.1"]
    for resnet in resnets:
        for kind in ("weight", "bias"):
            weights[f"unet.{resnet}.conv2.{kind}"].zero_()
    down, up = "unet.down_blocks.0.downsamplers.0.conv", f"unet.up_blocks.{last - 1}.upsamplers.0.conv"
    width = large.architecture.channels[0]
    same = torch.eye(width)
    for name in (down, up, *(f"unet.{resnet}.conv_shortcut" for resnet in resnets[1:])):
        weights[f"{name}.weight"].zero_()
        weights[f"{name}.bias"].zero_()
    # With a stride of 2 and a padding of 1, the last two rows and columns of the kernel are on the four pixels.
    weights[f"{down}.weight"][:, :, 1:, 1:] = 0.25 * same[:, :, None, None]
    weights[f"{up}.weight"][:, :, 1, 1] = same
    for resnet in resnets[1:]:  # their input is what comes up, followed by the skip connection
        weights[f"unet.{resnet}.conv_shortcut.weight"][:, :width, 0, 0] = same
    large.load_state_dict(weights)
    return large


def scheduler_config(prediction: str = "v_prediction") -> dict[str, Any]:
    """The configuration of a DDPM scheduler with the squared-cosine schedule. prediction: what the network
    makes."""
    return {
        "num_train_timesteps": 1000,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": prediction,
        "clip_sample": True,
        "variance_type": "fixed_small",
    }


def save_pipeline(model: PriorModel, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes `model` as an IFPipeline folder (safetensors in `dtype`), replacing `folder` in one step."""
    copy = PriorModel(model.architecture)
    copy.load_state_dict(model.state_dict())
    copy.to(dtype)
    index = {
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "watermarker": [None, None],
    }
    networks = {"unet": copy.unet, "text_encoder": copy.text_encoder}
    write_pipeline(folder, networks, "IFPipeline", index, write_tokenizer, FIXED_LIGHT)


def write_pipeline(
    folder: Path,
    networks: Mapping[str, Any],
    kind: str,
    index: Mapping[str, Any],
    tokenizer: Callable[[Path], None] | None = None,
    light: Light | None = None,
    prediction: str = "v_prediction",
) -> None:
    """Writes a pipeline folder of these networks, our scheduler and model_index.json, replacing `folder` in one
    step.

    kind: _class_name of the index. index: the other entries of the index, except for the scheduler. tokenizer:
    writes a tokenizer into a folder. light: of all pictures that the networks learned from, if there is one.
    prediction: what the UNet makes, as schedulers of diffusers call it.
    """

    def write(path: Path) -> None:
        for name, network in networks.items():
            network.save_pretrained(path / name, safe_serialization=True)
        if tokenizer is not None:
            tokenizer(path / "tokenizer")
        if light is not None:
            write_light(path, light)

    write_folder(folder, kind, index, write, prediction)


def write_folder(
    folder: Path,
    kind: str,
    index: Mapping[str, Any],
    write: Callable[[Path], None],
    prediction: str = "v_prediction",
) -> None:
    """Writes a pipeline folder of what `write` puts into a folder, our scheduler and model_index.json, replacing
    `folder` in one step. kind, index, prediction: see `write_pipeline`."""
    import json

    from diffusers import __version__
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    with quiet(), replacing_folder(folder) as temporary:
        write(temporary)
        scheduler: Any = DDPMScheduler.from_config(scheduler_config(prediction))
        scheduler.save_pretrained(temporary / "scheduler")
        document = {"_class_name": kind, "_diffusers_version": __version__, **index}
        document["scheduler"] = ["diffusers", "DDPMScheduler"]
        (temporary / "model_index.json").write_text(
            json.dumps(document, indent=1, sort_keys=True), encoding="utf-8"
        )


def load_pipeline(folder: Path) -> PriorModel:
    """The model of a folder that `save_pipeline` wrote, in float32. Raises UserError for another folder."""
    model = PriorModel(for_size(sample_size(folder)))
    fill_networks(folder, model.unet, model.text_encoder)
    return model


def sample_size(folder: Path) -> int:
    """Width and height of the samples of the UNet of a folder. Raises UserError for another folder."""
    try:
        config = parse_json((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _foreign(folder, error) from error
    size = config.get("sample_size") if isinstance(config, dict) else None
    if not isinstance(size, int):
        raise _foreign(folder, "its UNet has no sample_size")
    return size


def fill_networks(folder: Path, unet: Any, text_encoder: Any) -> None:
    """Loads the weights of a folder into networks of their sizes. Raises UserError for another folder."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name, network in {"unet/diffusion_pytorch_model": unet, "text_encoder/model": text_encoder}.items():
        try:
            weights = load_file(folder / f"{name}.safetensors")
        except (OSError, SafetensorError) as error:
            raise _foreign(folder, error) from error
        try:
            network.load_state_dict({key: value.float() for key, value in weights.items()})
        except RuntimeError as error:  # the names or shapes of its weights differ
            raise _foreign(folder, error) from error


def _foreign(folder: Path, reason: object) -> UserError:
    first = str(reason).splitlines()[0]
    return UserError(
        f"{folder} is not a pipeline of `threedgen train prior` ({first}): name the folder pipeline/ of a training"
    )
