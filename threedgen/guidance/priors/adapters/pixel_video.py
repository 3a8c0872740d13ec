"""The video prior that `threedgen train prior --kind video` writes: the frames of a clip are channels."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.clips import time_features
from threedgen.core.errors import UserError
from threedgen.guidance.priors.adapters.image import DiffusersImagePrior
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.clip_codec import require_clips
from threedgen.guidance.priors.folder.files import PipelineFolder


class DiffusersPixelVideoPrior(DiffusersImagePrior):
    """A UNet2DConditionModel of frames x 3 channels with the camera and the times of the first and last frame as
    input.

    A sample is a clip: `encode` takes `frames` pictures for each, one clip after the other, and `decode` returns as
    many.
    """

    video = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.frames: int = self.network_config.in_channels // 3
        self.latent_frames = self.frames

    @classmethod
    def clip_frames(cls, folder: PipelineFolder, options: Any) -> int:
        return folder.config("unet")["in_channels"] // 3

    def encode(self, images: Float[Tensor, "B*F H W 3"]) -> Float[Tensor, "B F*3 h w"]:
        require_clips(images, self.frames)
        pictures = super().encode(images)
        return pictures.unflatten(0, (-1, self.frames)).flatten(1, 2)

    def decode(self, x: Float[Tensor, "B F*3 h w"]) -> Float[Tensor, "B*F h w 3"]:
        return super().decode(x.unflatten(1, (self.frames, 3)).flatten(0, 1))

    def camera_vectors(self, condition: Condition, z: Tensor) -> Float[Tensor, "B 24"]:
        """The input of the class embedding: view_features of the cameras and time_features of the clips."""
        times = condition.times
        if times is None:
            raise UserError("this video prior needs the times of its frames: set cameras.name=clips")
        features = time_features(times[:, 0], times[:, -1] - times[:, 0])
        return torch.cat([super().camera_vectors(condition, z), features.to(z.device)], dim=1)
