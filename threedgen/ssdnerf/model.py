"""A trained SSDNeRF: the denoiser of codes and the decoder, and the folder they lie in."""

from __future__ import annotations

import json
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
from threedgen.ssdnerf.config import Config, config_of
from threedgen.ssdnerf.decoder import LIMIT, TriplaneDecoder
from threedgen.ssdnerf.losses import diffusion_loss
from threedgen.ssdnerf.matryoshka import MatryoshkaDiffusion, NestedUNet
from threedgen.ssdnerf.network import CodeDenoiser, noise_schedule
from threedgen.ssdnerf.stage_wise import StageWiseDiffusion
from threedgen.ssdnerf.statistics import CodeStatistics
from threedgen.training.store import read_model, write_model

DOCUMENT = "ssdnerf.json"
# Of the settings; the others are of the training.
_PARTS = ("codes", "decoder", "diffusion", "rendering", "guiding", "finetuning")


@dataclass(frozen=True)
class Viewpoint:
    """How the training pictures saw their scenes: mean distance of the cameras from the middle, in world units, and
    mean field of view and elevation, in degrees. size: pixels of a picture's longer side."""

    distance: float = 2.85
    fov: float = 40.0
    elevation: float = 25.0
    size: int = 64


class LatentModel(nn.Module):
    """What all scenes share. words: that captions are made of, () without captions."""

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
        """Of a code as the diffusion sees it: channels, height, width."""
        codes = self.config.codes
        return 3 * codes.channels, codes.resolution, codes.resolution

    @property
    def device(self) -> torch.device:
        return self.decoder.base.weight.device

    def prior_parameters(self) -> Iterator[nn.Parameter]:
        """Those of the denoiser, whatever its kind."""
        return (self.denoiser if self.nested is None else self.nested).parameters()

    def network(
        self,
        noisy: Tensor | Sequence[Tensor],
        timesteps: Int[Tensor, " B"],
        told: Int[Tensor, "B L"] | None = None,
        scale: float = 1.0,
    ) -> Any:
        """What the denoiser says, in its configured precision: v, or the several answers of coarse-to-fine kinds.

        Where it is told something it is guided by `scale`: uncond + scale (cond - uncond).
        """
        denoise = self.denoiser if self.nested is None else self.nested
        half = self.config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            if told is None or scale == 1.0:
                return denoise(noisy, timesteps, told)
            twice = torch.cat([told, torch.zeros_like(told)])
            both = denoise(_each(_doubled, noisy), torch.cat([timesteps, timesteps]), twice)

        def guided(answer: Tensor) -> Tensor:
            said, unsaid = answer.float().chunk(2)
            return unsaid + scale * (said - unsaid)

        return _each(guided, both)

    def clean(
        self,
        noisy: Float[Tensor, "B K R R"],
        t: Float[Tensor, " B"],
        told: Int[Tensor, "B L"] | None = None,
        scale: float = 1.0,
    ) -> Float[Tensor, "B K R R"]:
        """alpha z - sigma v of plain diffusion at t in [0, 1]: what it sees of a code inside of the range of
        +-2."""
        alpha, sigma = (
            per_sample(level, noisy) for level in (self.schedule.alpha(t), self.schedule.sigma(t))
        )
        v = self.network(noisy, self.schedule.timestep(t), told, scale).float()
        return self.within(alpha * noisy - sigma * v)

    def within(self, seen: Float[Tensor, "B K R R"]) -> Float[Tensor, "B K R R"]:
        """What is seen of a code, moved to where the code lies in +-2."""
        statistics = self.statistics
        return statistics.seen(statistics.meant(seen).clamp(-LIMIT, LIMIT))

    def codes_of(self, seen: Float[Tensor, "B K R R"]) -> Float[Tensor, "B K R R"]:
        """The codes in +-2 that the diffusion sees so."""
        return self.statistics.meant(seen).clamp(-LIMIT, LIMIT)

    def prior_loss(
        self,
        codes: Float[Tensor, "B K R R"],
        draws: Sequence[torch.Generator],
        told: Int[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, " B"]:
        """The diffusion loss of each code, in the units that the diffusion sees, at a t and with a noise from
        its own generator. Its weight is `statistics.weight`."""
        codes = self.statistics.seen(codes)
        t = torch.stack([torch.rand((), generator=rng) for rng in draws]).to(codes.device)
        rows = () if told is None else (told,)
        if isinstance(self.coarse_to_fine, MatryoshkaDiffusion):
            pyramids = [self.coarse_to_fine.noises(1, self.shape, rng) for rng in draws]
            noises = [torch.cat(level).to(codes) for level in zip(*pyramids, strict=True)]
            return self.coarse_to_fine.loss_at(self.network, codes, t, noises, rows)
        eps = torch.stack([torch.randn(self.shape, generator=rng) for rng in draws]).to(codes)
        if isinstance(self.coarse_to_fine, StageWiseDiffusion):
            return self.coarse_to_fine.loss_at(self.network, codes, t, eps, rows)

        def network(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return self.network(noisy, timesteps, told)

        return diffusion_loss(network, codes, t, eps, self.schedule, self.config.diffusion.power)

    def planes(self, codes: Float[Tensor, "B K R R"]) -> Float[Tensor, "B 3 C R R"]:
        """Codes as the decoder sees them."""
        return codes.unflatten(1, (3, self.config.codes.channels))

    def field(self, code: Float[Tensor, "K R R"], occupied: Tensor | None = None) -> RadianceField:
        """The scene of one code (activated, as the diffusion sees it)."""
        return self.decoder.field(code.unflatten(0, (3, self.config.codes.channels)), occupied)


def _coarse_to_fine(
    config: Config, schedule: NoiseSchedule
) -> StageWiseDiffusion | MatryoshkaDiffusion | None:
    """The process of a kind that denoises coarse codes first; None for plain diffusion."""
    kind, power = config.diffusion.kind, config.diffusion.power
    clip = None if config.diffusion.centred else LIMIT  # centred, the range is another in each texel
    if kind == "stage-wise":
        return StageWiseDiffusion(schedule, power=power, clip=clip)
    return MatryoshkaDiffusion(schedule, power=power, clip=clip) if kind == "matryoshka" else None


def _each(change: Callable[[Tensor], Tensor], answers: Tensor | Sequence[Tensor]) -> Any:
    """One tensor, or each of several, changed."""
    return change(answers) if isinstance(answers, Tensor) else [change(answer) for answer in answers]


def _doubled(batch: Tensor) -> Tensor:
    return torch.cat([batch, batch])


def save_model(model: LatentModel, folder: Path, about: dict[str, Any]) -> None:
    """Writes weights and document. about: what else the document says (of its training)."""
    document = {
        "config": {"precision": model.config.precision}
        | {part: asdict(getattr(model.config, part)) for part in _PARTS},
        "words": model.words,
        "viewpoint": asdict(model.viewpoint),
        **about,
    }
    write_model(folder, DOCUMENT, model.state_dict(), document)


def steps_of_model(folder: Path) -> int | None:
    """After how many steps of its training the model of a folder was saved, None where there is none."""
    try:
        return json.loads((folder / DOCUMENT).read_text(encoding="utf-8")).get("steps")
    except (OSError, ValueError, AttributeError):
        return None


def load_model(folder: str | Path, device: torch.device | str = "cpu") -> LatentModel:
    """The model of a folder that `threedgen train ssdnerf` left, frozen, in float32. Raises UserError."""

    def make(document: dict[str, Any]) -> LatentModel:
        model = LatentModel(config_of(document["config"]), document["words"])
        model.viewpoint = Viewpoint(**document["viewpoint"])
        return model

    return read_model(folder, DOCUMENT, "ssdnerf", make)[0].to(device)
