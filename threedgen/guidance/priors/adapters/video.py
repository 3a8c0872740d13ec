"""What all video models of diffusers have in common, and two text-to-video UNets: ModelScope (Wang et al. 2023;
ZeroScope has the same form) and AnimateDiff (Guo et al. 2023)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.settings import at_least, settings
from threedgen.guidance.priors.adapters.base import SCALE_LATENT, DiffusersPrior
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.clip_codec import ClipCodec, FrameLatents, frames_of
from threedgen.guidance.priors.folder import encoders
from threedgen.guidance.priors.folder.files import PipelineFolder
from threedgen.guidance.priors.folder.parts import PipelineParts, pixels_per_latent
from threedgen.guidance.priors.folder.text import TextEmbedder
from threedgen.guidance.priors.processes import Process


class DiffusersVideoPrior(DiffusersPrior):
    """A frozen denoiser of clips. `encode` takes `frames` pictures for each clip, one clip after the other. A
    sample is [f C, h, w], the latent frames one after the other (see clip_codec), and the input of the network
    [C, f, h, w].

    Pictures are square. Models for wide pictures were trained with several aspect ratios, or work less well with
    squares; the default `size` is the shorter side of their pictures.
    """

    @settings
    class Config:
        """Options of all video models.

        Attributes:
            frames: Number of pictures in a clip; null is the number that the model was trained with.
            size (pixels): Width and height of the pictures; null is the size in the config of the model, rounded
                down to a multiple that its networks can divide.
        """

        frames: Annotated[int | None, at_least(2)] = None
        size: Annotated[int | None, at_least(8)] = None

    video = True
    autoencoder: ClassVar[str] = "AutoencoderKL"
    """The class of autoencoder that belongs to the network."""
    frames_first: ClassVar[bool] = False
    """True if the input of the network is [f, C, h, w]."""
    made_for: ClassVar[int] = 16
    """Number of frames if no config has one."""
    codec: ClipCodec

    def __init__(
        self, network: Any, codec: ClipCodec, text: TextEmbedder, process: Process, form: str, scale: float
    ) -> None:
        super().__init__(network, codec, text, process, form, scale)
        self.frames, self.latent_frames = codec.frames, codec.latent_frames

    @classmethod
    def clip_frames(cls, folder: PipelineFolder, options: Any) -> int:
        return options.frames or cls.made_for

    def answer(
        self, network: Any, z: Float[Tensor, "B f*C h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> Float[Tensor, "B f*C h w"]:
        if condition.times is None:
            raise UserError(
                "this prior denoises clips (a video model): name it with --video-prior of text-to-4d, or set "
                f"cameras.name=clips cameras.frames={self.frames}"
            )
        with torch.no_grad():
            arguments = self.arguments(z, t, condition)
        return self.flat(network(**arguments, return_dict=False)[0]).to(z.dtype)

    def volume(self, z: Float[Tensor, "B f*C h w"]) -> Float[Tensor, "B ..."]:
        """Clips in the layout and the precision of the network."""
        frames = frames_of(z, self.latent_frames).to(self.dtype)
        return frames if self.frames_first else frames.transpose(1, 2)

    def flat(self, volume: Float[Tensor, "B ..."]) -> Float[Tensor, "B f*C h w"]:
        """The inverse of `volume`, except for the precision."""
        return (volume if self.frames_first else volume.transpose(1, 2)).flatten(1, 2)


class DiffusersModelScopePrior(DiffusersVideoPrior):
    """UNet3DConditionModel: a Stable Diffusion UNet with convolutions and attention over time."""

    network_class: ClassVar[str] = "UNet3DConditionModel"

    @classmethod
    def load(cls, parts: PipelineParts, options: Any) -> DiffusersModelScopePrior:
        network = parts.network(cls.network_class, "unet")
        process, form = parts.noise_table()
        pictures = parts.latents(frame_size(parts, options))
        codec = FrameLatents(pictures, cls.clip_frames(parts.folder, options))
        text = encoders.one_encoder(parts, pixels=False)
        return cls(network, codec, text, process, form, SCALE_LATENT)

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        states = self.text(condition.prompts)["states"]
        return {
            "sample": self.volume(z),
            "timestep": self.process.timestep(t),
            "encoder_hidden_states": states.to(device=z.device, dtype=self.dtype),
        }


class DiffusersAnimateDiffPrior(DiffusersModelScopePrior):
    """UNetMotionModel: a Stable Diffusion UNet joined with a motion module, as AnimateDiffPipeline saves them."""

    network_class = "UNetMotionModel"

    @classmethod
    def clip_frames(cls, folder: PipelineFolder, options: Any) -> int:
        frames = super().clip_frames(folder, options)
        longest = folder.config("unet").get("motion_max_seq_length", 32)
        if frames > longest:
            raise UserError(
                f"prior '{folder.path}' has positions for {longest} frames, not {frames}: lower options.frames"
            )
        return frames

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        arguments = super().arguments(z, t, condition)
        # Unlike UNet3DConditionModel it takes the states of the text once for each frame.
        states = arguments["encoder_hidden_states"].repeat_interleave(self.latent_frames, dim=0)
        return arguments | {"encoder_hidden_states": states}


def frame_size(parts: PipelineParts, options: Any) -> int:
    """Width and height in pixels of the pictures of a video UNet: those of the options, or else its own.

    Raises UserError if the UNet cannot halve the latents of such pictures as often as it has to.
    """
    reduction = pixels_per_latent(parts.folder, 4)
    halvings = len(parts.folder.config("unet").get("block_out_channels", [0] * 4)) - 1
    own = 0 if options.size else parts.side("unet") * reduction
    return divisible(parts.folder, options.size, own, reduction * 2**halvings)


def divisible(folder: PipelineFolder, asked: int | None, own: int, unit: int) -> int:
    """`asked`, or if it is None the largest multiple of `unit` up to `own`. UserError: no multiple of `unit`."""
    size = asked or max(own // unit, 1) * unit
    if size % unit:
        raise UserError(
            f"options.size is {size}, but the sizes of prior '{folder.path}' are multiples of {unit} pixels: "
            f"set it to {max(size // unit, 1) * unit}"
        )
    return size


def packed_frames(folder: PipelineFolder, asked: int | None, own: int, ratio: int) -> int:
    """Number of frames of a model that compresses `ratio` frames, after the first, into a latent frame: `asked`, or
    if it is None the largest possible number up to `own`. Raises UserError if `asked` - 1 is no multiple of
    `ratio`."""
    if asked is not None and asked % ratio != 1:
        raise UserError(
            f"options.frames is {asked}, but prior '{folder.path}' compresses groups of {ratio} frames after the "
            f"first: set it to {asked // ratio * ratio + 1} or {(asked // ratio + 1) * ratio + 1}"
        )
    return asked or (own - 1) // ratio * ratio + 1
