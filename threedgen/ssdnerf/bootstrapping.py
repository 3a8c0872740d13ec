"""A one-step generator that is distilled from a denoiser without data (BOOT, Gu et al. 2023, arXiv:2306.05544).

The student y(eps, t) gives the signal part of the DDIM trajectory that starts at the noise eps,

    y_t = (x_t - sigma_t eps) / alpha_t,   y_s = (1 - k) f(x_t, t) + k y_t,   k = exp(lambda_s - lambda_t),

with f the estimate of x0 by the teacher, lambda = ln(sigma / alpha) and s < t. At t_max it is f(eps, t_max). The
student at each t learns from the student at a higher one, and y(eps, t_min) is the sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.core import checkpoint
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.core.settings import SettingError, above, at_least, between, settings
from threedgen.guidance.priors.processes import Process, add_noise, per_sample
from threedgen.training.optimizer_state import moments, restore

Student = Callable[[Tensor, Tensor], Tensor]
"""(eps [B, K, R, R], t [B] in [0, 1]) -> y, like eps."""
Teacher = Callable[[Tensor, Tensor], Tensor]
"""(z [B, K, R, R], t [B] in [0, 1]) -> its estimate of x0, clipped and guided as in sampling."""
Report = Callable[[int, float, float], None]
"""(steps done, bootstrapping loss, boundary loss); the losses are means since the last report."""

REPORTED = 50  # steps between reports
_STREAM, _CHECKPOINT = "bootstrapping", "checkpoint"
# Norm over all parameters. If the step is short, 1 / (1 - k)^2 makes rare gradients huge.
_LARGEST_GRADIENT = 1.0


@settings
class BootstrapConfig:
    """The distillation of a one-step sampler; no command sets warmup, delta, beta, t and heun.

    Attributes:
        steps: Number of steps of the whole distillation.
        batch: Number of noises in a step.
        learning_rate: Learning rate of Adam after the warm-up. It falls to 0 as a cosine.
        warmup (steps): Length of the linear rise of the learning rate at the start.
        delta: Difference t - s between the times of the student and of its target.
        beta: Weight of the boundary loss.
        t: Lowest and highest time of the student, [t_min, t_max].
        heun: Whether the teacher is asked at s as well. This is second order in delta, and takes twice the work.
        seed: Seed of every random draw.
    """

    steps: Annotated[int, at_least(1)] = 50_000
    batch: Annotated[int, at_least(1)] = 16
    learning_rate: Annotated[float, above(0.0)] = 1e-4
    warmup: Annotated[int, at_least(1)] = 100
    delta: Annotated[float, above(0.0)] = 0.02
    beta: Annotated[float, at_least(0.0)] = 1.0
    t: Annotated[tuple[float, float], between(0.0, 1.0)] = (0.01, 0.98)
    heun: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.t
        if not low < high:
            raise SettingError("t", f"is {list(self.t)}; it must be [t_min, t_max] with t_min below t_max")
        if self.delta > high - low:
            raise SettingError("delta", f"is {self.delta}; it must be at most t_max - t_min, {high - low:g}")


def decay(schedule: Process, t: Float[Tensor, " B"], s: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """k = exp(lambda_s - lambda_t), in [0, 1) for s < t: the share of y_t that is left in y_s."""
    return (schedule.sigma(s) * schedule.alpha(t)) / (schedule.alpha(s) * schedule.sigma(t))


def signal_target(
    y_t: Float[Tensor, "B K R R"],
    x0: Float[Tensor, "B K R R"],
    t: Float[Tensor, " B"],
    s: Float[Tensor, " B"],
    schedule: Process,
) -> Float[Tensor, "B K R R"]:
    """y_s of the DDIM step from t to s < t with the estimate x0. It is exact if x0 is the same all the way."""
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
    """mean (y(eps, s) - SG[y_s])^2 / (1 - k)^2 of each sample, with y_s from y(eps, t) and the teacher. SG stops
    the gradient.

    The error is divided by the length of the step in the signal, so that it does not vanish with delta. Its
    gradient reaches the student at s only. heun: takes y_s from the mean of the estimates of the teacher at t and
    at the first y_s, which is the trapezoid rule for d(y / e^lambda) = f d(1 / e^lambda).
    """
    with torch.no_grad():
        y_t = student(eps, t)
        x0 = teacher(add_noise(schedule, y_t, eps, t), t)
        target = signal_target(y_t, x0, t, s, schedule)
        if heun:
            x0_at_s = teacher(add_noise(schedule, target, eps, s), s)
            target = signal_target(y_t, 0.5 * (x0 + x0_at_s), t, s, schedule)
        step = 1.0 - decay(schedule, t, s)
    error = (student(eps, s) - target).square().flatten(1).mean(1)
    return error / step.to(error).square()


def boundary_loss(
    student: Student, teacher: Teacher, eps: Float[Tensor, "B K R R"], t_max: float
) -> Float[Tensor, " B"]:
    """mean (y(eps, t_max) - SG[f(eps, t_max)])^2 of each sample, at the start of the trajectory."""
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
    """Trains `student`, which is called as Student, in place up to config.steps. There is no data and no moving
    average, as in the paper.

    shape: shape of a sample, (K, R, R). folder: where FOLDER/checkpoint is written every `every` steps and at the
    end. A checkpoint that is there continues, with the same weights in the end as without the interruption,
    provided that the student draws nothing itself (no dropout). digest: tells this teacher from others. Raises
    UserError for a checkpoint of another teacher, student or settings, for a delta that the schedule cannot tell
    from 0, and for losses that are not finite.
    """
    _check_step(config, schedule)
    optimizer = torch.optim.Adam(student.parameters(), config.learning_rate, fused=True)
    device = next(student.parameters()).device
    done = _resume(student, optimizer, config, folder, digest) if folder is not None else 0
    losses: list[Tensor] = []
    for step in range(done, config.steps):
        rng = generator(config.seed, _STREAM, step)
        eps = torch.randn((config.batch, *shape), generator=rng).to(device)
        low, high = config.t[0] + config.delta, config.t[1]
        t = (low + (high - low) * torch.rand(config.batch, generator=rng)).to(device)
        inner = bootstrapping_loss(student, teacher, eps, t, t - config.delta, schedule, config.heun).mean()
        edge = boundary_loss(student, teacher, eps, config.t[1]).mean()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.zero_grad()
        (inner + config.beta * edge).backward()
        nn.utils.clip_grad_norm_(student.parameters(), _LARGEST_GRADIENT)
        optimizer.step()
        losses.append(torch.stack([inner, edge]).detach())
        if (step + 1) % REPORTED == 0 or step + 1 == config.steps:
            means = torch.stack(losses).mean(0).tolist()
            if not all(map(math.isfinite, means)):
                raise UserError(
                    f"the losses of the distillation became {means} before step {step + 1}: start again with a "
                    "lower learning rate"
                )
            losses.clear()
            report(step + 1, *means)
        if folder is not None and ((step + 1) % every == 0 or step + 1 == config.steps):
            tensors = checkpoint.prefixed("student", student.state_dict())
            tensors |= checkpoint.prefixed("optimizer", moments(optimizer))
            state = {"step": step + 1, "config": asdict(config), "teacher": digest}
            checkpoint.save(folder / _CHECKPOINT, tensors, state)


def learning_rate(config: BootstrapConfig, step: int) -> float:
    """The learning rate at a step: the linear rise times the cosine from 1 to 0."""
    rise = min(1.0, (step + 1) / config.warmup)
    return config.learning_rate * rise * (0.5 + 0.5 * math.cos(math.pi * step / config.steps))


def _check_step(config: BootstrapConfig, schedule: Process) -> None:
    """Raises UserError for a delta below the spacing of a table of noise levels, where 1 - k would be 0."""
    t = torch.linspace(config.t[0] + config.delta, config.t[1], 2048)
    if not bool((decay(schedule, t, t - config.delta) < 1.0).all()):
        raise UserError(
            f"delta is {config.delta}, which is finer than the noise schedule: choose 0.002 or more"
        )


def _resume(
    student: nn.Module, optimizer: torch.optim.Optimizer, config: BootstrapConfig, folder: Path, digest: str
) -> int:
    """Loads the checkpoint of the folder if there is one, and returns the number of steps done. Raises
    UserError."""
    if not checkpoint.exists(folder / _CHECKPOINT):
        return 0
    tensors, state = checkpoint.load(folder / _CHECKPOINT)
    again = f"delete {folder} to start again"
    if state.get("teacher") != digest:
        raise UserError(
            f"{folder} holds a distillation of another model, or of this one before more training: {again}"
        )
    if state.get("config") != asdict(config) | {"t": list(config.t)}:
        raise UserError(f"{folder} holds a distillation with other settings: continue with these, or {again}")
    try:
        checkpoint.fill(student, checkpoint.unprefixed("student", tensors), "student")
    except UserError as error:
        raise UserError(f"{folder} holds a student of another shape: {again}") from error
    restore(optimizer, checkpoint.unprefixed("optimizer", tensors))
    step = state.get("step")
    if not isinstance(step, int) or not 0 <= step <= config.steps:
        raise UserError(f"{folder} holds a distillation at step {step!r} of {config.steps}: {again}")
    return step
