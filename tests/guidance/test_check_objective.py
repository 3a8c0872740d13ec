"""The checks for objectives of third parties: on the built-in objectives, and on objectives that break one law
each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from threedgen.core.plugins import BUILTIN
from threedgen.guidance.objectives.base import Answer, Objective, Question
from threedgen.guidance.objectives.sds import SDS
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.processes import NoiseSchedule
from threedgen.testing import check_objective
from threedgen.testing.objectives import LAWS, Case


def flow_matching(case: Case) -> torch.Tensor:
    """w / (1 - s) (E eps_hat - 0), s = sigma / (alpha + sigma) the flow time (docs/methods.md,
    "Rectified-flow velocity (flow)")."""
    alpha, sigma = case.levels
    guided = 3.0 * case.mean_noise("a red cube") - 2.0 * case.mean_noise("ugly")
    return guided * (alpha + sigma) / alpha


def variational(case: Case) -> torch.Tensor:
    """The particle model starts as the denoiser of N(0, 1)."""
    alpha, sigma = case.levels
    own = sigma * alpha * case.question.x[0] / (alpha.square() + sigma.square())
    guided = 3.0 * case.mean_noise("a red cube") - 2.0 * case.mean_noise("ugly")
    return case.question.weight()[0] * (guided - own)


def interval(case: Case) -> torch.Tensor:
    """0, 0.2, 0.4, 0.42, 0.5 under the empty text, each step a linear map (docs/methods.md, "Priors in
    closed form")."""
    prior, mean, std = case.question.prior, case.means[""], case.stds[""]
    levels = torch.tensor([0.0, 0.2, 0.4, 0.42, 0.5], dtype=torch.float64)
    alpha, sigma = prior.alpha(levels), prior.sigma(levels)
    offset, before = alpha[0] * (case.question.x[0] - mean), torch.zeros(())
    for k in range(4):
        spread = alpha[k] ** 2 * std**2 + sigma[k] ** 2
        before = sigma[k] * offset / spread
        offset = offset * (alpha[k + 1] * alpha[k] * std**2 + sigma[k + 1] * sigma[k]) / spread
    z = offset + alpha[4] * mean

    def said(text: str) -> torch.Tensor:
        spread = alpha[4] ** 2 * case.stds[text] ** 2 + sigma[4] ** 2
        return sigma[4] * (z - alpha[4] * case.means[text]) / spread

    guided = 3.0 * said("a red cube") - 2.0 * said("ugly")
    return case.question.weight()[0] * (guided - before)


def inverted(case: Case) -> torch.Tensor:
    """Ten steps to t = 1 are five to 0.5, without guidance at inversion_scale = 1."""
    prior, x, text = case.question.prior, case.question.x[0], "a red cube"
    mean, std = case.means[text], case.stds[text]
    levels = torch.linspace(0.0, 0.5, 6, dtype=torch.float64)
    alpha, sigma = prior.alpha(levels), prior.sigma(levels)
    offset = alpha[0] * (x - mean)
    for k in range(5):
        spread = alpha[k] ** 2 * std**2 + sigma[k] ** 2
        offset = offset * (alpha[k + 1] * alpha[k] * std**2 + sigma[k + 1] * sigma[k]) / spread
    z = offset + alpha[5] * mean

    def said(word: str) -> torch.Tensor:
        spread = alpha[5] ** 2 * case.stds[word] ** 2 + sigma[5] ** 2
        return sigma[5] * (z - alpha[5] * case.means[word]) / spread

    guided = 3.0 * said(text) - 2.0 * said("ugly")
    return case.question.weight()[0] * (guided - (z - alpha[5] * x) / sigma[5])


# The arguments of each check; the omitted laws are those that the method does not promise.
CASES: dict[str, dict[str, Any]] = {
    "sds": {},
    "recon": {},
    "sjc": {},
    "hifa": {},
    # If all branches agree the gradient is 0 everywhere; its fixed point is tested in test_objectives.
    "csd": {"skip": ["fixed point"], "options": {"negative": -0.4, "empty": -0.6}},
    # The t of the check are above the threshold; below it the coefficients sum to 1, as in the paper.
    "nfsd": {},
    "flow": {"expected": flow_matching},
    "ism": {"expected": interval},
    "sdi": {"expected": inverted, "options": {"inversion_scale": 1.0, "eta": 0.0}},
    # The second network does not cancel the noise before it has learned the renders.
    "vsd": {"expected": variational, "skip": ["noise"]},
}


@pytest.mark.parametrize("name", BUILTIN["objective"])
def test_our_objectives_keep_the_laws(name):
    report = check_objective(name, **CASES[name])
    assert report.laws == tuple(law for law in LAWS if law not in CASES[name].get("skip", ()))
    # Objectives with an inversion draw no noise, so their gradient does not vary.
    assert (report.variance < 1e-12) == (name in ("ism", "sdi"))


def test_the_closed_form_of_the_noise_of_sds():
    """Its std is w |scale (...)|: for one Gaussian w alpha^2 s^2 / D, here of both branches together."""
    report = check_objective("sds", skip=[law for law in LAWS if law != "closed form"])
    prior_t = torch.tensor([0.5], dtype=torch.float64)
    schedule = NoiseSchedule.scaled_linear()
    alpha, sigma = schedule.alpha(prior_t), schedule.sigma(prior_t)
    share = {s: sigma**2 / (alpha**2 * s**2 + sigma**2) for s in (0.3, 0.5)}
    std = sigma**2 * (3.0 * share[0.3] - 2.0 * share[0.5] - 1.0)
    assert report.variance == pytest.approx(float(std**2), rel=0.05)


def test_fresh_noise_in_the_inversion_breaks_the_batch_and_nothing_else():
    skip = ["closed form", "fixed point", "batch"]
    assert check_objective("sdi", skip=skip, options={"inversion_scale": 1.0}).laws
    with pytest.raises(AssertionError, match=r"^batch: "):
        check_objective("sdi", skip=[law for law in LAWS if law != "batch"])


class Silent(SDS):
    def __call__(self, question: Question) -> Answer:
        return replace(super().__call__(question), gradient=torch.zeros_like(question.x))


class WrongSign(SDS):
    def __call__(self, question: Question) -> Answer:
        answer = super().__call__(question)
        return replace(answer, gradient=-answer.gradient)


class Shifted(SDS):
    def coefficients(self, question: Question) -> None:
        return None

    def __call__(self, question: Question) -> Answer:
        answer = super().__call__(question)
        return replace(answer, gradient=answer.gradient + 0.2 * question.x)


class VariancePreservingOnly(SDS):
    def __call__(self, question: Question) -> Answer:
        sigma = question.prior.sigma(question.t)
        return super().__call__(replace(question, weighting=lambda *_: sigma.square()))


class KeepsNoise(SDS):
    """eps_hat without - eps: correct in the mean, but it contains the noise."""

    def __call__(self, question: Question) -> Answer:
        answer = super().__call__(question)
        weight = question.weight().reshape(-1, 1, 1, 1)
        return replace(answer, gradient=answer.gradient + weight * question.eps)


class ThroughTheNetwork(SDS):
    def __call__(self, question: Question) -> Answer:
        said = question.prior.predict(question.noised(), question.t, question.condition)
        weight = question.weight().reshape(-1, 1, 1, 1)
        return Answer(weight * (said.eps - question.eps), said.x0)


class OverTheBatch(SDS):
    def __call__(self, question: Question) -> Answer:
        answer = super().__call__(question)
        scale = answer.gradient.std() / answer.gradient.std(dim=(1, 2, 3), keepdim=True)
        return replace(answer, gradient=answer.gradient * scale)


class Drawing(SDS):
    count = 0

    def __call__(self, question: Question) -> Answer:
        Drawing.count += 1
        answer = super().__call__(question)
        return replace(answer, gradient=answer.gradient * (1.0 + 1e-12 * Drawing.count))


class InPlace(SDS):
    def __call__(self, question: Question) -> Answer:
        answer = super().__call__(question)
        question.x.clamp_(-1.0, 1.0)
        return answer


class Half(SDS):
    def __call__(self, question: Question) -> Answer:
        answer = super().__call__(question)
        return replace(answer, gradient=answer.gradient.float())


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (Silent, "answer"),
        (WrongSign, "closed form"),
        (WrongSign, "fixed point"),
        (Shifted, "fixed point"),
        (VariancePreservingOnly, "parameterisation"),
        (KeepsNoise, "noise"),
        (ThroughTheNetwork, "detachment"),
        (OverTheBatch, "batch"),
        (Drawing, "determinism"),
        (InPlace, "determinism"),
        (Half, "dtype"),
    ],
)
def test_a_broken_objective_is_told_which_law_it_breaks(broken, name):
    with pytest.raises(AssertionError, match=f"^{name}: "):
        check_objective(broken, skip=[law for law in LAWS if law != name])


