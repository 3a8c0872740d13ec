"""Stable Video Diffusion (Blattmann et al. 2023): how a picture goes on (METHODS 9.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.pictures import resize_images
from threedgen.core.random import generator
from threedgen.guidance.priors.adapters.video import DiffusersVideoPrior, frame_size
from threedgen.guidance.priors.adapters.view import picture_embedding
from threedgen.guidance.priors.base import Condition, Reference
from threedgen.guidance.priors.clip_codec import TemporalLatents
from threedgen.guidance.priors.folder.files import PipelineFolder
from threedgen.guidance.priors.folder.parts import Parts
from threedgen.guidance.priors.folder.text import no_text

_SCALE = 3.0  # what its pipeline reaches at the last frame


class DiffusersSVDPrior(DiffusersVideoPrior):
    """UNetSpatioTemporalConditionModel: beside z the latent of the picture on every frame, and its CLIP embedding.

    It has levels of noise without end: t is the place among the sampler's own, see processes.KarrasSchedule. Texts
    are not read. The unconditional branch (Condition.dropped) has zeros for latent and embedding. The clips begin
    with the picture, so their cameras should stand where it was seen from.
    """

    @dataclass(frozen=True)
    class Config(DiffusersVideoPrior.Config):
        """See DiffusersVideoPrior. fps: of the clip, as it is told (it knows about 5 to 30). motion_bucket_id: how
        much moves, 0 to 255. noise_aug_strength: noise on the picture, whose values run from -1 to 1; the more, the
        less it is believed."""

        fps: int = 7
        motion_bucket_id: int = 127
        noise_aug_strength: float = 0.02

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.fps < 1:
                raise UserError(f"options.fps must be at least 1, got {self.fps}")
            if not 0 <= self.motion_bucket_id <= 255:
                raise UserError(
                    f"options.motion_bucket_id must lie between 0 and 255, got {self.motion_bucket_id}"
                )
            if not 0.0 <= self.noise_aug_strength < math.inf:
                raise UserError(
                    f"options.noise_aug_strength must be a number >= 0, got {self.noise_aug_strength}"
                )

    parts = ("unet", "image_encoder")
    image_condition = "reference"
    reads_text = False
    autoencoder = "AutoencoderKLTemporalDecoder"
    frames_first = True
    codec: TemporalLatents

    def __init__(self, *arguments: Any, clip: Any, options: Config) -> None:
        super().__init__(*arguments)
        self._clip, self._options = clip, options
        self._seen: tuple[Reference, Tensor, Tensor] | None = None

    @classmethod
    def clip_frames(cls, folder: PipelineFolder, options: Any) -> int:
        return options.frames or folder.config("unet").get("num_frames", 25)

    @classmethod
    def load(cls, parts: Parts, options: Any) -> DiffusersSVDPrior:
        network = parts.network("UNetSpatioTemporalConditionModel", "unet")
        process = parts.karras()
        pictures = parts.latents(frame_size(parts, options), cls.autoencoder)
        codec = TemporalLatents(pictures, cls.clip_frames(parts.folder, options))
        clip = parts.encoder("image_encoder")
        return cls(network, codec, no_text(), process, "v_prediction", _SCALE, clip=clip, options=options)

    def prepare(self, prompts: Any) -> None:
        """Nothing to do: no text is read."""

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        if condition.reference is None:
            raise UserError(
                "this prior makes a picture move (Stable Video Diffusion): set `reference.image`, the picture"
            )
        embedding, latent = self._look_at(condition.reference, z)
        kept = 1.0 - torch.tensor(condition.drops(), device=z.device, dtype=z.dtype)
        shown = (latent * kept[:, None, None, None])[:, None].expand(-1, self.latent_frames, -1, -1, -1)
        options = self._options
        # It was trained to be told one frame a second less.
        told = torch.tensor([options.fps - 1.0, options.motion_bucket_id, options.noise_aug_strength])
        return {
            "sample": torch.cat([self.volume(z), shown.to(self.dtype)], dim=2),
            "timestep": self.process.timestep(t),
            "encoder_hidden_states": (embedding * kept[:, None])[:, None].to(self.dtype),
            "added_time_ids": told.to(device=z.device, dtype=self.dtype).repeat(len(z), 1),
        }

    def _look_at(
        self, reference: Reference, z: Tensor
    ) -> tuple[Float[Tensor, "1 D"], Float[Tensor, "1 C h w"]]:
        """CLIP embedding and latent of the picture, computed once. The noise on it is one fixed draw: a Prior owns
        no random stream."""
        if self._seen is None or self._seen[0] is not reference:
            image = reference.image.to(z)[None]
            embedding = picture_embedding(self._clip, image).to(z)
            picture = resize_images(image, self.image_size)
            noise = torch.randn(picture.shape, generator=generator(0, "prior/video-picture", 0)).to(picture)
            # Half of it, because a picture in [0, 1] is half as high as one in [-1, 1].
            noisy = picture + 0.5 * self._options.noise_aug_strength * noise
            self._seen = reference, embedding, self.codec.pictures.unscaled(noisy).to(z)
        return self._seen[1], self._seen[2]
