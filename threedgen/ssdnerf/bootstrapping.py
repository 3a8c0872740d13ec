"""A one-step generator distilled from a denoiser without data: bootstrapping (BOOT, Gu et al. 2023; METHODS 6.3).

The student y(eps, t) gives the signal part of the DDIM trajectory that begins at the noise eps,

    y_t = (x_t - sigma_t eps) / alpha_t,   y_s = (1 - k) f(x_t, t) + k y_t,   k = exp(lambda_s - lambda_t),

with f the teacher's estimate of x0, lambda = ln(sigma / alpha) and s < t. At t_max it is f(eps, t_max); each t is
taught by the one above it, and y(eps, t_min) is the sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.core import checkpoint
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.guidance.priors.processes import Process, add_noise, per_sample
from threedgen.training.optimizer_state import moments, restore

Student = Callable[[Tensor, Tensor], Tensor]
"""(eps [B, K, R, R], t [B] in [0, 1]) -> y, like eps."""
Teacher = Callable[[Tensor, Tensor], Tensor]
"""(z [B, K, R, R], t [B] in [0, 1]) -> its estimate of x0, clipped as in sampling; guidance included."""
Report = Callable[[int, float, float], None]
"""(steps done, bootstrapping loss, boundary loss), means since the last report."""

REPORTED = 50  # steps between reports
_STREAM, _CHECKPOINT = "bootstrapping", "checkpoint"
_LARGEST_GRADIENT = (
    1.0  # norm over all parameters: where the step is short, 1 / (1 - k)^2 makes rare ones huge
)


@dataclass(frozen=True)
class BootstrapConfig:
    """steps, batch: of the distillation. learning_rate: of Adam, reached after `warmup` steps, falling to 0
    as a cosine. delta: t - s. beta: weight of the boundary loss. t: (t_min, t_max) of the student. heun:
    the teacher is asked at s as well, which is second order in delta and twice its work. Raises UserError.

    No command sets warmup, delta, beta, t and heun: these are for whoever calls `distill_one_step`.
    """

    steps: int = 50_000
    batch: int = 16
    learning_rate: float = 1e-4
    warmup: int = 100
    delta: float = 0.02
    beta: float = 1.0
    t: tuple[float, float] = (0.01, 0.98)
    heun: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "learning_rate", "warmup"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} of a distillation must be positive, got {getattr(self, name)}")
        low, high = self.t
        if not 0.0 <= low < high <= 1.0:
            raise UserError(f"t must be [t_min, t_max] with 0 <= t_min < t_max <= 1, got {list(self.t)}")
        if not 0.0 < self.delta <= high - low:
            raise UserError(f"delta must be above 0 and fit into {list(self.t)}, got {self.delta}")
        if not 0.0 <= self.beta < math.inf:
            raise UserError(f"beta must be a weight >= 0, got {self.beta}")


def decay(schedule: Process, t: Float[Tensor, " B"], s: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """k = exp(lambda_s - lambda_t), in [0, 1) for s < t: what is left of y_t in y_s."""
    return (schedule.sigma(s) * schedule.alpha(t)) / (schedule.alpha(s) * schedule.sigma(t))


def signal_target(
    y_t: Float[Tensor, "B K R R"],
    x0: Float[Tensor, "B K R R"],
    t: Float[Tensor, " B"],
    s: Float[Tensor, " B"],
    schedule: Process,
) -> Float[Tensor, "B K R R"]:
    """y_s of the DDIM step from t to s < t with the estimate x0: exact where x0 stays the same in between."""
    left = per_sample(decay(schedule, t, s), y_t)
    return (1.0 - left) * x0 + left * y_t


def bootstrapping_loss(
    student: Student,
    teacher: Teacher,
    eps: Float[Tensor, "B K R R"],
    t: Float[Tensor, " B"],
    s: Float[Tensor, " B"],
    schedule: Process,
    heun: bool = False,
) -> Float[Tensor, " B"]:
    """mean (y(eps, s) - SG[y_s])^2 / (1 - k)^2 of each sample, with y_s from y(eps, t) and the teacher.

    Divided by the length of the step in the signal, so that it does not vanish with delta. Its gradient reaches the
    student at s only. heun: y_s from the mean of the teacher's estimates at t and at the first y_s, the trapezoid
    rule of d(y / e^lambda) = f d(1 / e^lambda).
    """
    with torch.no_grad():
        y_t = student(eps, t)
        x0 = teacher(add_noise(schedule, y_t, eps, t), t)
        target = signal_target(y_t, x0, t, s, schedule)
        if heun:
            there = teacher(add_noise(schedule, target, eps, s), s)
            target = signal_target(y_t, 0.5 * (x0 + there), t, s, schedule)
        step = 1.0 - decay(schedule, t, s)
    error = (student(eps, s) - target).square().flatten(1).mean(1)
    return error / step.to(error).square()


def boundary_loss(
    student: Student, teacher: Teacher, eps: Float[Tensor, "B K R R"], t_max: float
) -> Float[Tensor, " B"]:
    """mean (y(eps, t_max) - SG[f(eps, t_max)])^2 of each sample: where the trajectory begins."""
    t = torch.full((len(eps),), t_max, dtype=eps.dtype, device=eps.device)
    with torch.no_grad():
        target = teacher(eps, t)
    return (student(eps, t) - target).square().flatten(1).mean(1)


def distill_one_step(
    student: nn.Module,
    teacher: Teacher,
    shape: tuple[int, ...],
    config: BootstrapConfig,
    schedule: Process,
    report: Report,
    folder: Path | None = None,
    every: int = 1000,
    digest: str = "",
) -> None:
    """Trains `student`, called as Student, in place to config.steps; no data, no moving average (as in the paper).

    shape: of a sample, (K, R, R). folder: keeps a checkpoint in FOLDER/checkpoint, written every `every` steps and
    at the end. One that is there goes on, to the same weights as without the interruption, provided that the
    student draws nothing itself (no dropout). digest: tells the teacher from others. Raises UserError for a
    checkpoint of another teacher, student or settings, for a delta that the schedule cannot tell from 0, and for
    losses that are not finite.
    """
    _check_step(config, schedule)
    optimizer = torch.optim.Adam(student.parameters(), config.learning_rate)
    device = next(student.parameters()).device
    done = _resume(student, optimizer, config, folder, digest) if folder is not None else 0
    losses: list[Tensor] = []
    for step in range(done, config.steps):
        rng = generator(config.seed, _STREAM, step)
        eps = torch.randn((config.batch, *shape), generator=rng).to(device)
        low, high = config.t[0] + config.delta, config.t[1]
        t = (low + (high - low) * torch.rand(config.batch, generator=rng)).to(device)
        taught = bootstrapping_loss(student, teacher, eps, t, t - config.delta, schedule, config.heun).mean()
        edge = boundary_loss(student, teacher, eps, config.t[1]).mean()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.zero_grad()
        (taught + config.beta * edge).backward()
        nn.utils.clip_grad_norm_(student.parameters(), _LARGEST_GRADIENT)
        optimizer.step()
        losses.append(torch.stack([taught, edge]).detach())
        if (step + 1) % REPORTED == 0 or step + 1 == config.steps:
            means = torch.stack(losses).mean(0).tolist()
            if not all(map(math.isfinite, means)):
                raise UserError(
                    f"the losses of the distillation became {means} before step {step + 1}: begin again with a "
                    "lower learning_rate"
                )
            losses.clear()
            report(step + 1, *means)
        if folder is not None and ((step + 1) % every == 0 or step + 1 == config.steps):
            tensors = checkpoint.prefixed("student", student.state_dict())
            tensors |= checkpoint.prefixed("optimizer", moments(optimizer))
            state = {"step": step + 1, "config": asdict(config), "teacher": digest}
            checkpoint.save(folder / _CHECKPOINT, tensors, state)


def learning_rate(config: BootstrapConfig, step: int) -> float:
    """At a step: the linear rise, times the cosine from 1 to 0."""
    rise = min(1.0, (step + 1) / config.warmup)
    return config.learning_rate * rise * (0.5 + 0.5 * math.cos(math.pi * step / config.steps))


def _check_step(config: BootstrapConfig, schedule: Process) -> None:
    """A table knows only so many t: between two of the same entry there is no step, and 1 - k is 0."""
    t = torch.linspace(config.t[0] + config.delta, config.t[1], 2048)
    if not bool((decay(schedule, t, t - config.delta) < 1.0).all()):
        raise UserError(f"delta {config.delta} is finer than the noise schedule: choose 0.002 or more")


def _resume(
    student: nn.Module, optimizer: torch.optim.Optimizer, config: BootstrapConfig, folder: Path, digest: str
) -> int:
    """Loads the folder's checkpoint if there is one; the steps done."""
    if not checkpoint.exists(folder / _CHECKPOINT):
        return 0
    tensors, state = checkpoint.load(folder / _CHECKPOINT)
    again = f"delete {folder} to begin again"
    if state.get("teacher") != digest:
        raise UserError(
            f"{folder} holds a distillation of another model, or of this one before more training: {again}"
        )
    if state["config"] != asdict(config) | {"t": list(config.t)}:
        raise UserError(f"{folder} holds a distillation with other settings: go on with these, or {again}")
    try:
        student.load_state_dict(checkpoint.unprefixed("student", tensors))
    except RuntimeError as error:
        raise UserError(f"{folder} holds a student of another shape: {again}") from error
    restore(optimizer, checkpoint.unprefixed("optimizer", tensors))
    return state["step"]
