"""Zero123++ (Shi et al. 2023, arXiv:2310.15110): six views of a pictured object as the tiles of one picture.

A UNet of Stable Diffusion 2 that predicts v with a linear noise schedule. It sees the given picture twice: its
latent, with noise of the same level, goes through the same UNet, and every self-attention looks at its tokens; and
its CLIP embedding, in the shares `ramping_coefficients`, is added to the states of the empty text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.pictures import resize
from threedgen.core.random import generator
from threedgen.core.settings import at_least, settings
from threedgen.guidance.priors.adapters.base import DiffusersPrior, unet_arguments
from threedgen.guidance.priors.adapters.reference_attention import ReferenceUNet
from threedgen.guidance.priors.adapters.video import divisible
from threedgen.guidance.priors.base import Condition, ReferenceView, Text
from threedgen.guidance.priors.codec import Latents
from threedgen.guidance.priors.executors.deferred import loaded
from threedgen.guidance.priors.folder import encoders
from threedgen.guidance.priors.folder.files import PipelineFolder
from threedgen.guidance.priors.folder.parts import PipelineParts, pixels_per_latent
from threedgen.guidance.priors.folder.picture_input import PictureInput, picture_input
from threedgen.guidance.priors.processes import add_noise
from threedgen.guidance.priors.view_layout import ViewLayout

RAMP = "ramping_coefficients"
"""The key of model_index.json that marks its folder."""
EXTRACTORS = ("feature_extractor_vae", "feature_extractor_clip")
_SCALE = 4.0  # of its pipeline
_SIDE = 320  # pixels of a view of the published models
_MEAN, _STD = 0.22, 0.75  # latents of views are (x - _MEAN) * _STD
_CONTRAST = 0.5 / 0.8  # and what is encoded has so much less contrast than the views
_ROWS, _COLUMNS = 3, 2
_AZIMUTHS = (30.0, 90.0, 150.0, 210.0, 270.0, 330.0)
_GREY = 0.5
LAYOUTS = {
    # v1.1 draws views with the field of view of the given picture, which is that of usual views.
    "v1.1": ViewLayout(_ROWS, _COLUMNS, _AZIMUTHS, (30.0, -20.0) * 3, background=_GREY),
    "v1.2": ViewLayout(_ROWS, _COLUMNS, _AZIMUTHS, (20.0, -10.0) * 3, fov=30.0, background=_GREY),
}


class TiledLatents(Latents):
    """Pictures of all views with less contrast, as latents that are moved and scaled once more.

    size: pixels of a side of a view.
    """

    def encode(self, images: Float[Tensor, "B RH CW 3"]) -> Float[Tensor, "B C h w"]:
        return (super().encode((images - 0.5) * _CONTRAST + 0.5) - _MEAN) * _STD

    def decode(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B RH CW 3"]:
        return (super().decode(x / _STD + _MEAN) - 0.5) / _CONTRAST + 0.5

    def fitted(self, picture: Float[Tensor, "1 RH CW 3"]) -> Float[Tensor, "1 3 h w"]:
        return resize(picture, _ROWS * self.size, _COLUMNS * self.size).permute(0, 3, 1, 2) * 2.0 - 1.0


class DiffusersZero123PlusPrior(DiffusersPrior):
    """A UNet2DConditionModel with reference attention, over latents of six views in one picture.

    Texts and cameras are not read: the views are those of `layout`. In the unconditional branch (Condition.dropped)
    the picture is grey, and nothing is added to the states of the empty text.
    """

    @settings
    class Config:
        """Options of Zero123++.

        Attributes:
            version: The model, which no file of the folder names. v1.2 draws views from 20 degrees above and 10
                below, with a field of view of 30 degrees; v1.1 from 30 above and 20 below, with that of the given
                picture.
            size (pixels): Side of a view. The published models were trained with the default.
        """

        version: Literal["v1.1", "v1.2"] = "v1.2"
        size: Annotated[int | None, at_least(8)] = None

    parts = ("unet", "text_encoder", "vision_encoder")
    image_condition = "reference"
    reads_text = False
    codec: TiledLatents

    def __init__(
        self,
        *arguments: Any,
        layout: ViewLayout,
        clip: Any,
        ramp: Float[Tensor, " L"],
        inputs: tuple[PictureInput, PictureInput],
    ) -> None:
        super().__init__(*arguments)
        self.layout = layout
        self._clip, self._ramp = clip, ramp
        self._for_latent, self._for_clip = inputs
        self._seen: tuple[ReferenceView, Tensor, Tensor, Tensor] | None = None

    @classmethod
    def load(cls, parts: PipelineParts, options: Any) -> DiffusersZero123PlusPrior:
        folder = parts.folder
        unet = folder.config("unet")
        halvings = len(unet.get("block_out_channels", [0] * 4)) - 1
        size = divisible(folder, options.size, _SIDE, pixels_per_latent(folder, 4) * 2**halvings)
        process, form = parts.noise_table()
        codec = TiledLatents(parts.autoencoder("AutoencoderKL"), size)
        parts.plan.place_codec(codec)
        text = encoders.one_encoder(parts, pixels=False)
        inputs = (picture_input(folder, EXTRACTORS[0]), picture_input(folder, EXTRACTORS[1]))
        ramp = _ramp(folder).to(parts.device)
        clip = encoders.picture_encoder(parts, "vision_encoder", unet.get("cross_attention_dim"))
        network = ReferenceUNet(loaded(parts.network("UNet2DConditionModel", "unet")))
        layout = LAYOUTS[options.version]
        common = (network, codec, text, process, form, _SCALE)
        return cls(*common, layout=layout, clip=clip, ramp=ramp, inputs=inputs)

    def prepare(self, prompts: Sequence[Text]) -> None:
        super().prepare([""])

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        if condition.reference is None:
            raise UserError(
                "this prior shows a picture from other sides (Zero123++) and is given none: name it"
            )
        embedding, latent, grey = self._look_at(condition.reference, z)
        kept = 1.0 - torch.tensor(condition.drops(), device=z.device, dtype=z.dtype)
        states = self.text(("",) * len(z))["states"].to(z)
        states = states + kept[:, None, None] * embedding[:, None] * self._ramp[:, None]
        seen = torch.where(kept[:, None, None, None] > 0.0, latent, grey)
        timestep = self.process.timestep(t)
        # The same noise for both branches of a step, and other noise at the next.
        noise = torch.randn(latent.shape, generator=generator(0, "reference", int(timestep[0]))).to(z)
        noisy = add_noise(self.process, seen, noise, t)
        arguments = unet_arguments(self.dtype, z, timestep, states)
        return {**arguments, "reference": noisy.to(arguments["sample"])}

    def _look_at(self, reference: ReferenceView, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """CLIP embedding [1, D] and latent [1, C, u, v] of the reference, and the latent of grey, computed once."""
        if self._seen is None or self._seen[0] is not reference:
            image = reference.image.to(z)[None]
            clip = self._clip
            embedding = clip(self._for_clip(image).to(device=clip.device, dtype=clip.dtype)).image_embeds
            pixels = self._for_latent(image)
            latent, grey = (self.codec.most_likely(one) for one in (pixels, torch.zeros_like(pixels)))
            self._seen = reference, embedding.to(z), latent.to(z), grey.to(z)
        return self._seen[1:]


def _ramp(folder: PipelineFolder) -> Float[Tensor, " L"]:
    """The share of the picture's embedding that is added to each state of the text. Raises UserError."""
    given = folder.index.get(RAMP)
    length = folder.config("text_encoder").get("max_position_embeddings") or 77
    values = given if isinstance(given, list) else []
    numbers = [float(one) for one in values if isinstance(one, int | float) and abs(one) <= 1e6]
    if not len(numbers) == len(values) == length:
        raise UserError(
            f"prior '{folder.path}' is damaged, {RAMP} in model_index.json are not {length} numbers, one for each "
            "token of its text encoder: copy it again"
        )
    return torch.tensor(numbers)
