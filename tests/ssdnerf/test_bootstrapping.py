"""One-step distillation (BOOT, Gu et al. 2023): a Gaussian teacher with known y_t is learnt, and training
resumes."""

import itertools
import math
import shutil
from dataclasses import replace

import pytest
import torch
from gaussian_codes import Cosine
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from threedgen.core import checkpoint
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.guidance.priors.processes import NoiseSchedule, add_noise
from threedgen.ssdnerf.bootstrapping import (
    BootstrapConfig,
    bootstrapping_loss,
    boundary_loss,
    decay,
    distill_one_step,
    signal_target,
)

MEAN, SPREAD = 0.7, 0.5
SHAPE = (1, 1, 1)


def teacher(z, t):
    """E[x | z] of N(MEAN, SPREAD^2)."""
    alpha, sigma = Cosine().alpha(t), Cosine().sigma(t)
    gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
    return MEAN + gain[:, None, None, None] * (z - (alpha * MEAN)[:, None, None, None])


def exact(eps, t):
    """y_t of the probability flow that begins at eps."""
    alpha, sigma = Cosine().alpha(t), Cosine().sigma(t)
    gain = ((alpha**2 * SPREAD**2 + sigma**2).sqrt() - sigma) / alpha
    return MEAN + gain[:, None, None, None] * eps


