"""Codes of many objects, the decoder that they share and a denoiser of codes, trained in one stage.

One outer step, in the order of the paper (SSDNeRF, Chen, Gu et al. 2023, algorithm 1):

    once: the diffusion loss and a step of the denoiser; the gradient of the loss in the codes is kept
    K times: a step of Adam on the codes, along the kept gradient plus that of new rays
    the last of these times also: a step of the decoder

Codes, their moments and their occupancy grids are in a bank on disk. A step is a function of (seed, step) and the
state, so that a killed training continues with the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path

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
from threedgen.ssdnerf.losses import rendering_loss
from threedgen.ssdnerf.model import LatentModel, Viewpoint
from threedgen.ssdnerf.network import vocabulary
from threedgen.ssdnerf.occupancy import ObjectGrids
from threedgen.ssdnerf.posed_objects import PosedObjects
from threedgen.ssdnerf.resuming import CHECKPOINT, changed_settings, digest, read_saved, require_objects
from threedgen.training.optimizer_state import moments, restore

BANK = "codes"


class Trainer:
    """The state of a training, and its one step."""

    def __init__(
        self,
        config: Config,
        objects: PosedObjects,
        folder: Path,
        device: str = "cpu",
        world: World | None = None,
    ) -> None:
        """folder: where checkpoint and codes are; a training that is there continues. Raises UserError."""
        self.config, self.objects, self.folder = config, objects, folder
        self.device, self.world = torch.device(device), world or World()
        words = vocabulary(objects.captions) if config.diffusion.captions else ()
        self.changed: list[str] = []  # settings that differ from those of the training that continues
        self.networks = LatentModel(config, words, config.seed).to(self.device)
        self.averages = LatentModel(config, words, config.seed).to(self.device).requires_grad_(False).eval()
        self.averages.load_state_dict(self.networks.state_dict())
        self.optimizers = {
            "denoiser": _adam(self.networks.prior_parameters(), config.diffusion.learning_rate),
            "decoder": _adam(self.networks.decoder.parameters(), config.decoder.learning_rate),
        }
        self.grids = ObjectGrids(config.rendering, self.device)
        self.white = torch.ones(3, device=self.device)
        self.networks.statistics = self.averages.statistics  # both models are of the same codes
        self.averages.viewpoint = viewpoint_of(objects)
        if words:
            self._check_captions()
        self.step, self.seconds = 0, 0.0
        self.unwritten: dict[str, list[float]] = {}  # what `Watch` takes the means of
        self.bank = self._resumed() or self._new_bank()

    def _check_captions(self) -> None:
        """Raises UserError, with the name of the object, for a caption that the network cannot take."""
        for name, caption in zip(self.objects.names, self.objects.captions, strict=True):
            try:
                self.networks.denoiser.tokens([caption])
            except UserError as error:
                raise UserError(f"'{name}': {error}; shorten it in captions.json") from error

    def train_step(self) -> dict[str, float]:
        """Takes one outer step, and returns what was measured."""
        config, started = self.config, time.perf_counter()
        if config.reset and self.step == round(config.reset * config.steps):
            self.world.wait()  # until all have written the codes of which the mean is taken
            self.bank.reset_to_mean()
            self.world.wait()
        everyone = self.batch_at(self.step)
        mine = self.world.share(everyone)
        records = self.bank.read(mine)
        self.bank.expect(self.world.share(self.batch_at(self.step + 1)))
        codes = [nn.Parameter(code) for code in records.code.to(self.device)]
        measured: dict[str, float] = {}
        prior = self._learn_prior(codes, mine, measured)
        require_finite(
            measured, self.step + 1
        )  # before it is in the codes, which could not be rendered any more
        inner = round(value_at(config.inner, self.step, config.steps))
        if inner:
            self._learn_objects(codes, mine, records, prior, inner, measured)
            self.bank.mark([index for index in everyone if index not in mine])
        self._average()
        self.step += 1
        self.world.wait()  # another process may read next what this one wrote
        self.seconds += time.perf_counter() - started
        return measured

    def batch_at(self, step: int) -> list[int]:
        """The objects of a step, of all processes together: each pass over the set is in a new order, cut into
        batches."""
        count, batch = len(self.objects), self.config.batch
        if count < batch:
            raise UserError(
                f"a batch of {batch} needs as many objects, and there are {count}: set batch={count} or less"
            )
        chosen: list[int] = []
        place = step * batch
        while len(chosen) < batch:
            turn, first = divmod(place + len(chosen), count)
            order = torch.randperm(count, generator=generator(self.config.seed, "scenes", turn)).tolist()
            # A batch that spans two passes must not hold an object twice: one of its two updates would be lost.
            chosen += [index for index in order[first:] if index not in chosen][: batch - len(chosen)]
        return chosen

    def _learn_prior(
        self, codes: list[nn.Parameter], mine: list[int], measured: dict[str, float]
    ) -> Float[Tensor, "B 3 C R R"] | None:
        """Takes a step of the denoiser, and returns the gradient of lambda_diff L_diff in each code; None if its
        weight is 0."""
        config = self.config
        if not config.diffusion.weight:
            return None
        parameters = torch.stack(list(codes)).detach().requires_grad_()
        clean = as_pictures(activate(parameters))
        self.averages.statistics.update(clean.detach(), config.diffusion.momentum, self.world.average)
        loss = self._diffusion(clean, mine)
        weighted = self.averages.statistics.weight(config.diffusion.weight) * loss
        weighted.mean().backward()
        self._update("denoiser", config.diffusion.learning_rate)
        assert parameters.grad is not None
        measured["prior"] = float(weighted.detach().mean())
        prior = parameters.grad * len(codes)  # the gradient of the loss of each object, and not of their mean
        measured["prior gradient"] = float(torch.linalg.vector_norm(prior)) / len(codes) ** 0.5
        measured["code std"] = float(clean.detach().std())
        measured["saturated"] = float((clean.detach().abs() > 0.95 * LIMIT).float().mean())
        return prior

    def _diffusion(self, clean: Float[Tensor, "B K R R"], mine: list[int]) -> Float[Tensor, " B"]:
        """The loss of each object, whose noise does not depend on the process that draws it."""
        draws = [generator(self.config.seed, f"noise/{index}", self.step) for index in mine]
        model, tokens = self.networks, None
        if model.words:
            drop = self.config.diffusion.drop
            kept = [float(torch.rand((), generator=rng)) >= drop for rng in draws]
            captions = [
                self.objects.captions[index] if keep else None for index, keep in zip(mine, kept, strict=True)
            ]
            tokens = model.denoiser.tokens(captions).to(self.device)
        with torch.random.fork_rng(devices=[]):  # dropout draws from the global stream of torch
            torch.manual_seed(derive_seed(self.config.seed, f"dropout/{mine[0]}", self.step))
            return model.prior_loss(clean, draws, tokens)

    def _learn_objects(
        self,
        codes: list[nn.Parameter],
        mine: list[int],
        records: Records,
        prior: Float[Tensor, "B 3 C R R"] | None,
        inner: int,
        measured: dict[str, float],
    ) -> None:
        """Takes the inner steps, of which the last moves the decoder as well, and writes the records of the
        objects."""
        decoder = self.networks.decoder
        factor = value_at(self.config.code_rates, self.step, self.config.steps)
        optimizer = CodeOptimizer(codes, records, factor * self._rate() * self.config.codes.learning_rate)
        # Any cell of an object whose grid was never updated may hold something.
        occupied = [
            self.grids.occupied(density) if steps else None
            for density, steps in zip(records.density, records.step.tolist(), strict=True)
        ]
        for k in range(inner):
            last = k == inner - 1
            decoder.requires_grad_(last)
            errors = []
            for place, (index, code) in enumerate(zip(mine, codes, strict=True)):
                code.grad = torch.zeros_like(code) if prior is None else prior[place].clone()
                errors.append(self._render(index, code, occupied[place], k))
            if last:
                self._measure_objects(codes, prior, errors, measured)
                self._update("decoder", self.config.decoder.learning_rate)
            optimizer.step()
        densities = [
            self._density(index, code, density, first=steps == 0)
            for index, code, density, steps in zip(
                mine, codes, records.density, records.step.tolist(), strict=True
            )
        ]
        self.bank.write(mine, optimizer.records(torch.stack(densities)))

    def _density(
        self, index: int, code: nn.Parameter, density: Float[Tensor, "G G G"], first: bool
    ) -> Float[Tensor, "G G G"]:
        """The grid of an object, after an update if one is due."""
        if self.step % self.config.rendering.look and not first:
            return density.float()
        seed, stream = self.config.seed, f"occupancy/{index}"
        return self.grids.update(
            self.networks.decoder, activate(code).detach(), density, seed, stream, self.step
        )

    def _render(self, index: int, code: nn.Parameter, occupied: Tensor | None, k: int) -> tuple[float, float]:
        """The rendering loss and the mean squared error of some rays of an object. Adds the gradient of the loss to
        those of its code and, in the last inner step, of the decoder."""
        config = self.config
        fidelity = value_at(config.fidelity, self.step, config.steps)
        count = round(value_at(config.rays, self.step, config.steps))
        cameras, colors = self.objects.rays(index, count, self._rng(f"rays/{index}", k))
        colors = colors.to(self.device)
        activated = activate(code)
        field = self.networks.decoder.field(activated, occupied)
        rendered = self.networks.renderer(field, cameras, self.white, rng=self._rng(f"jitter/{index}", k))
        rgb = rendered.rgb.reshape(-1, 3)
        weight = fidelity * config.rendering.weight
        loss = rendering_loss(rgb, colors, weight, self.objects.views(index))
        penalty = config.codes.regularizer * activated.square().mean()
        if config.codes.smoothness:
            penalty = penalty + config.codes.smoothness * smoothness(activated.permute(0, 2, 3, 1))
        (loss + fidelity * penalty).backward()
        return float(loss.detach()), float((rgb.detach() - colors).square().mean())

    @torch.no_grad()
    def _measure_objects(
        self,
        codes: list[nn.Parameter],
        prior: Tensor | None,
        errors: list[tuple[float, float]],
        measured: dict[str, float],
    ) -> None:
        """Measures the rendering loss and its gradient in the codes: the balance with the prior is what fails
        first."""
        count = len(codes)
        total = torch.stack([code.grad for code in codes if code.grad is not None])
        rendered = total if prior is None else total - prior
        measured["rendering gradient"] = float(torch.linalg.vector_norm(rendered)) / count**0.5
        measured["rendering"] = sum(loss for loss, _ in errors) / count
        measured["mse"] = sum(error for _, error in errors) / count

    def _rate(self) -> float:
        """The factor of all learning rates at this step."""
        config = self.config
        warm = min(1.0, (self.step + 1) / config.warmup)
        return warm * value_at(config.rates, self.step, config.steps)

    def _rng(self, stream: str, k: int) -> torch.Generator:
        return generator(self.config.seed, f"{stream}/{k}", self.step)

    def _update(self, name: str, learning_rate: float) -> None:
        """Takes a step of the optimizer of one network, along the mean of the gradients of all processes.

        The gradients of the decoder are sums over objects and those of the denoiser are means, which makes no
        difference to Adam.
        """
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
        """Writes the checkpoint: networks, averages, moments, and which slot of the bank holds each object."""
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
                "scenes": digest(self.objects),
                "source": self.objects.source,
                "settings": plain(self.config),
                "unwritten": self.unwritten,
            }
            checkpoint.save(self.folder / CHECKPOINT, tensors, state)
        self.world.wait()
        self.bank.committed()

    def _resumed(self) -> CodeBank | None:
        """Loads the checkpoint of the folder, if there is one, and opens the bank as it was at that time."""
        if not checkpoint.exists(self.folder / CHECKPOINT):
            return None
        tensors, saved = read_saved(self.folder)
        require_objects(self.folder, saved, self.objects)
        self.changed = changed_settings(saved.settings, plain(self.config))
        checkpoint.fill(self.networks, checkpoint.unprefixed("networks", tensors), "model")
        checkpoint.fill(self.averages, checkpoint.unprefixed("averages", tensors), "average model")
        for name, optimizer in self.optimizers.items():
            restore(optimizer, checkpoint.unprefixed(name, tensors))
        self.step, self.seconds = saved.step, saved.seconds
        self.unwritten = dict(saved.unwritten)
        bank = CodeBank.open(self.folder / BANK, tensors["slots"])
        bank.require(*self._bank_shape())
        return bank

    def start_from(self, folder: Path) -> None:
        """Takes over the codes, the occupancy grids and the decoder of another training on the same objects, as
        they were at its last checkpoint. Raises UserError."""
        tensors, saved = read_saved(folder)
        if saved.scenes != digest(self.objects):
            raise UserError(
                f"{folder} holds a training on other objects, whose codes do not fit: start from another training"
            )
        other = CodeBank.open(folder / BANK, tensors["slots"])
        other.require(*self._bank_shape())
        for name, model in (("networks", self.networks), ("averages", self.averages)):
            try:
                checkpoint.fill(model.decoder, checkpoint.unprefixed(f"{name}.decoder", tensors), "decoder")
            except UserError as error:
                raise UserError(
                    f"the decoder of {folder} has other settings than this recipe: use the same decoder settings"
                ) from error
        if self.world.first:
            for start in range(0, other.count, self.config.batch):
                few = range(start, min(start + self.config.batch, other.count))
                self.bank.write(few, other.read(few))
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
        return len(self.objects), shape, self.config.rendering.cells


def _adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, learning_rate, fused=True)


def require_finite(measured: dict[str, float], step: int) -> None:
    """Raises UserError for a measured number that is not finite."""
    broken = [name for name, value in measured.items() if not math.isfinite(value)]
    if broken:
        raise UserError(
            f"'{broken[0]}' became {measured[broken[0]]} at step {step}: lower diffusion.learning_rate or "
            "codes.learning_rate; the same command continues from the last checkpoint"
        )


def viewpoint_of(objects: PosedObjects, most: int = 100) -> Viewpoint:
    """How the pictures see their objects, averaged over the first `most` objects."""
    distances, fovs, elevations, sizes = [], [], [], []
    for index in range(min(most, len(objects))):
        cameras = objects.cameras(index)
        _, elevation, distance = spherical(cameras)
        side = max(cameras.height, cameras.width)
        fovs.append(2.0 * torch.rad2deg(torch.atan(0.5 * side / cameras.intrinsics[:, 0, 0])))
        distances.append(distance)
        elevations.append(elevation)
        sizes.append(side)
    means = [float(torch.cat(values).mean()) for values in (distances, fovs, elevations)]
    return Viewpoint(*means, size=max(sizes))
