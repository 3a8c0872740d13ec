"""What all video models of diffusers have in common, and two that are UNets told a text: ModelScope (Wang et al.
2023; ZeroScope has its form) and AnimateDiff (Guo et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.guidance.priors.adapters.base import SCALE_LATENT, DiffusersPrior
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.clip_codec import ClipCodec, FrameLatents, frames_of
from threedgen.guidance.priors.folder import encoders
from threedgen.guidance.priors.folder.files import PipelineFolder
from threedgen.guidance.priors.folder.parts import Parts
from threedgen.guidance.priors.folder.text import TextEmbedder
from threedgen.guidance.priors.processes import Process

_LEAST_PIXELS = 8


class DiffusersVideoPrior(DiffusersPrior):
    """A frozen denoiser of clips. `encode` takes `frames` pictures a clip, one clip after the other; a sample is
    [f C, h, w], the latent frames one after the other (see clip_codec), and the network sees [C, f, h, w].

    Pictures are square. Models made for wider ones have been trained at several aspect ratios, or see one they know
    less well; `size` is by default the shorter side they were made for.
    """

    @dataclass(frozen=True)
    class Config:
        """frames: pictures a clip, null: what the model was made for. size: side of its pictures in pixels, null:
        what its config says, rounded down to what it can divide."""

        frames: int | None = None
        size: int | None = None

        def __post_init__(self) -> None:
            if self.frames is not None and self.frames < 2:
                raise UserError(f"options.frames is {self.frames}: a clip has at least 2 frames")
            if self.size is not None and self.size < _LEAST_PIXELS:
                raise UserError(
                    f"options.size must be a number of pixels >= {_LEAST_PIXELS}, got {self.size}"
                )

    video = True
    autoencoder: ClassVar[str] = "AutoencoderKL"
    """The only class of autoencoder that goes with the network."""
    frames_first: ClassVar[bool] = False
    """True where the network sees [f, C, h, w]."""
    made_for: ClassVar[int] = 16
    """Frames, where no config says how many."""
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
                "this prior denoises clips (a video model): name it by --video-prior of text-to-4d, or set "
                f"cameras.name=clips cameras.frames={self.frames}"
            )
        with torch.no_grad():
            arguments = self.arguments(z, t, condition)
        return self.flat(network(**arguments, return_dict=False)[0]).to(z.dtype)

    def volume(self, z: Float[Tensor, "B f*C h w"]) -> Float[Tensor, "B ..."]:
        """Clips as the network sees them, of its precision."""
        frames = frames_of(z, self.latent_frames).to(self.dtype)
        return frames if self.frames_first else frames.transpose(1, 2)

    def flat(self, volume: Float[Tensor, "B ..."]) -> Float[Tensor, "B f*C h w"]:
        """The inverse of `volume`, without the precision."""
        return (volume if self.frames_first else volume.transpose(1, 2)).flatten(1, 2)


class DiffusersModelScopePrior(DiffusersVideoPrior):
    """UNet3DConditionModel: a Stable Diffusion UNet with convolutions and attention over time."""

    network_class: ClassVar[str] = "UNet3DConditionModel"

    @classmethod
    def load(cls, parts: Parts, options: Any) -> DiffusersModelScopePrior:
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
    """UNetMotionModel: a Stable Diffusion UNet and a motion module, joined as AnimateDiffPipeline saves them."""

    network_class = "UNetMotionModel"

    @classmethod
    def clip_frames(cls, folder: PipelineFolder, options: Any) -> int:
        frames = super().clip_frames(folder, options)
        longest = folder.config("unet").get("motion_max_seq_length", 32)
        if frames > longest:
            raise UserError(
                f"prior '{folder.path}' has places for {longest} frames, not {frames}: lower options.frames"
            )
        return frames

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        arguments = super().arguments(z, t, condition)
        # Unlike its sibling it wants the text of each frame.
        states = arguments["encoder_hidden_states"].repeat_interleave(self.latent_frames, dim=0)
        return arguments | {"encoder_hidden_states": states}


def frame_size(parts: Parts, options: Any) -> int:
    """Pixels a side of the pictures of a video UNet: its own or the asked for.

    Raises UserError where the UNet cannot halve their latents as often as it does.
    """
    reduction = picture_reduction(parts.folder.config("vae"))
    halvings = len(parts.folder.config("unet").get("block_out_channels", [0] * 4)) - 1
    own = 0 if options.size else parts.side("unet") * reduction
    return divisible(parts.folder, options.size, own, reduction * 2**halvings)


def divisible(folder: PipelineFolder, asked: int | None, own: int, unit: int) -> int:
    """`asked`, which must be a multiple of `unit`, or the largest multiple in `own`."""
    size = asked or max(own // unit, 1) * unit
    if size % unit:
        raise UserError(
            f"options.size is {size}, but prior '{folder.path}' takes pictures of multiples of {unit} pixels: "
            f"say {max(size // unit, 1) * unit}"
        )
    return size


def packed_frames(folder: PipelineFolder, asked: int | None, own: int, ratio: int) -> int:
    """Frames of a model that packs `ratio` of them, after the first, into a latent frame: `asked`, or what fits
    into `own`. Raises UserError where `asked` is not 1 more than a multiple of `ratio`."""
    if asked is not None and asked % ratio != 1:
        raise UserError(
            f"options.frames is {asked}, but prior '{folder.path}' packs {ratio} frames into one after the first: "
            f"say {asked // ratio * ratio + 1} or {(asked // ratio + 1) * ratio + 1}"
        )
    return asked or (own - 1) // ratio * ratio + 1


def picture_reduction(vae: Mapping[str, Any]) -> int:
    """Pixels a latent, along a side, of an autoencoder that halves between its blocks."""
    return 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
