"""The networks of the embedded view-conditioned prior, which draws other views of an object in a picture.

The conditions are those of Zero-1-to-3 (Liu et al. 2023, arXiv:2303.11328), without its autoencoder and the weights
of CLIP: the picture is concatenated to the noisy view, the UNet attends to its tokens, and the class embedding
takes the relative pose.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from threedgen.cameras.orbit import RELATIVE_VIEW_FEATURES
from threedgen.guidance.priors.adapters.picture_tokens import picture_tokens
from threedgen.training.prior_model import PriorArchitecture, make_unet

PATCH = 4  # pixels


class ViewModel(nn.Module):
    """UNet and image encoder, trained together. Predicts v (Salimans and Ho 2022) of pictures in [-1, 1]."""

    def __init__(self, architecture: PriorArchitecture) -> None:
        from transformers.models.clip.configuration_clip import CLIPVisionConfig
        from transformers.models.clip.modeling_clip import CLIPVisionModel

        super().__init__()
        self.architecture = architecture
        self.image_encoder = CLIPVisionModel._from_config(
            CLIPVisionConfig(
                hidden_size=architecture.text_width,
                intermediate_size=4 * architecture.text_width,
                num_hidden_layers=architecture.text_layers,
                num_attention_heads=4,
                image_size=architecture.size,
                patch_size=PATCH * architecture.size // 32,
            ),
            attn_implementation="eager",
        )
        self.unet = make_unet(architecture, 6, 3, RELATIVE_VIEW_FEATURES)

    def forward(
        self,
        noisy: Float[Tensor, "B 3 H W"],
        timesteps: Int[Tensor, " B"],
        pictures: Float[Tensor, "B 3 H W"],
        kept: Float[Tensor, " B"],
        poses: Float[Tensor, "B 20"],
    ) -> Float[Tensor, "B 3 H W"]:
        """The predicted v.

        pictures: in [-1, 1]. kept: 1, or 0 for a picture that is withheld. poses: see `relative_view_features`.
        """
        states = picture_tokens(self.image_encoder, pictures) * kept.to(pictures)[:, None, None]
        both = torch.cat([noisy, pictures * kept.to(pictures)[:, None, None, None]], dim=1)
        return self.unet(both, timesteps, states, class_labels=poses).sample


def start_from_text_prior(model: ViewModel, unet: Mapping[str, Tensor]) -> None:
    """Takes over the UNet of a text prior of the same architecture, which has learnt about shapes and noise.

    The inputs for the picture and for its pose are new, and have no effect at the start. Of the two outputs of the
    text prior, mean and variance, only the mean is kept.
    """
    weights = model.unet.state_dict()
    for name, value in unet.items():
        if name in ("conv_in.weight", "class_embedding.linear_1.weight"):
            weights[name].zero_()
            weights[name][:, : value.shape[1]] = value
        else:
            weights[name] = value[: len(weights[name])] if name.startswith("conv_out") else value
    model.unet.load_state_dict(weights)


def save_view_pipeline(model: ViewModel, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes `model` as a pipeline folder of diffusers (safetensors in `dtype`), replacing `folder` in one step."""
    from threedgen.training.prior_model import write_pipeline

    copy = ViewModel(model.architecture)
    copy.load_state_dict(model.state_dict())
    copy.to(dtype)
    index = {
        "image_encoder": ["transformers", "CLIPVisionModel"],
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    write_pipeline(
        folder, {"unet": copy.unet, "image_encoder": copy.image_encoder}, "ThreedgenViewPipeline", index
    )
