"""Pictures as tokens for cross-attention."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor


def picture_tokens(image_encoder: Any, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B L C"]:
    """All tokens of an image encoder of transformers, normalised."""
    states = image_encoder(pictures).last_hidden_state
    vision = getattr(image_encoder, "vision_model", image_encoder)
    return vision.post_layernorm(states)
