"""ImageDream (Wang and Shi 2023, arXiv:2312.02201): MVDream with a picture beside the text.

The picture is a view more in each group, without noise and with a camera of zeros, and its CLIP tokens, resampled
to a few, have keys and values of their own in every cross-attention. That is the layout of IP-Adapter Plus (Ye et
al. 2023), whose modules diffusers has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import turned
from threedgen.core.errors import UserError
from threedgen.guidance.priors.adapters.multiview import (
    AcrossViews,
    DiffusersMultiViewPrior,
    require_groups,
    set_views,
)
from threedgen.guidance.priors.adapters.view import clip_pixels
from threedgen.guidance.priors.base import Condition, ReferenceView
from threedgen.guidance.priors.folder import encoders
from threedgen.guidance.priors.folder.libraries import or_user_error
from threedgen.guidance.priors.folder.multiview_unet import picture_weights
from threedgen.guidance.priors.folder.parts import PipelineParts


class DiffusersImageDreamPrior(DiffusersMultiViewPrior):
    """Consecutive views of a batch form groups, which the picture joins.

    In the unconditional branch (Condition.dropped) the picture's latent and its CLIP states are zeros.
    """

    parts = ("unet", "text_encoder", "image_encoder")
    image_condition = "optional-reference"
    sampling_scale = 5.0  # of its pipeline

    @classmethod
    def load(cls, parts: PipelineParts, options: Any, control: Any = None) -> DiffusersImageDreamPrior:
        path = parts.folder.path
        if control is not None:
            raise UserError(
                f"prior '{path}' reads a picture (ImageDream) and takes no ControlNet: leave it out"
            )
        if parts.plan.slicing:
            raise UserError(
                f"prior '{path}' reads a picture (ImageDream), and its attention cannot be sliced: leave "
                "attention_slicing out, or raise the limit of memory"
            )
        prior = super().load(parts, options)
        assert isinstance(prior, cls)
        prior._clip = encoders.picture_states(parts, "image_encoder")
        prior._seen = None
        part = parts.folder.part("unet")
        weights = picture_weights(part)
        or_user_error(lambda: add_picture(prior.network, weights), part)
        prior.join(prior.group)
        return prior

    def join(self, views: int) -> None:
        self.group = views
        set_views(self.network, views + 1)

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        require_groups(self.group, z)
        if condition.reference is None:
            raise UserError(
                "this prior shows a picture from other sides (ImageDream) and is given none: set `reference`, the "
                "picture and the pose of its camera"
            )
        own = super().arguments(z, t, condition)
        states, latent = self._look_at(condition.reference, z)
        groups = len(z) // self.group
        kept = 1.0 - torch.tensor(condition.drops(), device=z.device, dtype=z.dtype)[:: self.group]

        def joined(views: Tensor, more: Tensor) -> Tensor:
            grouped = views.unflatten(0, (groups, self.group))
            return torch.cat([grouped, more.to(views)[:, None]], dim=1).flatten(0, 1)

        first = {name: own[name][:: self.group] for name in ("timestep", "encoder_hidden_states")}
        first["sample"] = latent * kept[:, None, None, None]
        first["class_labels"] = torch.zeros_like(own["class_labels"][:: self.group])
        arguments = {name: joined(own[name], more) for name, more in first.items()}
        seen = (states * kept[:, None, None]).to(arguments["sample"])
        seen = seen.repeat_interleave(self.group + 1, dim=0)[:, None]
        return {**arguments, "added_cond_kwargs": {"image_embeds": [seen]}}

    def answer(
        self, network: Any, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> Float[Tensor, "B C h w"]:
        found = super().answer(network, z, t, condition).unflatten(0, (-1, self.group + 1))
        return found[:, : self.group].flatten(0, 1)

    def camera_vectors(self, condition: Condition, z: Tensor) -> Float[Tensor, "B 16"]:
        """Those of MVDream, but azimuth 0 is the side of the picture."""
        if condition.cameras is not None and condition.reference is not None:
            condition = replace(condition, cameras=turned(condition.cameras, -condition.reference.azimuth))
        return super().camera_vectors(condition, z)

    def _look_at(self, reference: ReferenceView, z: Tensor) -> tuple[Tensor, Tensor]:
        """CLIP states [1, L, D] before the last layer, and latent [1, C, h, w] of the reference, computed once."""
        if self._seen is None or self._seen[0] is not reference:
            image = reference.image.to(z)[None]
            answer = self._clip(clip_pixels(self._clip, image), output_hidden_states=True)
            self._seen = reference, answer.hidden_states[-2].to(z), self.codec.encode(image).to(z)
        return self._seen[1], self._seen[2]

    _clip: Any
    _seen: tuple[ReferenceView, Tensor, Tensor] | None


def add_picture(unet: Any, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Gives every cross-attention of `unet` keys and values of a picture, and the unet their resampler.

    weights: image_proj, the resampler by the names of IP-Adapter Plus, and ip_adapter, the weights to_k_ip and
    to_v_ip of each attention by the name of the attention.
    """
    # diffusers makes new processors of the classes that it finds, so it must find its own.
    found = unet.attn_processors.items()
    unet.set_attn_processor({name: one.inner if isinstance(one, AcrossViews) else one for name, one in found})
    across = [name.removesuffix(".processor") for name in unet.attn_processors if "attn2" in name]
    numbered = {
        # The files of IP-Adapter count all attentions, and those across are the odd ones.
        f"{2 * index + 1}.{kind}.weight": weights["ip_adapter"][f"{name}.{kind}.weight"]
        for index, name in enumerate(across)
        for kind in ("to_k_ip", "to_v_ip")
    }
    given = {"image_proj": dict(weights["image_proj"]), "ip_adapter": numbered}
    unet._load_ip_adapter_weights([given], low_cpu_mem_usage=False)
    unet.requires_grad_(False).eval()
