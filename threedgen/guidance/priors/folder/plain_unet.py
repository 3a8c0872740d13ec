"""The UNets that `threedgen train prior` writes, read without diffusers, whose import takes two seconds.

They are a small family of UNet2DConditionModel (Rombach et al. 2022, arXiv:2112.10752): one residual block a level,
attention to the text at some of them, and time, camera and text added to one vector that scales and shifts every
residual block. The modules have the names of diffusers, so that its files fit, and compute in its order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.core.empty import made_empty
from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder.config_keys import damaged_key
from threedgen.guidance.priors.folder.files import first_line, read_config

WEIGHTS = "diffusion_pytorch_model.safetensors"
_DOWN, _UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
_SIZES = (
    *("block_out_channels", "class_embed_type", "cross_attention_dim", "down_block_types", "in_channels"),
    *("out_channels", "projection_class_embeddings_input_dim", "sample_size", "time_embedding_dim"),
    *("up_block_types", "_class_name", "_diffusers_version", "_name_or_path"),
)
_WHOLE = (
    *("cross_attention_dim", "in_channels", "out_channels", "projection_class_embeddings_input_dim"),
    *("sample_size", "time_embedding_dim"),
)
# What else a config says; whatever it does not name must be off.
_FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 2,
    "attention_head_dim": 2,
    "attention_type": "default",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "layers_per_block": 1,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "norm_num_groups": 8,
    "resnet_out_scale_factor": 1.0,
    "resnet_time_scale_shift": "scale_shift",
    "time_embedding_type": "positional",
    "transformer_layers_per_block": 1,
}
_HEADS, _GROUPS, _EPS = 2, 8, 1e-5


def is_plain(folder: Path) -> bool:
    """Whether a folder holds a network of this family."""
    config = read_config(folder / "config.json")
    return (
        (folder / WEIGHTS).is_file()
        and config.get("class_embed_type") == "projection"
        and all(config.get(name, False) == value for name, value in _FIXED.items())
        and not any(value for name, value in config.items() if name not in (*_FIXED, *_SIZES))
        and all(kind in _DOWN for kind in config.get("down_block_types") or [None])
        and all(kind in _UP for kind in config.get("up_block_types") or [None])
    )


def load_plain(folder: Path, dtype: torch.dtype) -> PlainUNet:
    """The network of a folder that `is_plain`. Raises UserError if its weights do not fit its config."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_config(folder / "config.json")
    _check(folder, config)
    try:
        with made_empty():  # sizes that do not fit the file take no memory
            network = PlainUNet(config)
        weights = {name: value.to(dtype) for name, value in load_file(folder / WEIGHTS).items()}
        network.load_state_dict(weights, assign=True)
    except (OSError, RuntimeError, SafetensorError) as error:  # RuntimeError: other names or shapes
        raise UserError(
            f"prior part '{folder}' cannot be loaded ({first_line(error)}): copy it again"
        ) from error
    return network


