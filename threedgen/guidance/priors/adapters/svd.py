"""Stable Video Diffusion (Blattmann et al. 2023): clips that begin with a given picture."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.pictures import resize_images
from threedgen.core.random import generator
from threedgen.core.settings import at_least, between, settings
from threedgen.guidance.priors.adapters.video import DiffusersVideoPrior, frame_size
from threedgen.guidance.priors.adapters.view import picture_embedding
from threedgen.guidance.priors.base import Condition, ReferenceView
from threedgen.guidance.priors.clip_codec import TemporalLatents
from threedgen.guidance.priors.folder.files import PipelineFolder
from threedgen.guidance.priors.folder.parts import PipelineParts
from threedgen.guidance.priors.folder.text import no_text

_SCALE = 3.0  # of its pipeline at the last frame


class DiffusersSVDPrior(DiffusersVideoPrior):
    """UNetSpatioTemporalConditionModel with two inputs beside z: the latent of the picture, for every frame, and
    the CLIP embedding of the picture.

    It has continuous noise levels, and t is the position among the levels of its sampler, see
    processes.KarrasSchedule. Texts are not read. In the unconditional branch (Condition.dropped) latent and
    embedding are zeros. The clips begin with the picture, so their cameras should have the pose of its camera.
    """

    @settings
    class Config(DiffusersVideoPrior.Config):
        """Options of Stable Video Diffusion.

        Attributes:
            fps (frames per second): Frame rate of the clip as an input of the network, which was trained with 5
                to 30.
            motion_bucket_id: Amount of motion as an input of the network, from 0 to 255.
            noise_aug_strength: Standard deviation of the noise on the picture, whose values lie between -1 and 1.
                The larger it is, the less the network relies on the picture.
        """

        fps: Annotated[int, at_least(1)] = 7
        motion_bucket_id: Annotated[int, between(0, 255)] = 127
        noise_aug_strength: Annotated[float, at_least(0.0)] = 0.02

    parts = ("unet", "image_encoder")
    image_condition = "reference"
    reads_text = False
    autoencoder = "AutoencoderKLTemporalDecoder"
    frames_first = True
    codec: TemporalLatents

    def __init__(self, *arguments: Any, clip: Any, options: Config) -> None:
        super().__init__(*arguments)
        self._clip, self._options = clip, options
        self._seen: tuple[ReferenceView, Tensor, Tensor] | None = None

    @classmethod
    def clip_frames(cls, folder: PipelineFolder, options: Any) -> int:
        return options.frames or folder.config("unet").get("num_frames", 25)

    @classmethod
    def load(cls, parts: PipelineParts, options: Any) -> DiffusersSVDPrior:
        network = parts.network("UNetSpatioTemporalConditionModel", "unet")
        process = parts.karras()
        pictures = parts.latents(frame_size(parts, options), cls.autoencoder)
        codec = TemporalLatents(pictures, cls.clip_frames(parts.folder, options))
        clip = parts.encoder("image_encoder")
        return cls(network, codec, no_text(), process, "v_prediction", _SCALE, clip=clip, options=options)

    def prepare(self, prompts: Any) -> None:
        """There is nothing to embed, because no text is read."""

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        if condition.reference is None:
            raise UserError(
                "this prior animates a picture (Stable Video Diffusion): set `reference.image`, the picture"
            )
        embedding, latent = self._look_at(condition.reference, z)
        kept = 1.0 - torch.tensor(condition.drops(), device=z.device, dtype=z.dtype)
        shown = (latent * kept[:, None, None, None])[:, None].expand(-1, self.latent_frames, -1, -1, -1)
        options = self._options
        # In its training the frame rate was entered as one frame per second less.
        inputs = torch.tensor([options.fps - 1.0, options.motion_bucket_id, options.noise_aug_strength])
        return {
            "sample": torch.cat([self.volume(z), shown.to(self.dtype)], dim=2),
            "timestep": self.process.timestep(t),
            "encoder_hidden_states": (embedding * kept[:, None])[:, None].to(self.dtype),
            "added_time_ids": inputs.to(device=z.device, dtype=self.dtype).repeat(len(z), 1),
        }

    def _look_at(
        self, reference: ReferenceView, z: Tensor
    ) -> tuple[Float[Tensor, "1 D"], Float[Tensor, "1 C h w"]]:
        """CLIP embedding and latent of the picture, computed once. The noise on the picture is one fixed draw,
        because a Prior has no random stream of its own."""
        if self._seen is None or self._seen[0] is not reference:
            image = reference.image.to(z)[None]
            embedding = picture_embedding(self._clip, image).to(z)
            picture = resize_images(image, self.image_size)
            noise = torch.randn(picture.shape, generator=generator(0, "prior/video-picture", 0)).to(picture)
            # Half of the strength, because the range of a picture in [0, 1] is half of that in [-1, 1].
            noisy = picture + 0.5 * self._options.noise_aug_strength * noise
            self._seen = reference, embedding, self.codec.pictures.unscaled(noisy).to(z)
        return self._seen[1], self._seen[2]
