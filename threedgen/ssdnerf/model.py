"""A trained SSDNeRF: the denoiser of codes and the decoder, and their folder on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from threedgen.core.random import derive_seed
from threedgen.core.types import RadianceField
from threedgen.guidance.priors.processes import NoiseSchedule, per_sample
from threedgen.renderers.volume import VolumeRenderer
from threedgen.ssdnerf.config import SECTIONS, Config
from threedgen.ssdnerf.decoder import LIMIT, TriplaneDecoder
from threedgen.ssdnerf.losses import diffusion_loss
from threedgen.ssdnerf.matryoshka import MatryoshkaDiffusion, NestedUNet
from threedgen.ssdnerf.network import CodeDenoiser, noise_schedule
from threedgen.ssdnerf.stage_wise import StageWiseDiffusion
from threedgen.ssdnerf.statistics import CodeStatistics
from threedgen.training.documents import DocumentError, build, read_document, section
from threedgen.training.store import read_model, write_model

DOCUMENT = "ssdnerf.json"


@dataclass(frozen=True)
class Viewpoint:
    """How the training pictures see their objects, on average.

    Attributes:
        distance (world units): Mean distance of the cameras from the origin.
        fov (degrees): Mean field of view along the longer side.
        elevation (degrees): Mean elevation of the cameras.
        size (pixels): Longer side of the largest picture.
    """

    distance: float = 2.85
    fov: float = 40.0
    elevation: float = 25.0
    size: int = 64


class LatentModel(nn.Module):
    """What all objects share. words: the vocabulary of the captions, empty for a model without captions."""

    def __init__(self, config: Config, words: Sequence[str] = (), seed: int = 0) -> None:
        super().__init__()
        self.config, self.words = config, tuple(words)
        self.schedule = noise_schedule(config.diffusion)
        self.viewpoint = Viewpoint()
        self.renderer = VolumeRenderer(VolumeRenderer.Config(samples=config.rendering.samples))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "weights", 0) % 2**31)
            self.denoiser = CodeDenoiser(config.codes, config.diffusion, words)
            self.decoder = TriplaneDecoder(config.codes, config.decoder, config.rendering)
            self.nested = None
            if config.diffusion.kind == "matryoshka":
                self.nested = NestedUNet(self.denoiser, self.shape[0], config.diffusion.widths[0])
        self.statistics = CodeStatistics(self.shape, config.diffusion.centred)
        self.coarse_to_fine = _coarse_to_fine(config, self.schedule)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a code as the denoiser takes it: channels, height, width."""
        codes = self.config.codes
        return 3 * codes.channels, codes.resolution, codes.resolution

    @property
    def device(self) -> torch.device:
        return self.decoder.base.weight.device

    def prior_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the denoiser, of any kind of diffusion."""
        return (self.denoiser if self.nested is None else self.nested).parameters()

    def network(
        self,
        noisy: Tensor | Sequence[Tensor],
        timesteps: Int[Tensor, " B"],
        tokens: Int[Tensor, "B L"] | None = None,
        scale: float = 1.0,
    ) -> Any:
        """The prediction of the denoiser in its configured precision: v, or the several answers of coarse-to-fine
        kinds.

        tokens: those of captions. With captions it is guided by `scale`: uncond + scale (cond - uncond).
        """
        denoise = self.denoiser if self.nested is None else self.nested
        half = self.config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            if tokens is None or scale == 1.0:
                return denoise(noisy, timesteps, tokens)
            twice = torch.cat([tokens, torch.zeros_like(tokens)])
            both = denoise(_each(_doubled, noisy), torch.cat([timesteps, timesteps]), twice)

        def guided(answer: Tensor) -> Tensor:
            conditional, unconditional = answer.float().chunk(2)
            return unconditional + scale * (conditional - unconditional)

        return _each(guided, both)

    def clean(
        self,
        noisy: Float[Tensor, "B K R R"],
        t: Float[Tensor, " B"],
        tokens: Int[Tensor, "B L"] | None = None,
        scale: float = 1.0,
    ) -> Float[Tensor, "B K R R"]:
        """x_hat = alpha z - sigma v of plain diffusion at t in [0, 1], a normalised code within the range of
        codes."""
        alpha, sigma = (
            per_sample(level, noisy) for level in (self.schedule.alpha(t), self.schedule.sigma(t))
        )
        v = self.network(noisy, self.schedule.timestep(t), tokens, scale).float()
        return self.within(alpha * noisy - sigma * v)

    def within(self, normalised: Float[Tensor, "B K R R"]) -> Float[Tensor, "B K R R"]:
        """Normalised codes, clipped so that the codes lie in +-2."""
        statistics = self.statistics
        return statistics.normalise(statistics.denormalise(normalised).clamp(-LIMIT, LIMIT))

    def codes_of(self, normalised: Float[Tensor, "B K R R"]) -> Float[Tensor, "B K R R"]:
        """The codes in +-2 that these normalised codes stand for."""
        return self.statistics.denormalise(normalised).clamp(-LIMIT, LIMIT)

    def prior_loss(
        self,
        codes: Float[Tensor, "B K R R"],
        draws: Sequence[torch.Generator],
        tokens: Int[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, " B"]:
        """The diffusion loss of each normalised code, whose weight is `statistics.weight`.

        draws: a CPU generator for each code, which draws its time and noise. tokens: those of captions.
        """
        codes = self.statistics.normalise(codes)
        t = torch.stack([torch.rand((), generator=rng) for rng in draws]).to(codes.device)
        rows = () if tokens is None else (tokens,)
        if isinstance(self.coarse_to_fine, MatryoshkaDiffusion):
            pyramids = [self.coarse_to_fine.noises(1, self.shape, rng) for rng in draws]
            noises = [torch.cat(level).to(codes) for level in zip(*pyramids, strict=True)]
            return self.coarse_to_fine.loss_at(self.network, codes, t, noises, rows)
        eps = torch.stack([torch.randn(self.shape, generator=rng) for rng in draws]).to(codes)
        if isinstance(self.coarse_to_fine, StageWiseDiffusion):
            return self.coarse_to_fine.loss_at(self.network, codes, t, eps, rows)

        def network(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return self.network(noisy, timesteps, tokens)

        return diffusion_loss(network, codes, t, eps, self.schedule, self.config.diffusion.power)

    def planes(self, codes: Float[Tensor, "B K R R"]) -> Float[Tensor, "B 3 C R R"]:
        """Codes as the decoder takes them."""
        return codes.unflatten(1, (3, self.config.codes.channels))

    def field(self, code: Float[Tensor, "K R R"], occupied: Tensor | None = None) -> RadianceField:
        """The radiance field of one activated code. occupied: the cells that may hold something; None for all."""
        return self.decoder.field(code.unflatten(0, (3, self.config.codes.channels)), occupied)


def _coarse_to_fine(
    config: Config, schedule: NoiseSchedule
) -> StageWiseDiffusion | MatryoshkaDiffusion | None:
    """The process of a kind that denoises coarse codes first; None for plain diffusion."""
    kind, power = config.diffusion.kind, config.diffusion.power
    clip = (
        None if config.diffusion.centred else LIMIT
    )  # the range of centred codes differs from texel to texel
    if kind == "stage-wise":
        return StageWiseDiffusion(schedule, power=power, clip=clip)
    return MatryoshkaDiffusion(schedule, power=power, clip=clip) if kind == "matryoshka" else None


def _each(change: Callable[[Tensor], Tensor], answers: Tensor | Sequence[Tensor]) -> Any:
    """The change of one tensor, or of each of several."""
    return change(answers) if isinstance(answers, Tensor) else [change(answer) for answer in answers]


def _doubled(batch: Tensor) -> Tensor:
    return torch.cat([batch, batch])


def save_model(model: LatentModel, folder: Path, about: dict[str, Any]) -> None:
    """Writes the weights and the document. about: what the document says of the training."""
    document = {
        "config": {"precision": model.config.precision}
        | {name: asdict(getattr(model.config, name)) for name in SECTIONS},
        "words": model.words,
        "viewpoint": asdict(model.viewpoint),
        **about,
    }
    write_model(folder, DOCUMENT, model.state_dict(), document)


def steps_of_model(folder: Path) -> int | None:
    """The step of the training at which the model of a folder was saved; None if there is no model."""
    try:
        return read_document(folder / DOCUMENT).get("steps")
    except (OSError, DocumentError):
        return None


def load_model(folder: str | Path, device: torch.device | str = "cpu") -> LatentModel:
    """The model in a folder of `threedgen train ssdnerf`, frozen and in float32. Raises UserError."""

    def make(document: dict[str, Any]) -> LatentModel:
        words = section(document, "words")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DocumentError("its 'words' are no list of texts")
        model = LatentModel(build(Config, section(document, "config")), words)
        model.viewpoint = build(Viewpoint, section(document, "viewpoint"))
        return model

    return read_model(folder, DOCUMENT, "ssdnerf", make)[0].to(device)