def _check(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError unless a config gives all sizes, and ones that fit together."""
    path = folder / "config.json"
    for name in _WHOLE:
        if not isinstance(config.get(name), int):
            raise damaged_key(path, name, config.get(name), "a whole number")
    channels = config.get("block_out_channels")
    if not isinstance(channels, list) or not all(isinstance(size, int) for size in channels):
        raise damaged_key(path, "block_out_channels", channels, "a list of whole numbers")
    if any(size % _GROUPS for size in channels):
        raise damaged_key(path, "block_out_channels", channels, f"a list of multiples of {_GROUPS}")
    for name in ("down_block_types", "up_block_types"):
        if len(config[name]) != len(channels):
            raise damaged_key(path, name, config[name], "a list as long as block_out_channels")
    halvings = 2 ** (len(channels) - 1)
    if config["sample_size"] % halvings:
        raise damaged_key(path, "sample_size", config["sample_size"], f"a multiple of {halvings}")


class PlainUNet(nn.Module):
    """config: that of a folder."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = SimpleNamespace(**config)
        channels: Sequence[int] = config["block_out_channels"]
        down, up = (
            [kind.startswith("CrossAttn") for kind in config[f"{way}_block_types"]] for way in ("down", "up")
        )
        width, text = int(config["time_embedding_dim"]), int(config["cross_attention_dim"])
        last = len(channels) - 1
        self.conv_in = _conv(config["in_channels"], channels[0])
        self.time_embedding = _TwoLayers(channels[0], width)
        self.class_embedding = _TwoLayers(config["projection_class_embeddings_input_dim"], width)
        self.add_embedding = _TextEmbedding(text, width)
        before = (channels[0], *channels)
        self.down_blocks = nn.ModuleList(
            _Level([before[i]], channels[i], width, text, int(down[i]), down=i < last)
            for i in range(len(channels))
        )
        self.mid_block = _Level([channels[-1]] * 2, channels[-1], width, text, 1)
        # A level upwards takes what the same level downwards left, and before that what the finer one passed on.
        coming = (channels[-1], *reversed(channels))
        self.up_blocks = nn.ModuleList()
        for i, own in enumerate(reversed(channels)):
            inputs = [coming[i] + own, own + before[last - i]]
            self.up_blocks.append(_Level(inputs, own, width, text, 2 * up[i], up=i < last))
        self.conv_norm_out = nn.GroupNorm(_GROUPS, channels[0], _EPS)
        self.conv_out = _conv(channels[0], config["out_channels"])

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.conv_in.weight.dtype

    def forward(
        self,
        sample: Float[Tensor, "B C h w"],
        timestep: Float[Tensor, " B"],
        encoder_hidden_states: Float[Tensor, "B L D"],
        class_labels: Float[Tensor, "B V"],
        return_dict: bool = False,
    ) -> tuple[Float[Tensor, "B K h w"]]:
        """As that of UNet2DConditionModel without a dictionary."""
        assert not return_dict
        waves = _waves(timestep, self.time_embedding.linear_1.in_features).to(sample.dtype)
        embedded = self.time_embedding(waves) + self.class_embedding(class_labels)
        embedded = embedded + self.add_embedding(encoder_hidden_states)
        x = self.conv_in(sample)
        left = [x]
        for level in self.down_blocks:
            x, passed = level(x, embedded, encoder_hidden_states)
            left += passed
        x, _ = self.mid_block(x, embedded, encoder_hidden_states)
        for level in self.up_blocks:
            x, _ = level(x, embedded, encoder_hidden_states, left)
        if self.conv_norm_out is not None:
            x = F.silu(self.conv_norm_out(x))
        return (self.conv_out(x),)


class _Level(nn.Module):
    """Residual blocks of one size, and attention to the text.

    inputs: channels that come into each block. channels: that leave it. width: of the vector of time, camera and
    text. attentions: so many of the blocks, the first ones, are followed by attention to a text of `text` channels.
    down, up: whether the last is followed by a halving or a doubling of the size.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        channels: int,
        width: int,
        text: int,
        attentions: int,
        down: bool = False,
        up: bool = False,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_Residual(count, channels, width) for count in inputs)
        self.attentions = nn.ModuleList(_Attended(channels, text) for _ in range(attentions))
        self.downsamplers = nn.ModuleList([_Halved(channels)] * down)
        self.upsamplers = nn.ModuleList([_Doubled(channels)] * up)

    def forward(
        self, x: Tensor, embedded: Tensor, text: Tensor, left: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The result, and that after each block. left: what is taken from the end of it goes into each block."""
        passed = []
        for i, block in enumerate(self.resnets):
            x = block(x if left is None else torch.cat([x, left.pop()], dim=1), embedded)
            if i < len(self.attentions):
                x = self.attentions[i](x, text)
            passed.append(x)
        for half in self.downsamplers:
            x = half(x)
            passed.append(x)
        for double in self.upsamplers:
            x = double(x)
        return x, passed


class _Residual(nn.Module):
    def __init__(self, inputs: int, channels: int, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(_GROUPS, inputs, _EPS), _conv(inputs, channels)
        self.time_emb_proj = nn.Linear(width, 2 * channels)
        self.norm2, self.conv2 = nn.GroupNorm(_GROUPS, channels, _EPS), _conv(channels, channels)
        self.conv_shortcut = None if inputs == channels else nn.Conv2d(inputs, channels, 1)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.time_emb_proj(F.silu(embedded))[:, :, None, None].chunk(2, dim=1)
        y = self.conv2(F.silu(self.norm2(y) * (1 + scale) + shift))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + y


class _Halved(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class _Doubled(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Attended(nn.Module):
    """Transformer2DModel with one block."""

    def __init__(self, channels: int, text: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, channels, 1e-6)
        self.proj_in, self.proj_out = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([_TransformerBlock(channels, text)])

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        height, width = x.shape[2:]
        tokens = self.proj_in(self.norm(x)).permute(0, 2, 3, 1).flatten(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, text)
        y = tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2).contiguous()
        return self.proj_out(y) + x


class _TransformerBlock(nn.Module):
    def __init__(self, channels: int, text: int) -> None:
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(channels), _Attention(channels, channels)
        self.norm2, self.attn2 = nn.LayerNorm(channels), _Attention(channels, text)
        self.norm3, self.ff = nn.LayerNorm(channels), _FeedForward(channels)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        own = self.norm1(x)
        x = self.attn1(own, own) + x
        x = self.attn2(self.norm2(x), text) + x
        return self.ff(self.norm3(x)) + x


class _Attention(nn.Module):
    def __init__(self, channels: int, seen: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k, self.to_v = (nn.Linear(seen, channels, bias=False) for _ in range(2))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        q, k, v = (
            values.unflatten(2, (_HEADS, -1)).transpose(1, 2)
            for values in (self.to_q(x), self.to_k(seen), self.to_v(seen))
        )
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = 4 * channels
        self.net = nn.Sequential(_Gated(channels, inner), nn.Identity(), nn.Linear(inner, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class _Gated(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class _TwoLayers(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(inputs, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class _TextEmbedding(nn.Module):
    """All tokens of a text as one vector, by the attention of their mean to them."""

    def __init__(self, text: int, width: int) -> None:
        super().__init__()
        self.norm1, self.pool = nn.LayerNorm(text), _Pool(text)
        self.proj, self.norm2 = nn.Linear(text, width), nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm2(self.proj(self.pool(self.norm1(tokens))))


class _Pool(nn.Module):
    def __init__(self, text: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.zeros(1, text))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(text, text) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=1, keepdim=True) + self.positional_embedding
        x = torch.cat([mean, x], dim=1)
        q, k, v = (
            values.unflatten(2, (_HEADS, -1)).permute(0, 2, 3, 1)
            for values in (self.q_proj(mean), self.k_proj(x), self.v_proj(x))
        )
        scale = 1 / math.sqrt(math.sqrt(q.shape[2]))
        weight = torch.softmax(((q * scale).transpose(2, 3) @ (k * scale)).float(), dim=-1).to(v.dtype)
        return (v @ weight.transpose(2, 3)).flatten(1)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _waves(timestep: Float[Tensor, " B"], width: int) -> Float[Tensor, "B W"]:
    """Cosines and sines of the time, with periods from 2 pi to 20000 pi."""
    rates = torch.exp(
        -math.log(10000.0) * torch.arange(width // 2, device=timestep.device).float() / (width // 2)
    )
    angles = timestep[:, None].float() * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)
