"""Codes of many scenes, the decoder they share and a diffusion over them, trained in one stage.

One outer step, in the order of the paper (SSDNeRF, algorithm 1; METHODS 4.2):

    the diffusion loss once: a step of the denoiser, and its gradient in the codes is kept
    K times: the kept gradient plus that of new rays, a step of the codes' own Adam
    the last time also a step of the decoder

Codes, their moments and what is known to be empty lie in a bank on disk; a step is a function of
(seed, step) and the state, so that a killed training goes on with the same bits.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.cameras.orbit import spherical
from threedgen.core import checkpoint
from threedgen.core.errors import UserError
from threedgen.core.random import derive_seed, generator
from threedgen.core.schedule import value_at
from threedgen.recipes.typed import plain
from threedgen.representations.triplane import smoothness
from threedgen.ssdnerf.code_bank import CodeBank, Records
from threedgen.ssdnerf.code_optimizer import CodeOptimizer
from threedgen.ssdnerf.config import Config
from threedgen.ssdnerf.decoder import LIMIT, activate, as_pictures
from threedgen.ssdnerf.distributed import World
from threedgen.ssdnerf.emptiness import Emptiness
from threedgen.ssdnerf.losses import rendering_loss
from threedgen.ssdnerf.model import LatentModel, Viewpoint
from threedgen.ssdnerf.network import vocabulary
from threedgen.ssdnerf.resuming import changed_settings
from threedgen.ssdnerf.scenes import Scenes
from threedgen.training.optimizer_state import moments, restore

BANK = "codes"


class Trainer:
    """The state of a training, and its one step."""

    def __init__(
        self, config: Config, scenes: Scenes, folder: Path, device: str = "cpu", world: World | None = None
    ) -> None:
        """folder: of the checkpoint and of the codes; a training that is there goes on. Raises UserError."""
        self.config, self.scenes, self.folder = config, scenes, folder
        self.device, self.world = torch.device(device), world or World()
        words = vocabulary(scenes.captions) if config.diffusion.captions else ()
        self.changed: list[str] = []  # settings that are others than those of the training that goes on
        self.networks = LatentModel(config, words, config.seed).to(self.device)
        self.averages = LatentModel(config, words, config.seed).to(self.device).requires_grad_(False).eval()
        self.averages.load_state_dict(self.networks.state_dict())
        self.optimizers = {
            "denoiser": _adam(self.networks.prior_parameters(), config.diffusion.learning_rate),
            "decoder": _adam(self.networks.decoder.parameters(), config.decoder.learning_rate),
        }
        self.emptiness = Emptiness(config.rendering, self.device)
        self.white = torch.ones(3, device=self.device)
        self.networks.statistics = self.averages.statistics  # they are of the codes, which are one
        self.averages.viewpoint = viewpoint_of(scenes)
        if words:
            self._check_captions()
        self.step, self.seconds = 0, 0.0
        self.bank = self._resumed() or self._new_bank()

    def _check_captions(self) -> None:
        """Raises UserError, naming the scene, for a caption that the network cannot be told."""
        for name, caption in zip(self.scenes.names, self.scenes.captions, strict=True):
            try:
                self.networks.denoiser.tokens([caption])
            except UserError as error:
                raise UserError(f"'{name}': {error}; shorten it in captions.json") from error

    def train_step(self) -> dict[str, float]:
        """One outer step; returns what there is to watch."""
        config, started = self.config, time.perf_counter()
        if config.reset and self.step == round(config.reset * config.steps):
            self.world.wait()  # until all have written what the mean is of
            self.bank.reset_to_mean()
            self.world.wait()
        everyone = self.batch_at(self.step)
        mine = self.world.share(everyone)
        records = self.bank.read(mine)
        self.bank.expect(self.world.share(self.batch_at(self.step + 1)))
        codes = [nn.Parameter(code) for code in records.code.to(self.device)]
        seen: dict[str, float] = {}
        prior = self._learn_prior(codes, mine, seen)
        require_finite(seen, self.step + 1)  # before it is in the codes, which no renderer could look at
        inner = round(value_at(config.inner, self.step, config.steps))
        if inner:
            self._learn_scenes(codes, mine, records, prior, inner, seen)
            self.bank.mark([scene for scene in everyone if scene not in mine])
        self._average()
        self.step += 1
        self.world.wait()  # what one process wrote, another may read next
        self.seconds += time.perf_counter() - started
        return seen

    def batch_at(self, step: int) -> list[int]:
        """The scenes of a step, of all processes: each pass over the set in a new order, cut into batches."""
        count, batch = len(self.scenes), self.config.batch
        if count < batch:
            raise UserError(f"a batch of {batch} needs as many scenes, there are {count}: set batch=N")
        chosen: list[int] = []
        place = step * batch
        while len(chosen) < batch:
            turn, first = divmod(place + len(chosen), count)
            order = torch.randperm(count, generator=generator(self.config.seed, "scenes", turn)).tolist()
            # A batch that spans two passes must not hold a scene twice: its two updates would be one.
            chosen += [scene for scene in order[first:] if scene not in chosen][: batch - len(chosen)]
        return chosen

    def _learn_prior(
        self, codes: list[nn.Parameter], mine: list[int], seen: dict[str, float]
    ) -> Float[Tensor, "B 3 C R R"] | None:
        """A step of the denoiser; the gradient of lambda_diff L_diff in each code, None where it has no weight."""
        config = self.config
        if not config.diffusion.weight:
            return None
        parameters = torch.stack(list(codes)).detach().requires_grad_()
        clean = as_pictures(activate(parameters))
        self.averages.statistics.follow(clean.detach(), config.diffusion.momentum, self.world.average)
        loss = self._diffusion(clean, mine)
        weighted = self.averages.statistics.weight(config.diffusion.weight) * loss
        weighted.mean().backward()
        self._update("denoiser", config.diffusion.learning_rate)
        assert parameters.grad is not None
        seen["prior"] = float(weighted.detach().mean())
        prior = parameters.grad * len(codes)  # each scene's own, not the mean's share
        seen["prior gradient"] = float(torch.linalg.vector_norm(prior)) / len(codes) ** 0.5
        seen["code std"] = float(clean.detach().std())
        seen["saturated"] = float((clean.detach().abs() > 0.95 * LIMIT).float().mean())
        return prior

    def _diffusion(self, clean: Float[Tensor, "B K R R"], mine: list[int]) -> Float[Tensor, " B"]:
        """Each scene's noise is its own: which process draws it makes no difference."""
        draws = [generator(self.config.seed, f"noise/{scene}", self.step) for scene in mine]
        model, told = self.networks, None
        if model.words:
            drop = self.config.diffusion.drop
            kept = [float(torch.rand((), generator=rng)) >= drop for rng in draws]
            captions = [
                self.scenes.captions[scene] if keep else None for scene, keep in zip(mine, kept, strict=True)
            ]
            told = model.denoiser.tokens(captions).to(self.device)
        with torch.random.fork_rng(devices=[]):  # dropout draws from torch's own stream
            torch.manual_seed(derive_seed(self.config.seed, f"dropout/{mine[0]}", self.step))
            return model.prior_loss(clean, draws, told)

    def _learn_scenes(
        self,
        codes: list[nn.Parameter],
        mine: list[int],
        records: Records,
        prior: Float[Tensor, "B 3 C R R"] | None,
        inner: int,
        seen: dict[str, float],
    ) -> None:
        """The inner steps; the last one moves the decoder too. Writes the scenes' records."""
        decoder = self.networks.decoder
        quiet = value_at(self.config.code_rates, self.step, self.config.steps)
        optimizer = CodeOptimizer(codes, records, quiet * self._rate() * self.config.codes.learning_rate)
        # A scene that nobody has looked at yet may have something anywhere.
        occupied = [
            self.emptiness.occupied(density) if steps else None
            for density, steps in zip(records.density, records.step.tolist(), strict=True)
        ]
        for k in range(inner):
            last = k == inner - 1
            decoder.requires_grad_(last)
            errors = []
            for place, (scene, code) in enumerate(zip(mine, codes, strict=True)):
                code.grad = torch.zeros_like(code) if prior is None else prior[place].clone()
                errors.append(self._render(scene, code, occupied[place], k))
            if last:
                self._watch_scenes(codes, prior, errors, seen)
                self._update("decoder", self.config.decoder.learning_rate)
            optimizer.step()
        densities = [
            self._looked(scene, code, density, first=steps == 0)
            for scene, code, density, steps in zip(
                mine, codes, records.density, records.step.tolist(), strict=True
            )
        ]
        self.bank.write(mine, optimizer.records(torch.stack(densities)))

    def _looked(
        self, scene: int, code: nn.Parameter, density: Float[Tensor, "G G G"], first: bool
    ) -> Float[Tensor, "G G G"]:
        """The scene's grid, after a look at where it is empty if one is due."""
        if self.step % self.config.rendering.look and not first:
            return density.float()
        seed, stream = self.config.seed, f"occupancy/{scene}"
        return self.emptiness.look(
            self.networks.decoder, activate(code).detach(), density, seed, stream, self.step
        )

    def _render(self, scene: int, code: nn.Parameter, occupied: Tensor | None, k: int) -> tuple[float, float]:
        """Adds the gradient of some of a scene's rays to those of its code and, where it wants one, the decoder;
        the loss and the mean squared error."""
        config = self.config
        fidelity = value_at(config.fidelity, self.step, config.steps)
        count = round(value_at(config.rays, self.step, config.steps))
        cameras, colors = self.scenes.rays(scene, count, self._rng(f"rays/{scene}", k))
        colors = colors.to(self.device)
        activated = activate(code)
        field = self.networks.decoder.field(activated, occupied)
        shown = self.networks.renderer(field, cameras, self.white, rng=self._rng(f"jitter/{scene}", k))
        rgb = shown.rgb.reshape(-1, 3)
        weight = fidelity * config.rendering.weight
        loss = rendering_loss(rgb, colors, weight, self.scenes.views(scene))
        penalty = config.codes.regularizer * activated.square().mean()
        if config.codes.smoothness:
            penalty = penalty + config.codes.smoothness * smoothness(activated.permute(0, 2, 3, 1))
        (loss + fidelity * penalty).backward()
        return float(loss.detach()), float((rgb.detach() - colors).square().mean())

    @torch.no_grad()
    def _watch_scenes(
        self,
        codes: list[nn.Parameter],
        prior: Tensor | None,
        errors: list[tuple[float, float]],
        seen: dict[str, float],
    ) -> None:
        """The balance of the two losses is what fails first: their values, and their gradients in the codes."""
        count = len(codes)
        total = torch.stack([code.grad for code in codes if code.grad is not None])
        rendered = total if prior is None else total - prior
        seen["rendering gradient"] = float(torch.linalg.vector_norm(rendered)) / count**0.5
        seen["rendering"] = sum(loss for loss, _ in errors) / count
        seen["mse"] = sum(error for _, error in errors) / count

    def _rate(self) -> float:
        """Factor of all learning rates at this step."""
        config = self.config
        warm = min(1.0, (self.step + 1) / config.warmup)
        return warm * value_at(config.rates, self.step, config.steps)

    def _rng(self, stream: str, k: int) -> torch.Generator:
        return generator(self.config.seed, f"{stream}/{k}", self.step)

    def _update(self, name: str, learning_rate: float) -> None:
        """A step of one network's optimizer, with the mean of all processes' gradients (Adam does not care that the
        decoder's are sums over scenes and the denoiser's means)."""
        optimizer = self.optimizers[name]
        gradients = [
            p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        self.world.average(gradients)
        for group in optimizer.param_groups:
            group["lr"] = self._rate() * learning_rate
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        averages: list[Tensor] = list(self.averages.parameters())
        values: list[Tensor] = list(self.networks.parameters())
        torch._foreach_lerp_(averages, values, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def save(self) -> None:
        """Writes the checkpoint: networks, averages, moments, and which of each scene's records it means."""
        self.bank.flush()
        self.world.wait()
        if self.world.first:
            tensors = checkpoint.prefixed("networks", self.networks.state_dict())
            tensors |= checkpoint.prefixed("averages", self.averages.state_dict())
            for name, optimizer in self.optimizers.items():
                tensors |= checkpoint.prefixed(name, moments(optimizer))
            tensors["slots"] = self.bank.slots
            state = {
                "step": self.step,
                "seconds": self.seconds,
                "scenes": digest(self.scenes),
                "source": self.scenes.source,
                "settings": plain(self.config),
            }
            checkpoint.save(self.folder / "checkpoint", tensors, state)
        self.world.wait()
        self.bank.committed()

    def _resumed(self) -> CodeBank | None:
        """Loads the checkpoint of the folder, if there is one, and opens the bank as it was then."""
        if not checkpoint.exists(self.folder / "checkpoint"):
            return None
        tensors, state = checkpoint.load(self.folder / "checkpoint")
        require_scenes(self.folder, state, self.scenes)
        self.changed = changed_settings(state["settings"], plain(self.config))
        self.networks.load_state_dict(checkpoint.unprefixed("networks", tensors))
        self.averages.load_state_dict(checkpoint.unprefixed("averages", tensors))
        for name, optimizer in self.optimizers.items():
            restore(optimizer, checkpoint.unprefixed(name, tensors))
        self.step, self.seconds = state["step"], state["seconds"]
        bank = CodeBank.open(self.folder / BANK, tensors["slots"])
        bank.require(*self._bank_shape())
        return bank

    def start_from(self, folder: Path) -> None:
        """Takes over the codes, what is known to be empty, and the decoder of another training on the same scenes,
        as they were at its last checkpoint. Raises UserError."""
        tensors, state = checkpoint.load(folder / "checkpoint")
        if state.get("scenes") != digest(self.scenes):
            raise UserError(f"{folder} holds a training on other scenes: its codes are not these scenes'")
        other = CodeBank.open(folder / BANK, tensors["slots"])
        other.require(*self._bank_shape())
        for name, model in (("networks", self.networks), ("averages", self.averages)):
            try:
                weights = checkpoint.unprefixed(f"{name}.decoder", tensors)
                model.decoder.load_state_dict(weights)
            except RuntimeError as error:
                raise UserError(f"the decoder of {folder} is another one than this recipe's") from error
        if self.world.first:
            for start in range(0, other.count, self.config.batch):
                part = range(start, min(start + self.config.batch, other.count))
                self.bank.write(part, other.read(part))
        else:
            self.bank.mark(range(other.count))
        self.world.wait()

    def _new_bank(self) -> CodeBank:
        if self.world.first:
            bank = CodeBank.create(self.folder / BANK, *self._bank_shape())
            bank.initialise(self.config.seed, self.config.codes.initial)
        self.world.wait()
        return CodeBank.open(self.folder / BANK)

    def _bank_shape(self) -> tuple[int, tuple[int, int, int, int], int]:
        codes = self.config.codes
        shape = (3, codes.channels, codes.resolution, codes.resolution)
        return len(self.scenes), shape, self.config.rendering.cells


def _adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, learning_rate, fused=True)


def digest(scenes: Scenes) -> str:
    """Of the names of a set's scenes, in their order: to whom the codes of a bank belong."""
    return hashlib.blake2b(repr(list(scenes.names)).encode(), digest_size=8).hexdigest()


def require_scenes(folder: Path, state: dict[str, Any], scenes: Scenes) -> None:
    """UserError where the training of a checkpoint is on other scenes, or is none of these."""
    if "settings" not in state:
        raise UserError(f"{folder} holds another kind of training: choose another --out")
    if state["scenes"] != digest(scenes) or state["source"] != scenes.source:
        raise UserError(f"{folder} holds a training on other scenes or pictures: choose another --out")


def require_finite(seen: dict[str, float], step: int) -> None:
    """UserError where something that there is to watch is not a number any more."""
    broken = [name for name, value in seen.items() if not math.isfinite(value)]
    if broken:
        raise UserError(
            f"'{broken[0]}' became {seen[broken[0]]} at step {step}: lower diffusion.learning_rate or "
            "codes.learning_rate; the same command goes on from the last checkpoint"
        )


def viewpoint_of(scenes: Scenes, most: int = 100) -> Viewpoint:
    """How the pictures see their scenes, from the first `most` of them."""
    distances, fovs, elevations, sizes = [], [], [], []
    for index in range(min(most, len(scenes))):
        cameras = scenes.cameras(index)
        _, elevation, distance = spherical(cameras)
        side = max(cameras.height, cameras.width)
        fovs.append(2.0 * torch.rad2deg(torch.atan(0.5 * side / cameras.intrinsics[:, 0, 0])))
        distances.append(distance)
        elevations.append(elevation)
        sizes.append(side)
    means = [float(torch.cat(values).mean()) for values in (distances, fovs, elevations)]
    return Viewpoint(*means, size=max(sizes))
