"""The denoiser of codes: the DDPM UNet of diffusers on the channels of all planes, with an optional caption."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.core.errors import UserError
from threedgen.guidance.priors.processes import NoiseSchedule
from threedgen.ssdnerf.config import Codes, Diffusion
from threedgen.training.denoiser_trainer import cosine_alphas

PADDING = 0  # number of the token that stands for no word
_LONGEST = 32  # words of a caption
_TIME = 4  # width of the time embedding over that of the finest level, as in diffusers


def words_of(caption: str) -> list[str]:
    """The words of a caption, in lower case."""
    return re.findall(r"[\w-]+", caption.lower())


def vocabulary(captions: Iterable[str | None]) -> tuple[str, ...]:
    """All words of these captions, sorted."""
    return tuple(sorted({word for caption in captions for word in words_of(caption or "")}))


def noise_schedule(diffusion: Diffusion, steps: int = 1000) -> NoiseSchedule:
    """The linear table of Ho et al. 2020 (DDPM), or the squared cosine of Nichol and Dhariwal 2021."""
    if diffusion.schedule == "cosine":
        return NoiseSchedule(cosine_alphas(steps)[0].double().square())
    betas = torch.linspace(1e-4, 2e-2, steps, dtype=torch.float64)
    return NoiseSchedule(torch.cumprod(1.0 - betas, 0))


class CodeDenoiser(nn.Module):
    """Predicts v of noisy codes, and for stage-wise diffusion also what the next stage cannot represent.

    words: the vocabulary of captions, empty for a model without captions. The resolution of the codes must be a
    multiple of what the levels of the UNet divide it by.
    """

    def __init__(self, codes: Codes, diffusion: Diffusion, words: Sequence[str] = ()) -> None:
        super().__init__()
        self.words = {word: index + 1 for index, word in enumerate(words)}
        self.fold = diffusion.fold
        self.answers = 2 if diffusion.kind == "stage-wise" else 1
        channels = 3 * codes.channels * self.fold**2
        size = codes.resolution // self.fold
        self.unet = _unet(channels + diffusion.places, self.answers * channels, size, diffusion, bool(words))
        self.places = nn.Parameter(torch.randn(1, diffusion.places, size, size)) if diffusion.places else None
        if words:
            width = _TIME * diffusion.widths[0]
            self.word = nn.Embedding(len(words) + 1, width, padding_idx=PADDING)
            self.place = nn.Embedding(_LONGEST, width)
            self.tell = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(
        self,
        noisy: Float[Tensor, "B K R R"],
        timesteps: Int[Tensor, " B"],
        tokens: Int[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B K R R"] | tuple[Tensor, ...]:
        """The predicted v = alpha eps - sigma x, or all predictions of stage-wise diffusion.

        tokens: those of captions. None, or rows of padding, means no caption.
        """
        labels = None
        if self.words:
            labels = self._embedding(
                noisy.new_zeros(len(noisy), 1, dtype=torch.long) if tokens is None else tokens
            )
        folded = F.pixel_unshuffle(noisy, self.fold)
        if self.places is not None:
            # The codes of a coarse stage are smaller.
            places = F.adaptive_avg_pool2d(self.places, (folded.shape[-2], folded.shape[-1]))
            folded = torch.cat([folded, places.expand(len(folded), -1, -1, -1).to(folded)], dim=1)
        folded = folded.contiguous(memory_format=torch.channels_last)
        channels = self.unet(folded, timesteps, class_labels=labels).sample
        answers = [F.pixel_shuffle(answer, self.fold) for answer in channels.chunk(self.answers, dim=1)]
        return answers[0] if self.answers == 1 else tuple(answers)

    def tokens(self, captions: Sequence[str | None]) -> Int[Tensor, "B L"]:
        """The numbers of the words of captions, padded; None and "" have no words.

        Raises UserError for a caption that is too long, and for a word that the network was not trained on.
        """
        rows = []
        for caption in captions:
            words = words_of(caption or "")
            unknown = [word for word in words if word not in self.words]
            if unknown:
                raise UserError(
                    f"this model does not know the word '{unknown[0]}'; it knows {', '.join(self.words) or 'none'}"
                )
            if len(words) > _LONGEST:
                raise UserError(f"the caption has {len(words)} words; it may have at most {_LONGEST}")
            rows.append([self.words[word] for word in words])
        longest = max([1, *map(len, rows)])
        return torch.tensor([row + [PADDING] * (longest - len(row)) for row in rows], dtype=torch.long)

    def _embedding(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        """The mean over the words of the embedding of each word at its place; zeros if there are no words."""
        there = (tokens != PADDING).unsqueeze(-1)
        place = self.place(torch.arange(tokens.shape[1], device=tokens.device))
        embedded = self.tell(self.word(tokens) + place) * there
        return embedded.sum(1) / there.sum(1).clamp_min(1)


def _unet(inputs: int, outputs: int, size: int, diffusion: Diffusion, captions: bool) -> Any:
    from diffusers.models.unets.unet_2d import UNet2DModel

    attends = diffusion.attention
    unet: Any = UNet2DModel(
        sample_size=size,
        in_channels=inputs,
        out_channels=outputs,
        block_out_channels=tuple(diffusion.widths),
        down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
        up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
        layers_per_block=diffusion.layers,
        attention_head_dim=diffusion.head,
        norm_num_groups=8,
        dropout=diffusion.dropout,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity" if captions else None,
    )
    for module in unet.modules():
        if hasattr(module, "set_processor"):
            module.set_processor(_Attention())
    with torch.no_grad():  # the first prediction is 0
        unet.conv_out.weight.zero_()
    return unet.to(memory_format=torch.channels_last)  # a sixth faster on a CPU


class _Attention:
    """The attention of diffusers, on a CPU always in float32: the backward pass of bfloat16 is slow there."""

    def __init__(self) -> None:
        from diffusers.models.attention_processor import AttnProcessor2_0

        self._attend = AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        # diffusers reads the names of these parameters to know what a processor takes.
        more = (encoder_hidden_states, attention_mask, temb)
        if hidden_states.device.type != "cpu":
            return self._attend(attn, hidden_states, *more)
        with torch.autocast("cpu", enabled=False):
            return self._attend(attn, hidden_states.float(), *more)
