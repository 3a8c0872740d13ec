"""MVDream (Shi et al. 2023, arXiv:2308.16512): a Stable Diffusion UNet that denoises the views of an object
together.

Each self-attention runs over all views of a group at once, and a camera of 16 numbers is added to the time
embedding. diffusers has no class for it and needs none: it is an ordinary UNet2DConditionModel whose class
embedding is a projection of 16 numbers. The key `num_views` in unet/config.json marks its folder and holds the
number of views of a group.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import convert
from threedgen.core.errors import UserError
from threedgen.core.types import Cameras
from threedgen.guidance.priors.adapters.image import DiffusersImagePrior
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.executors.deferred import loaded
from threedgen.guidance.priors.folder import encoders
from threedgen.guidance.priors.folder.parts import PipelineParts

_SCALE = 50.0  # of MVDream, which combines it with rescale 0.5 and a long negative prompt


class DiffusersMultiViewPrior(DiffusersImagePrior):
    """Consecutive views of a batch form groups with a common t and rising azimuths."""

    needs_cameras = True
    sampling_scale = 7.5  # of its pipeline

    @classmethod
    def load(cls, parts: PipelineParts, options: Any, control: Any = None) -> DiffusersMultiViewPrior:
        network = loaded(parts.network("UNet2DConditionModel", "unet"))
        process, form = parts.noise_table()
        codec = parts.codec()
        text = encoders.one_encoder(parts, pixels=False)
        prior = cls(network, codec, text, process, form, _SCALE, control)
        prior.join(int(parts.folder.config("unet")["num_views"]))
        return prior

    def join(self, views: int) -> None:
        """Makes groups of `views` views. It was trained with as many as its config says."""
        self.group = views
        set_views(self.network, views)

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        require_groups(self.group, z)
        return super().arguments(z, t, condition)

    def camera_vectors(self, condition: Condition, z: Tensor) -> Float[Tensor, "B 16"]:
        if condition.cameras is None:
            raise UserError(
                "this prior needs the camera of each view (MVDream) and is given none: take another guidance"
            )
        return camera_vectors(condition.cameras).to(z.device)


def camera_vectors(cameras: Cameras) -> Float[Tensor, "B 16"]:
    """Camera-to-world matrices in the convention of Blender (z up), with positions at unit distance, row by row."""
    matrices = convert(cameras.world_from_camera, "opencv", "blender").clone()
    matrices[:, :3, 3] = torch.nn.functional.normalize(matrices[:, :3, 3], dim=1)
    return matrices.flatten(1)


def require_groups(views: int, z: Float[Tensor, "B C h w"]) -> None:
    """Raises UserError unless z is of whole groups of `views` views."""
    if len(z) % views:
        raise UserError(
            f"this prior denoises {views} views together and got {len(z)}: "
            f"set cameras.batch to a multiple of {views}"
        )


def set_views(unet: Any, views: int) -> None:
    """Let every self-attention of `unet` run over the `views` views of each group at once, however many it was
    before."""
    joined = {}
    for name, processor in unet.attn_processors.items():
        inner = processor.inner if isinstance(processor, AcrossViews) else processor
        joined[name] = AcrossViews(inner, views) if name.endswith("attn1.processor") else inner
    unet.set_attn_processor(joined)


class AcrossViews:
    """An attention processor that gives `inner` the tokens of all views of a group as one sequence."""

    def __init__(self, inner: Any, views: int) -> None:
        self.inner, self.views = inner, views

    def __call__(self, attn: Any, hidden_states: Float[Tensor, "B L C"], **options: Any) -> Tensor:
        batch, tokens, channels = hidden_states.shape
        sequence = hidden_states.reshape(batch // self.views, self.views * tokens, channels)
        return self.inner(attn, sequence, **options).reshape(batch, tokens, channels)
