"""The law of samples through scenes that are never observed, on signals whose posterior has a closed form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

from threedgen.dfm.law import Observed, loss, sampled
from threedgen.training.denoiser_trainer import cosine_alphas

D, CONTEXT, TARGET = 8, 3, 5
ALPHA, SIGMA = (table.double() for table in cosine_alphas())


@dataclass(frozen=True)
class Signals:
    """Signals S ~ N(mean, covariance), of which `context` @ S and `target` @ S are observed; both are projections
    that lose something, and together they lose nothing. noise: standard deviation of what is observed of the
    context."""

    mean: Tensor
    covariance: Tensor
    context: Tensor
    target: Tensor
    noise: float

    def given(self, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and covariance of S given the context."""
        if seen is None:
            return self.mean, self.covariance
        of = self.context @ self.covariance
        gain = torch.linalg.solve(of @ self.context.T + self.noise**2 * torch.eye(CONTEXT).double(), of).T
        return self.mean + gain @ (seen - self.context @ self.mean), self.covariance - gain @ of


@dataclass(frozen=True)
class Exact:
    """The best denoiser of the target: the mean of S given the context and the noisy observation."""

    signals: Signals
    seen: Tensor

    def scene(self, noisy: Tensor, times: Tensor, estimate: Tensor | None, given: bool) -> Tensor:
        mean, covariance = self.signals.given(self.seen if given else None)
        alpha, sigma = float(ALPHA[times[0]]), float(SIGMA[times[0]])
        of = alpha * self.signals.target @ covariance
        spread = alpha * of @ self.signals.target.T + sigma**2 * torch.eye(TARGET).double()
        gain = torch.linalg.solve(spread, of).T
        return mean + (noisy - alpha * self.signals.target @ mean) @ gain.T

    def render(self, scene: Tensor) -> Tensor:
        return scene @ self.signals.target.T


def signals(noise: float) -> Signals:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    root = draw(D, D) / D**0.5
    covariance = root @ root.T + 0.1 * torch.eye(D).double()
    return Signals(draw(D), covariance, draw(CONTEXT, D), draw(TARGET, D) / D**0.5, noise)


def samples(exact: Exact, guidance: float = 1.0, spread: float = 1.0) -> Tensor:
    noise = torch.randn(40000, TARGET, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return sampled(exact, spread * noise, ALPHA, SIGMA, 250, guidance)


def errors(found: Tensor, mean: Tensor, covariance: Tensor) -> tuple[float, float]:
    """Of the mean, in standard deviations, and of the covariance, relative to it."""
    off = (found.mean(0) - mean).norm() / covariance.trace().sqrt()
    return float(off), float((found.T.cov() - covariance).norm() / covariance.norm())


def seen_of(given: Signals) -> Tensor:
    scene = given.mean + torch.linalg.cholesky(given.covariance) @ torch.linspace(-1.0, 1.0, D).double()
    return given.context @ scene + 0.5 * given.noise


@pytest.mark.parametrize("noise", [0.3, 1e-3])
def test_samples_have_the_law_given_the_context(noise: float) -> None:
    """What the target view shows, and if context and target determine the signals, these, too."""
    exact = Exact(signals(noise), seen_of(signals(noise)))
    found, target = samples(exact), exact.signals.target
    mean, covariance = exact.signals.given(exact.seen)
    assert max(errors(found @ target.T, target @ mean, target @ covariance @ target.T)) < 0.05
    assert covariance.trace() < 0.8 * exact.signals.covariance.trace()  # the context says something
    if noise < 0.01:
        assert max(errors(found, mean, covariance)) < 0.05
        shown = found @ exact.signals.context.T
        torch.testing.assert_close(shown, exact.seen.expand_as(shown), atol=0.02, rtol=0)


def test_less_noise_and_more_guidance_have_other_laws() -> None:
    exact = Exact(signals(0.3), seen_of(signals(0.3)))
    target, mean = exact.signals.target, exact.signals.given(exact.seen)[0]
    law = target @ exact.signals.given(exact.seen)[1] @ target.T
    assert samples(exact, spread=0.5).matmul(target.T).T.cov().trace() < 0.3 * law.trace()
    assert errors(samples(exact, guidance=2.0) @ target.T, target @ mean, law)[0] > 0.2


def test_the_exact_denoiser_is_the_minimum_of_the_loss() -> None:
    """Signals and noise at points whose mean and covariance are those of their law, so that expectations of squares
    are exact: the gradient of the loss vanishes at the denoiser of the closed form, and nowhere near it."""
    given, time = signals(0.3), 400
    size = D + CONTEXT + TARGET
    points = torch.cat([torch.eye(size), -torch.eye(size)]).double() * size**0.5
    unit, context_noise, noise = points.split((D, CONTEXT, TARGET), dim=1)
    scene = given.mean + unit @ torch.linalg.cholesky(given.covariance).T
    seen = scene @ given.context.T + given.noise * context_noise
    true = scene @ given.target.T
    noisy = ALPHA[time] * true + SIGMA[time] * noise

    def best(seen: Tensor, noisy: Tensor) -> Tensor:
        return Exact(given, seen).scene(noisy, torch.tensor([time]), None, True)

    nothing = torch.zeros(CONTEXT).double(), torch.zeros(1, TARGET).double()
    bias = best(*nothing)[0]
    known = [(row, nothing[1]) for row in torch.eye(CONTEXT).double()]
    known += [(nothing[0], row[None]) for row in torch.eye(TARGET).double()]
    slope = torch.stack([best(*one)[0] - bias for one in known])
    novel = torch.randn(2, D, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    one = torch.ones(len(points)).double()
    observed = [Observed(given.target, true, one), Observed(novel, scene @ novel.T, 0.5 * one)]

    def gradients(factor: float) -> list[Tensor]:
        weights = [(factor * value).requires_grad_() for value in (slope, bias)]
        scenes = torch.cat([seen, noisy], dim=1) @ weights[0] + weights[1]
        total = loss(lambda scenes, view: scenes @ view.T, [(scenes, one) for one in observed])
        return list(torch.autograd.grad(total, weights))

    assert max(float(gradient.abs().max()) for gradient in gradients(1.0)) < 1e-12
    assert max(float(gradient.abs().max()) for gradient in gradients(1.1)) > 0.01


def test_a_scene_whose_weight_is_zero_teaches_nothing() -> None:
    scenes = torch.ones(2, 3).requires_grad_()
    weight = torch.tensor([1.0, 0.0])
    view = Observed(None, torch.zeros(2, 3), weight)
    loss(lambda scenes, _: scenes, [(scenes, view)]).backward()
    assert scenes.grad is not None
    torch.testing.assert_close(scenes.grad, torch.tensor([[1.0] * 3, [0.0] * 3]) / 3.0)
