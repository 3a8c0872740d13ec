"""What an outer step of SSDNeRF costs against a straightforward PyTorch version of it, and how the cost grows.

    python benchmarks/ssdnerf_cost.py [--cases NAME ...] [--warm 60] [--repeats 5] [--markdown FILE]

The straightforward version (`Plain`, below) has the same networks, losses, rays and order of steps, and is what one
would write first: grid_sample at all samples of every ray, no grid of what is empty, no early stop; the UNet as
diffusers makes it; codes and moments in memory. Both run the UNet in float32, then in bfloat16 autocast. Along a
ray it has as many samples, in the mean, as ours has in the box. Both start from one state, that of a training of
--warm steps without prior, so that some of space is known to be empty. Captions are left out on both sides.

Seconds are the CPU time of one thread, medians of alternating runs in one process; of the published recipe, whose
step takes long, of three runs after a first one. Memory is of processes of their own: the peak, less what was
there before the first of their steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from tables import add_markdown, write_markdown
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.core import checkpoint
from threedgen.core.random import generator
from threedgen.core.schedule import value_at
from threedgen.core.spherical_harmonics import basis
from threedgen.core.types import Cameras
from threedgen.datasets.multiview import PosedPictures
from threedgen.datasets.objects import ObjectSet, open_objects
from threedgen.ssdnerf.code_bank import CodeBank
from threedgen.ssdnerf.config import Config, load_config
from threedgen.ssdnerf.decoder import TriplaneDecoder, activate, as_pictures, truncated_exp
from threedgen.ssdnerf.losses import diffusion_loss, rendering_loss
from threedgen.ssdnerf.model import LatentModel
from threedgen.ssdnerf.occupancy import ObjectGrids
from threedgen.ssdnerf.posed_objects import PosedObjects, open_packed, pack
from threedgen.ssdnerf.reconstruction import Finetuning, finetuned
from threedgen.ssdnerf.trainer import BANK, Trainer

CATEGORY, VIEWS, SIZE = "shape-world:car", 48, 64
CASES = {"ssdnerf-tiny": 16, "ssdnerf-srn-cars": 1}  # recipes, and scenes in a batch
WARM, STEADY = "warm", 1_000_000  # folder of the state; so long a training that its schedules stand still
STEPS_ALONE = 2  # of a process whose memory is measured


class Plain:
    """The outer step without any of the project's kernels or skipping."""

    def __init__(self, config: Config, scenes: PosedObjects, folder: Path) -> None:
        """folder: of a checkpoint, whose networks and codes it takes."""
        self.config, self.scenes = config, scenes
        tensors, state = checkpoint.load(folder / "checkpoint")
        model = LatentModel(config)
        model.load_state_dict(checkpoint.unprefixed("networks", tensors))
        self.unet = model.denoiser.unet.to(memory_format=torch.contiguous_format)
        self.places = model.denoiser.places
        self.decoder, self.schedule = model.decoder, model.schedule
        denoiser = list(model.denoiser.parameters())
        networks = [*denoiser, *self.decoder.parameters()]
        self.networks, self.averages = networks, [value.detach().clone() for value in networks]
        self.statistics, self.step = model.statistics, state["step"]
        stored = CodeBank.open(folder / BANK, tensors["slots"]).read(range(len(scenes))).code
        self.codes = [nn.Parameter(code.clone()) for code in stored]
        rate = config.codes.learning_rate
        self.code_optimizers = [torch.optim.Adam([code], rate) for code in self.codes]
        self.denoiser_optimizer = torch.optim.Adam(denoiser, config.diffusion.learning_rate)
        self.decoder_optimizer = torch.optim.Adam(self.decoder.parameters(), config.decoder.learning_rate)

    def train_step(self) -> dict[str, float]:
        """On the first `batch` scenes; the losses."""
        config = self.config
        codes = self.codes[: config.batch]
        prior, seen = self.learn_prior(codes)
        inner = round(value_at(config.inner, self.step, config.steps))
        for k in range(inner):
            self.decoder.requires_grad_(k == inner - 1)
            losses = []
            for scene, code in enumerate(codes):
                code.grad = prior[scene].clone()
                losses.append(self.rendered(scene, code, generator(config.seed, f"rays/{scene}", k)))
                losses[-1].backward()
            for optimizer in self.code_optimizers[: config.batch]:
                optimizer.step()
            seen["rendering"] = float(torch.stack(losses).detach().mean())
        if inner:
            self.decoder_optimizer.step()
            self.decoder_optimizer.zero_grad()
        with torch.no_grad():
            for average, value in zip(self.averages, self.networks, strict=True):
                average.lerp_(value, 1.0 - config.ema)
        self.step += 1
        return seen

    def learn_prior(self, codes: Sequence[nn.Parameter]) -> tuple[Tensor, dict[str, float]]:
        """A step of the denoiser, and the prior's gradient in each code."""
        diffusion = self.config.diffusion
        parameters = torch.stack(list(codes)).detach().requires_grad_()
        clean = as_pictures(activate(parameters))
        self.statistics.update(clean.detach(), diffusion.momentum)
        t, eps = torch.rand(len(clean)), torch.randn(clean.shape)
        seen = self.statistics.normalise(clean)
        loss = diffusion_loss(self.denoise, seen, t, eps, self.schedule, diffusion.power).mean()
        (self.statistics.weight(diffusion.weight) * loss).backward()
        self.denoiser_optimizer.step()
        self.denoiser_optimizer.zero_grad()
        assert parameters.grad is not None
        return parameters.grad * len(codes), {"diffusion": float(loss.detach())}

    def denoise(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        fold = self.config.diffusion.fold
        folded = F.pixel_unshuffle(noisy, fold)
        if self.places is not None:
            folded = torch.cat([folded, self.places.expand(len(folded), -1, -1, -1)], dim=1)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"):
            answer = self.unet(folded, timesteps).sample
        return F.pixel_shuffle(answer.float(), fold)

    def rendered(self, scene: int, code: nn.Parameter, rng: torch.Generator) -> Float[Tensor, ""]:
        """The loss of some rays of a scene, with the codes' regularizer."""
        config = self.config
        rays = round(value_at(config.rays, self.step, config.steps))
        cameras, colors = self.scenes.rays(scene, rays, rng)
        activated = activate(code)
        rgb = plain_colors(self.decoder, activated, cameras, config.rendering.samples, rng)
        loss = rendering_loss(rgb, colors, config.rendering.weight, self.scenes.views(scene))
        return loss + config.codes.regularizer * activated.square().mean()


def plain_colors(
    decoder: TriplaneDecoder,
    code: Float[Tensor, "3 C R R"],
    cameras: Cameras,
    samples: int,
    rng: torch.Generator | None,
) -> Float[Tensor, "N 3"]:
    """What cameras of one pixel see, on white. samples: so many would lie on the diagonal of the box."""
    focal, principal = cameras.intrinsics.diagonal(dim1=1, dim2=2)[:, :2], cameras.intrinsics[:, :2, 2]
    local = F.pad((0.5 - principal) / focal, (0, 1), value=1.0)
    directions = F.normalize(torch.einsum("nij,nj->ni", cameras.world_from_camera[:, :3, :3], local), dim=1)
    origins = cameras.world_from_camera[:, :3, 3]
    first, second = (-decoder.extent - origins) / directions, (decoder.extent - origins) / directions
    near = torch.minimum(first, second).amax(1).clamp_min(cameras.near)
    length = (torch.maximum(first, second).amin(1) - near).clamp_min(0.0)
    diagonal = 2.0 * decoder.extent * 3.0**0.5
    count = max(1, round(samples * float(length.mean()) / diagonal))
    inside = torch.rand(len(near), count, generator=rng) if rng is not None else torch.tensor(0.5)
    step = length[:, None] / count
    depth = near[:, None] + (torch.arange(count) + inside) * step
    points = (origins[:, None] + directions[:, None] * depth[..., None]) / decoder.extent
    grid = torch.stack([points[..., [0, 1]], points[..., [0, 2]], points[..., [1, 2]]])
    features = F.grid_sample(code, grid, padding_mode="border", align_corners=True)  # [3, C, N, S]
    base = decoder.base(features.permute(2, 3, 0, 1).flatten(2))
    density = truncated_exp(decoder.density(F.silu(base))[..., 0])
    if decoder.directions is not None:
        base = base + decoder.directions(basis(directions, 3))[:, None]
    color = torch.sigmoid(decoder.color(F.silu(base))) * 1.002 - 0.001
    passed = torch.exp(-F.pad((density * step).cumsum(1), (1, 0)))
    share = passed[:, :-1] - passed[:, 1:]
    return (share[..., None] * color).sum(1) + passed[:, -1:]


def steady(recipe: str) -> Config:
    """The recipe as it is at its end: the last number of inner steps and of rays, no schedules, no captions; its
    box around the shape world's objects."""
    settings = [f"batch={CASES[recipe]}", "diffusion.captions=false", "rendering.extent=1"]
    config = load_config(recipe, settings)
    inner, rays = (value_at(now, config.steps, config.steps) for now in (config.inner, config.rays))
    return replace(config, steps=STEADY, warmup=1, inner=inner, rays=rays, rates=1.0, fidelity=1.0)


def warm_up(config: Config, scenes: PosedObjects, folder: Path, steps: int) -> None:
    """Leaves the checkpoint of a quick training there: few rays, high rates, no prior."""
    quick = replace(
        config,
        inner=4,
        rays=512,
        codes=replace(config.codes, learning_rate=0.04),
        decoder=replace(config.decoder, learning_rate=4e-3),
        diffusion=replace(config.diffusion, weight=0.0),
    )
    folder.mkdir()
    trainer = Trainer(quick, scenes, folder)
    for _ in range(steps):
        trainer.train_step()
    trainer.save()


def seconds(call: Callable[[], object]) -> float:
    begun = time.process_time()
    call()
    return time.process_time() - begun


def alternating(repeats: int, *calls: Callable[[], object]) -> list[float]:
    """Median seconds of each, run in turn; one round before that counts for nothing."""
    rounds = [[seconds(call) for call in calls] for _ in range(repeats + 1)][1:]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def against_plain(
    config: Config, scenes: PosedObjects, work: Path, repeats: int
) -> dict[str, tuple[float, float]]:
    """Seconds of ours and of the plain version: the whole step, and what of it is the diffusion's."""
    ours, plain = Trainer(config, scenes, work / WARM), Plain(config, scenes, work / WARM)

    def step(side: Trainer | Plain, asked: Config) -> Callable[[], object]:
        def run() -> None:
            side.config = asked
            side.train_step()

        return run

    only = replace(config, inner=0)
    whole, whole_plain, part, part_plain = alternating(
        repeats, *(step(side, asked) for asked in (config, only) for side in (ours, plain))
    )
    return {
        "outer step": (whole, whole_plain),
        "the diffusion in it": (part, part_plain),
        "the rendering in it": (whole - part, whole_plain - part_plain),
    }


@torch.no_grad()
def agreement(config: Config, scenes: PosedObjects, work: Path) -> tuple[float, float]:
    """Mean rendering losses of both over all scenes, from the same state and rays, without jitter."""
    trainer, plain = Trainer(config, scenes, work / WARM), Plain(config, scenes, work / WARM)
    decoder, records = trainer.networks.decoder, trainer.bank.read(range(len(scenes)))
    losses: list[tuple[float, float]] = []
    for scene, (code, density) in enumerate(zip(records.code, records.density, strict=True)):
        cameras, colors = scenes.rays(scene, 2048, generator(0, "agreement", scene))
        field = decoder.field(activate(code), trainer.grids.occupied(density))
        ours = trainer.networks.renderer(field, cameras, trainer.white).rgb.reshape(-1, 3)
        other = plain_colors(plain.decoder, activate(code), cameras, config.rendering.samples, None)
        losses.append((float((ours - colors).square().mean()), float((other - colors).square().mean())))
    first, second = zip(*losses, strict=True)
    return statistics.fmean(first), statistics.fmean(second)


def occupied(config: Config, scenes: PosedObjects, work: Path) -> float:
    """Share of the cells that may hold something, over all scenes."""
    bank = Trainer(config, scenes, work / WARM).bank
    grids = ObjectGrids(config.rendering, "cpu")
    shares = [grids.occupied(d).float().mean() for d in bank.read(range(len(scenes))).density]
    return float(torch.stack(shares).mean())


def memory_alone(which: str, config: Config, scenes: PosedObjects, work: Path) -> dict[str, float]:
    """Megabytes of this process: before the first step, and at most."""
    make = {"ours": Trainer, "plain": Plain}[which]
    step = make(config, scenes, work / WARM).train_step
    before = _status("VmRSS")
    for _ in range(STEPS_ALONE):
        step()
    return {"before": before, "peak": _status("VmHWM")}


def memory(which: str, recipe: str, work: Path) -> dict[str, float]:
    """The same of a new process."""
    command = [sys.executable, __file__, "--alone", which, "--cases", recipe, "--work", str(work)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _status(name: str) -> float:
    """Megabytes that Linux says of this process (not of the one that started it, as ru_maxrss would)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6


def fit(numbers: Sequence[int], times: Sequence[float]) -> str:
    """The line through the times, and how far they are from it at most."""
    slope, start = np.polyfit(numbers, times, 1)
    line = start + slope * np.asarray(numbers)
    off = float(np.abs(np.asarray(times) / line - 1.0).max())
    return f"{1000 * start:.0f} ms + {1000 * slope:.1f} ms n, within {100 * off:.0f} %"


def growth(
    config: Config, scenes: PosedObjects, work: Path, repeats: int
) -> list[tuple[str, list[int], list[float]]]:
    """Seconds against scenes in a batch, views a scene, and views that a scene is reconstructed from."""
    batches = [len(scenes) * part // 8 for part in (2, 4, 6, 8)]
    steps = [Trainer(replace(config, batch=batch), scenes, work / WARM).train_step for batch in batches]
    rows = [("outer step, n scenes in a batch", batches, alternating(repeats, *steps))]
    kept = ObjectSet(scenes.names, lambda scene: posed(scenes, scene, VIEWS))
    views, steps = [VIEWS * part // 12 for part in (1, 4, 8, 12)], []
    for number in views:
        fewer = pack(kept, work / f"scenes-{number}", number)
        fewer.source = scenes.source  # the same scenes: the warm state is theirs
        steps.append(Trainer(config, fewer, work / WARM).train_step)
    rows.append(("outer step, n views a scene", views, alternating(repeats, *steps)))
    trainer = Trainer(config, scenes, work / WARM)
    code = as_pictures(activate(trainer.bank.read([0]).code))[0]
    given = [1, 2, 4, 8]

    def finetune(number: int) -> Callable[[], object]:
        return lambda: finetuned(trainer.averages, code, posed(scenes, 0, number), Finetuning(outer=1))

    times = alternating(repeats, *(finetune(number) for number in given))
    rows.append(("finetuning on n views, 4 steps", given, times))
    return rows


def posed(scenes: PosedObjects, scene: int, views: int) -> PosedPictures:
    """The first so many views of a scene."""
    images = scenes.pictures(scene)[:views].float() / 255.0
    return PosedPictures(images, torch.ones_like(images[..., :1]), scenes.cameras(scene)[:views])


def compared(recipe: str, config: Config, scenes: PosedObjects, work: Path, repeats: int) -> Iterator[str]:
    """The table of one recipe, line by line."""
    share, losses = occupied(config, scenes, work), agreement(config, scenes, work)
    codes, rendering = config.codes, config.rendering
    yield (
        f"**{recipe}**, {config.batch} scenes a step: codes 3 x {codes.channels} x {codes.resolution}^2, "
        f"{config.rays:.0f} rays a scene of {rendering.samples} samples, {config.inner:.0f} inner steps, "
        f"{100 * share:.0f} % of the cells occupied. Mean squared error of the same rays: {losses[0]:.5f} (ours), "
        f"{losses[1]:.5f} (plain)."
    )
    yield from ("", "| | ours | plain PyTorch | ratio |", "|---|---|---|---|")
    for precision in ("fp32", "bf16"):
        both = replace(config, precision=precision)
        for name, (fast, slow) in against_plain(both, scenes, work, repeats).items():
            yield f"| {name}, {precision}, s | {fast:.3f} | {slow:.3f} | {slow / fast:.2f} |"
    used = [memory(which, recipe, work) for which in ("ours", "plain")]
    more = [each["peak"] - each["before"] for each in used]
    yield f"| memory that the step adds, MB | {more[0]:.0f} | {more[1]:.0f} | {more[1] / more[0]:.1f} |"
    yield f"| peak of the process, MB | {used[0]['peak']:.0f} | {used[1]['peak']:.0f} | |"
    yield ""


def measured(recipe: str, warm: int, repeats: int, work: Path) -> Iterator[str]:
    """One recipe's tables; how the cost grows of the first one only."""
    config = steady(recipe)
    scenes = pack(open_objects(CATEGORY, config.batch, SIZE, "train", views=VIEWS), work / "scenes")
    warm_up(config, scenes, work / WARM, warm)
    yield from compared(recipe, config, scenes, work, repeats if config.batch > 1 else min(repeats, 3))
    if recipe != next(iter(CASES)):
        return
    yield from ("| cost | ms at n | fit |", "|---|---|---|")
    for name, numbers, times in growth(config, scenes, work, repeats):
        at = ", ".join(f"{1000 * value:.0f} at {n}" for n, value in zip(numbers, times, strict=True))
        yield f"| {name} | {at} | {fit(numbers, times)} |"
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="recipes")
    parser.add_argument("--warm", type=int, default=60, help="steps of training before anything is measured")
    parser.add_argument("--repeats", type=int, default=5, help="of a median; 1 for recipes of one scene")
    add_markdown(parser)
    parser.add_argument("--alone", choices=("ours", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.alone is not None:
        config, scenes = steady(arguments.cases[0]), open_packed(arguments.work / "scenes")
        print(json.dumps(memory_alone(arguments.alone, config, scenes, arguments.work)))
        return
    lines: list[str] = []
    for recipe in arguments.cases:
        with tempfile.TemporaryDirectory() as name:
            for line in measured(recipe, arguments.warm, arguments.repeats, Path(name)):
                print(line, flush=True)
                lines.append(line)
    write_markdown(arguments.markdown, "\n".join(lines))


if __name__ == "__main__":
    main()
