"""Reference attention (Zhang 2023, "reference-only" of ControlNet; Zero123++, Shi et al. 2023, arXiv:2310.15110): a
UNet whose self-attention also looks at the tokens that the same UNet has of another picture."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class ReferenceUNet(torch.nn.Module):
    """A UNet2DConditionModel that is computed twice: for a noisy reference picture, and for the sample.

    unet: a frozen one. Its processors of self-attention are replaced by such as keep tokens from one pass for the
    next.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet
        self.config, self.dtype = unet.config, unet.dtype
        inner = unet.attn_processors
        self._looking = {
            name: LookingAtReference(one) for name, one in inner.items() if name.endswith("attn1.processor")
        }
        unet.set_attn_processor({**inner, **self._looking})

    def forward(
        self,
        sample: Float[Tensor, "B C h w"],
        timestep: Float[Tensor, " B"],
        encoder_hidden_states: Float[Tensor, "B L D"],
        reference: Float[Tensor, "B C u v"],
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """The output for the sample. reference: latents of the noise level of `timestep`, of any size."""
        rest = {"timestep": timestep, "encoder_hidden_states": encoder_hidden_states, "return_dict": False}
        try:
            self.unet(sample=reference, **rest)
            return self.unet(sample=sample, **rest)
        finally:
            for processor in self._looking.values():
                processor.tokens = None


class LookingAtReference:
    """An attention processor that keeps the tokens of a first pass, and in the second lets those of the sample
    attend to them as well as to each other. inner: computes the attention. tokens: [B, L, C], or None before a
    first pass."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.tokens: Tensor | None = None

    def __call__(self, attn: Any, hidden_states: Float[Tensor, "B L C"], **options: Any) -> Tensor:
        if self.tokens is None:
            self.tokens = hidden_states
            return self.inner(attn, hidden_states, **options)
        both = torch.cat([hidden_states, self.tokens], dim=1)
        self.tokens = None
        return self.inner(attn, hidden_states, **{**options, "encoder_hidden_states": both})