def _noise(count: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(count, *shape, generator=generator(0, "eps", 0), dtype=torch.float64)


@given(st.floats(0.01, 0.97), st.floats(0.003, 0.5))
def test_less_of_y_is_left_the_longer_the_step(s, step):
    t = torch.tensor([min(s + step, 0.98)], dtype=torch.float64)
    s = torch.tensor([s], dtype=torch.float64)
    for schedule in (Cosine(), NoiseSchedule.scaled_linear()):
        left = float(decay(schedule, t, s))
        assert 0.0 <= left < 1.0
        noise = [torch.log(schedule.sigma(u) / schedule.alpha(u)) for u in (s, t)]
        assert left == pytest.approx(float(torch.exp(noise[0] - noise[1])))
        assert float(decay(schedule, s, s)) == pytest.approx(1.0)


def test_a_step_of_the_signal_is_a_step_of_ddim():
    eps, t, s = (
        _noise(5, (6, 4, 4)),
        torch.linspace(0.3, 0.9, 5).double(),
        torch.linspace(0.2, 0.5, 5).double(),
    )
    y_t, x0 = torch.roll(eps, 1, 0), torch.roll(eps, 2, 0)
    x_t = add_noise(Cosine(), y_t, eps, t)
    alpha, sigma = (f(t)[:, None, None, None] for f in (Cosine().alpha, Cosine().sigma))
    x_s = add_noise(Cosine(), x0, (x_t - alpha * x0) / sigma, s)
    y_s = signal_target(y_t, x0, t, s, Cosine())
    torch.testing.assert_close(add_noise(Cosine(), y_s, eps, s), x_s)


def test_many_steps_lead_to_the_sample_of_the_probability_flow():
    eps = _noise(200)
    for steps, tolerance in ((50, 0.06), (800, 0.004)):
        times = torch.linspace(0.999, 0.001, steps + 1).double()
        y = exact(eps, times[:1])
        for now, after in zip(times[:-1].split(1), times[1:].split(1), strict=True):
            y = signal_target(y, teacher(add_noise(Cosine(), y, eps, now), now), now, after, Cosine())
        torch.testing.assert_close(y, exact(eps, times[-1:]), atol=tolerance, rtol=0)
    torch.testing.assert_close(y, MEAN + SPREAD * eps, atol=0.01, rtol=0)


@pytest.mark.parametrize(("heun", "order"), [(False, 2.0), (True, 4.0)])
def test_the_exact_student_has_a_loss_that_falls_with_the_step_and_faster_with_heun(heun, order):
    eps, t = _noise(64), torch.linspace(0.15, 0.95, 64).double()
    losses = [
        float(bootstrapping_loss(exact, teacher, eps, t, t - delta, Cosine(), heun).mean())
        for delta in (0.02, 0.01, 0.005)
    ]
    assert losses[0] < (1e-5 if heun else 1e-2)
    for coarse, fine in itertools.pairwise(losses):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def test_only_the_student_at_s_is_taught():
    class TwoTimes(nn.Module):
        """A student with a weight for each of two times."""

        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.Parameter(torch.tensor([0.3, 0.4], dtype=torch.float64))

        def forward(self, eps, t):
            return self.weights[(t > 0.5).long()][:, None, None, None] * eps

    student, gain = TwoTimes(), torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    eps, t = _noise(8), torch.full((8,), 0.6).double()
    s = t - 0.3

    def teacher(z, t):
        return gain * z

    loss = bootstrapping_loss(student, teacher, eps, t, s, Cosine())
    loss.sum().backward()
    left = decay(Cosine(), t, s)[0]
    x0 = 0.2 * add_noise(Cosine(), 0.4 * eps, eps, t)
    difference = 0.3 * eps - ((1 - left) * x0 + left * 0.4 * eps)
    torch.testing.assert_close(loss, (difference / (1 - left)).square().flatten())
    assert student.weights.grad is not None
    assert float(student.weights.grad[0]) == pytest.approx(
        float((2 * difference * eps).sum() / (1 - left) ** 2)
    )
    assert float(student.weights.grad[1]) == 0.0
    edge = boundary_loss(student, teacher, eps, 0.98)
    torch.testing.assert_close(edge, (0.4 * eps - 0.2 * eps).square().flatten())
    grad, unused = torch.autograd.grad(edge.sum(), [student.weights, gain], allow_unused=True)
    assert unused is None
    assert grad.tolist() == [0.0, pytest.approx(float((2 * 0.2 * eps.square()).sum()))]
    assert gain.grad is None


class Affine(nn.Module):
    """y = a(t) + b(t) eps, where a and b are outputs of a small network of t."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 2))

    def forward(self, eps, t):
        a, b = self.layers(t[:, None]).T[:, :, None, None, None]
        return a + b * eps


def _student() -> Affine:
    torch.manual_seed(0)
    return Affine()


def _quiet(step: int, taught: float, edge: float) -> None:
    pass


def test_a_distilled_student_samples_the_teachers_gaussian_in_one_step():
    student = _student()
    config = BootstrapConfig(steps=900, batch=64, learning_rate=0.05, warmup=20, delta=0.04, heun=True)
    reports = []
    distill_one_step(student, teacher, SHAPE, config, Cosine(), lambda *now: reports.append(now))
    with torch.no_grad():
        drawn = torch.randn(20000, *SHAPE, generator=generator(0, "samples", 0))
        samples = student(drawn, torch.full((20000,), config.t[0]))
    at_last = exact(torch.tensor([-1.0, 1.0])[:, None, None, None], torch.full((2,), config.t[0]))
    assert float(samples.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(samples.std()) == pytest.approx(float(at_last.diff(dim=0)) / 2, abs=0.025)  # 0.485 at t_min
    assert float(samples.std()) == pytest.approx(SPREAD, abs=0.04)
    eps = _noise(500).float()
    for t in torch.linspace(config.t[0], 0.9, 10):
        times = t.expand(500)
        with torch.no_grad():
            error = (student(eps, times) - exact(eps, times)).square().mean().sqrt()
        assert float(error) < 0.04, float(t)
    assert [now[0] for now in reports] == list(range(50, 901, 50))
    assert reports[-1][1] < 0.1 * reports[0][1]


def test_the_boundary_is_learned_by_its_own_loss_only():
    errors = {}
    for beta in (0.0, 1.0):
        config = BootstrapConfig(steps=150, batch=32, learning_rate=0.02, warmup=5, delta=0.05, beta=beta)
        student = _student()
        distill_one_step(student, teacher, SHAPE, config, Cosine(), _quiet)
        eps, last = _noise(300).float(), torch.full((300,), 0.98)
        with torch.no_grad():
            errors[beta] = float((student(eps, last) - teacher(eps, last)).square().mean())
    assert errors[1.0] < 0.3 * errors[0.0]


CONFIG = BootstrapConfig(steps=12, batch=4, learning_rate=0.01, warmup=3)


def test_a_resumed_distillation_ends_at_the_same_bits(tmp_path):
    whole, half, rest = _student(), _student(), Affine()
    distill_one_step(whole, teacher, SHAPE, CONFIG, Cosine(), _quiet, tmp_path / "whole")

    def stopping(z, t):
        stopping.left -= 1
        if stopping.left < 0:
            raise KeyboardInterrupt
        return teacher(z, t)

    stopping.left = 2 * 7  # the teacher is called twice in a step: seven whole steps, of which five are saved
    with pytest.raises(KeyboardInterrupt):
        distill_one_step(half, stopping, SHAPE, CONFIG, Cosine(), _quiet, tmp_path / "half", every=5)
    assert checkpoint.load_state(tmp_path / "half" / "checkpoint")["step"] == 5
    distill_one_step(rest, teacher, SHAPE, CONFIG, Cosine(), _quiet, tmp_path / "half")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name
    tensors = [checkpoint.load(tmp_path / name / "checkpoint")[0] for name in ("whole", "half")]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())


class Scaled(Affine):
    """A student with one more weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"config": replace(CONFIG, delta=0.03)}, "other settings"),
        ({"digest": "another"}, "another model"),
        ({"student": Scaled()}, "a student of another shape"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_and_may_be_deleted(tmp_path, changes, said):
    def distil(student=None, config=CONFIG, digest="this"):
        student = student or _student()
        distill_one_step(student, teacher, SHAPE, config, Cosine(), _quiet, tmp_path / "one", digest=digest)

    distil()
    distil()  # the same distillation continues
    with pytest.raises(UserError, match=said) as caught:
        distil(**changes)
    assert f"delete {tmp_path / 'one'} to start again" in str(caught.value)
    shutil.rmtree(tmp_path / "one")
    distil(**changes)


def test_a_loss_that_is_not_finite_ends_with_a_named_error(tmp_path):
    with pytest.raises(UserError, match="learning rate"):
        distill_one_step(
            _student(), lambda z, t: z / 0.0, SHAPE, CONFIG, Cosine(), _quiet, tmp_path, every=100
        )
    assert not checkpoint.exists(tmp_path / "checkpoint")


def test_a_table_of_steps_serves_and_too_fine_a_delta_is_refused():
    table = NoiseSchedule.scaled_linear()
    distill_one_step(_student(), teacher, SHAPE, replace(CONFIG, delta=0.002), table, _quiet)
    with pytest.raises(UserError, match="finer than the noise schedule"):
        distill_one_step(_student(), teacher, SHAPE, replace(CONFIG, delta=0.0005), table, _quiet)


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"batch": -1},
        {"learning_rate": float("nan")},
        {"delta": 0.0},
        {"delta": 0.99},
        {"t": (0.5, 0.5)},
        {"t": (-0.1, 0.9)},
        {"beta": -1.0},
        {"beta": float("inf")},
    ],
)
def test_settings_that_mean_nothing_are_refused(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        BootstrapConfig(**bad)