def test_noise_in_the_mean_is_no_offence_and_in_the_gradient_is():
    """KeepsNoise has the closed form in the mean; its variance gives it away, and so does the law about noise."""
    only = [law for law in LAWS if law != "closed form"]
    assert check_objective(KeepsNoise, skip=only).variance > 10.0 * check_objective(SDS, skip=only).variance


def test_global_randomness_is_found():
    class Global(SDS):
        def __call__(self, question: Question) -> Answer:
            torch.rand(1)
            return super().__call__(question)

    with pytest.raises(AssertionError, match=r"^global randomness: the objective"):
        check_objective(Global, skip=[law for law in LAWS if law != "answer"])


def test_an_objective_of_a_third_party_by_its_path(monkeypatch):
    monkeypatch.syspath_prepend(str(__file__).rsplit("/", 1)[0])
    only = [law for law in LAWS if law != "answer"]
    assert check_objective("test_check_objective:KeepsNoise", skip=only).laws == ("answer",)


def test_wrong_requests():
    with pytest.raises(ValueError, match="unknown law 'spin'"):
        check_objective("sds", skip=["spin"])

    class Unknown(Objective):
        def __call__(self, question: Question) -> Answer:
            said = question.prior.predict(question.x, question.t, Condition(question.condition.prompts))
            return Answer(said.eps - question.eps, said.x0)

    with pytest.raises(AssertionError, match=r"^closed form: nothing says what the mean gradient is"):
        check_objective(Unknown, skip=[law for law in LAWS if law != "closed form"])
