"""The view-conditioned prior that `threedgen train prior --kind view` writes: Zero-1-to-3 on pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from threedgen.cameras.orbit import relative_view_features
from threedgen.core.errors import UserError
from threedgen.guidance.priors.adapters.base import DiffusersPrior, unet_arguments
from threedgen.guidance.priors.base import Condition, ReferenceView
from threedgen.guidance.priors.codec import signed
from threedgen.guidance.priors.folder.parts import PipelineParts
from threedgen.guidance.priors.folder.text import no_text

_SCALE = 2.0  # measured, for the small one


class DiffusersPixelViewPrior(DiffusersPrior):
    """A 6-channel UNet2DConditionModel: z and the reference picture, cross-attention to the tokens of the
    reference, and the relative pose (cameras.relative_view_features) as class embedding.

    Texts are not read. In the unconditional branch (Condition.dropped) tokens and reference are zeros.
    """

    parts = ("unet", "image_encoder")
    image_condition = "reference"
    reads_text = False
    camera_conditioned = True
    needs_cameras = True

    def __init__(self, *arguments: Any, image_encoder: Any) -> None:
        super().__init__(*arguments)
        self._image_encoder = image_encoder
        self._seen: tuple[ReferenceView, Tensor, Tensor] | None = None

    @classmethod
    def load(cls, parts: PipelineParts, options: Any) -> DiffusersPixelViewPrior:
        network = parts.network("UNet2DConditionModel", "unet")
        process, form = parts.noise_table()
        encoder = parts.encoder("image_encoder")
        if encoder.config.image_size != network.config.sample_size:
            raise UserError(
                f"prior '{parts.folder.path}' is damaged, its image encoder takes {encoder.config.image_size} "
                f"pixels, its unet {network.config.sample_size}: copy it again"
            )
        common = (network, parts.codec(), no_text(), process, form, _SCALE)
        return cls(*common, image_encoder=encoder)

    def prepare(self, prompts: Any) -> None:
        """There is nothing to embed, because no text is read."""

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        reference = condition.reference
        if reference is None or condition.cameras is None:
            raise UserError(
                "this prior shows a picture from other sides: set `reference`, the picture and the pose of its "
                "camera"
            )
        picture, tokens = self._look_at(reference, z)
        kept = 1.0 - torch.tensor(condition.drops(), device=z.device, dtype=z.dtype)
        both = torch.cat([z, picture * kept[:, None, None, None]], dim=1)
        states = tokens * kept[:, None, None]
        poses = relative_view_features(
            condition.cameras, reference.azimuth, reference.elevation, reference.distance
        )
        arguments = unet_arguments(self.dtype, both, self.process.timestep(t), states)
        arguments["class_labels"] = poses.to(device=z.device, dtype=self.dtype)
        return arguments

    def _look_at(self, reference: ReferenceView, z: Tensor) -> tuple[Tensor, Tensor]:
        """The reference [1, 3, h, w] in [-1, 1] and its tokens [1, L, C], computed once."""
        if self._seen is None or self._seen[0] is not reference:
            from threedgen.guidance.priors.adapters.picture_tokens import picture_tokens

            picture = signed(reference.image[None].to(z), self.image_size)
            inside = picture.to(device=self._image_encoder.device, dtype=self._image_encoder.dtype)
            self._seen = reference, picture, picture_tokens(self._image_encoder, inside).to(z)
        return self._seen[1], self._seen[2]
