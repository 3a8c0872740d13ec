"""Laws of a score distillation objective, checked against priors whose score is known in closed form."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.core.pictures import psnr
from threedgen.core.random import generator
from threedgen.guidance.objectives.base import (
    Answer,
    Coefficients,
    Objective,
    Question,
    find_objective,
    inject,
    weight_function,
)
from threedgen.guidance.priors.analytic import (
    Form,
    MixturePrior,
    Network,
    Rewritten,
    by_prompt,
    gaussian,
    spread_by_prompt,
)
from threedgen.guidance.priors.base import Condition, Prediction, Prior, WrappedPrior
from threedgen.recipes import typed
from threedgen.testing.common import law, no_global_randomness, views

LAWS = (
    "answer",
    "closed form",
    "fixed point",
    "parameterisation",
    "noise",
    "detachment",
    "batch",
    "determinism",
    "dtype",
)

_SIZE, _PROMPT, _NEGATIVE = 4, "a red cube", "ugly"
_SPREADS = {_PROMPT: 0.3, _NEGATIVE: 0.5, "": 0.6}
_PAIRS = 512  # noises of the closed form, each with its opposite
_STEPS = 100  # of the descent to the fixed point
# Each form in which a prior may come: (process, network), see Rewritten.
_FORMS: tuple[tuple[Form | None, Network], ...] = (
    (None, "eps"),
    (None, "v"),
    (None, "x0"),
    ("ve", "eps"),
    ("ve", "x0"),
    ("flow", "eps"),
    ("flow", "flow"),
)


@dataclass(frozen=True)
class Case:
    """One clean sample of the closed form: the question, and the Gaussian of each text.

    The texts are the prompt, the negative prompt and "". means: in z units, [-1, 1]. stds: standard deviations in z
    units. coefficients: those of the objective, or None.
    """

    question: Question
    means: Mapping[str, Float[Tensor, "3 h w"]]
    stds: Mapping[str, float]
    coefficients: Coefficients | None

    @property
    def levels(self) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) of the sample, each a scalar."""
        prior, t = self.question.prior, self.question.t
        return prior.alpha(t)[0], prior.sigma(t)[0]

    def mean_noise(self, text: str) -> Float[Tensor, "3 h w"]:
        """E over eps of eps_hat(z; text) = sigma alpha (x - mu) / (alpha^2 s^2 + sigma^2).

        See docs/methods.md, "Priors in closed form".
        """
        alpha, sigma = self.levels
        spread = alpha.square() * self.stds[text] ** 2 + sigma.square()
        return sigma * alpha * (self.question.x[0] - self.means[text]) / spread

    def combined(self) -> Float[Tensor, "3 h w"] | None:
        """The expectation of the gradient that follows from the coefficients; None without them."""
        share = self.coefficients
        if share is None:
            return None
        terms = ((share.conditional, _PROMPT), (share.negative, _NEGATIVE), (share.null, ""))
        total = torch.stack([factor * self.mean_noise(text) for factor, text in terms]).sum(0)
        return self.question.weight()[0] * total


Expected = Callable[[Case], Float[Tensor, "3 h w"]]


@dataclass(frozen=True)
class Report:
    """The result of the checks. laws: those that were checked and hold.

    variance: of the gradient over the noise, mean over pixels, at the sample and the t of the closed form; nan
    if that was skipped. error: the largest distance of the mean gradient from the closed form; nan if that was
    skipped.
    """

    laws: tuple[str, ...]
    variance: float
    error: float


def check_objective(
    objective: str | type[Objective],
    *,
    options: Mapping[str, Any] | None = None,
    expected: Expected | None = None,
    skip: Collection[str] = (),
) -> Report:
    """Checks the laws of an objective on Gaussian priors of 4 x 4 pictures, and returns a report.

    objective: a class, a built-in name or package.module:Class. options: of its Config. expected: its mean
    gradient over the noise for a Case; default: the one that follows from its `coefficients`. skip: laws that
    it does not promise. The laws are described in docs/methods.md, "Checks of an objective", "Priors in closed
    form" and "Linear combinations of branches":

    answer:           it is an Answer, with finite gradients of the right shapes that are not zero.
    closed form:      the mean gradient over the noise is the expected one.
    fixed point:      descent with every branch at one Gaussian ends at its mean, closer than 40 dB.
    parameterisation: the prior as a network for eps, v, x0 or flow, in a VP, VE or flow process, gives the same
                      gradient to 1e-5 of its size.
    noise:            with priors without spread, the gradient does not depend on the noise. detachment:
    the answer has no graph, even over a prior that does not detach, and the weights of the prior get
                      no gradient.
    batch:            the gradient of a sample does not depend on the other samples of its batch.
    determinism:      seed and step decide everything; the question and the global random states do not change.
    dtype:            float32 and float64 are kept and agree to 1e-3 of the size of the gradient.

    Raises AssertionError naming the law that does not hold.
    """
    unknown = set(skip) - set(LAWS)
    if unknown:
        raise ValueError(f"unknown law '{min(unknown)}': the laws are {', '.join(LAWS)}")
    kind = find_objective(objective) if isinstance(objective, str) else objective
    config = typed.build(kind.Config, options or {}, "options")
    subject = _Subject(kind, config, expected)
    variance = error = float("nan")
    with no_global_randomness("the objective"):
        for name in LAWS:
            if name in skip:
                continue
            if name == "closed form":
                variance, error = subject.check_closed_form()
            else:
                getattr(subject, f"check_{name.replace(' ', '_')}")()
    return Report(tuple(name for name in LAWS if name not in skip), variance, error)


def _picture(seed: int) -> Float[Tensor, "h w 3"]:
    draws = torch.rand(_SIZE, _SIZE, 3, generator=generator(seed, "check_objective", 0))
    return (0.2 + 0.6 * draws).double()


def _noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "check_objective/noise", 0), dtype=torch.float64)


_PICTURES = (_PROMPT, _NEGATIVE, "")


def _three_gaussians(spreads: Mapping[str, float]) -> MixturePrior:
    """A prior with a Gaussian for each of the three texts."""
    images = {text: _picture(seed) for seed, text in enumerate(_PICTURES)}
    return MixturePrior(by_prompt(images), spread_by_prompt(spreads), _SIZE)


class _Leaky(WrappedPrior):
    """A prior whose answers depend on a weight that is not frozen."""

    def __init__(self, prior: Prior) -> None:
        super().__init__(prior)
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))

    def predict(self, z: Tensor, t: Tensor, condition: Condition) -> Prediction:
        answer = self.prior.predict(z, t, condition)
        return Prediction(self.gain * answer.eps, self.gain * answer.x0, self.gain * answer.v)


class _Subject:
    """The objective that is checked; every question is asked of a fresh object."""

    def __init__(self, kind: type[Objective], config: Any, expected: Expected | None) -> None:
        self.kind, self.config, self.expected = kind, config, expected
        self.prior = _three_gaussians(_SPREADS)
        self.x = 0.7 * _noise(1, 3, 3, _SIZE, _SIZE)
        self.eps = _noise(2, 3, 3, _SIZE, _SIZE)
        self.t = torch.tensor([0.35, 0.5, 0.65], dtype=torch.float64)

    def question(
        self, prior: Any, x: Tensor, eps: Tensor, t: Tensor, step: int = 3, total: int = 10
    ) -> Question:
        cameras = views(3, _SIZE, _SIZE)[torch.arange(len(x)) % 3]
        return Question(
            prior=prior,
            x=x.clone(),
            eps=eps.clone(),
            t=t.clone(),
            condition=Condition((_PROMPT,) * len(x), _NEGATIVE, cameras),
            prompt=_PROMPT,
            scale=3.0,
            weighting=weight_function(self.kind.weighting),
            images=prior.decode(x).clone() if self.kind.image_space else None,
            step=step,
            total=total,
            seed=7,
        )

    def standard(self, prior: Any = None) -> Question:
        return self.question(self.prior if prior is None else prior, self.x, self.eps, self.t)

    def ask(self, question: Question) -> Answer:
        return self.kind(self.config, question.prior)(question)

    def everything(self, question: Question) -> Float[Tensor, "B N"]:
        """All gradients of each sample in one row."""
        return _rows(self.ask(question))

    def check_answer(self) -> None:
        question = self.standard()
        answer = self.ask(question)
        law(isinstance(answer, Answer), "answer", f"it is a {type(answer).__name__}, not an Answer")
        for name in ("gradient", "x0"):
            shape = tuple(getattr(answer, name).shape)
            wanted = tuple(question.x.shape)
            law(shape == wanted, "answer", f"{name} is {shape} for samples of {wanted}")
        if question.images is not None:
            law(
                answer.image_gradient is not None,
                "answer",
                "image_space is promised, but image_gradient is None",
            )
        else:
            law(answer.image_gradient is None, "answer", "there is an image_gradient: set image_space")
        rows = _rows(answer)
        law(bool(rows.isfinite().all()), "answer", "the gradient is not finite")
        law(bool((rows.abs().amax(1) > 0.0).all()), "answer", "the gradient of a sample is zero")

    def check_closed_form(self) -> tuple[float, float]:
        half = _noise(3, _PAIRS, 3, _SIZE, _SIZE)
        count = 2 * _PAIRS
        one = self.question(self.prior, self.x[:1], half[:1], self.t[1:2])
        many = self.question(
            self.prior,
            self.x[:1].expand(count, -1, -1, -1),
            torch.cat([half, -half]),
            self.t[1:2].expand(count),
        )
        gradient = self.ask(many).gradient
        means = {text: _picture(seed).permute(2, 0, 1) * 2.0 - 1.0 for seed, text in enumerate(_PICTURES)}
        share = self.kind(self.config, self.prior).coefficients(one)
        case = Case(one, means, _SPREADS, share)
        wanted = case.combined() if self.expected is None else self.expected(case)
        law(
            wanted is not None,
            "closed form",
            "nothing says what the mean gradient is: define coefficients() or pass expected=",
        )
        assert wanted is not None
        pairs = (gradient[:_PAIRS] + gradient[_PAIRS:]) / 2.0
        error = (pairs.mean(0) - wanted).abs()
        # Six standard errors of the mean, which is 0 for opposite noises if the gradient is linear in them.
        allowed = 6.0 * pairs.std(0) / _PAIRS**0.5 + 1e-6 * wanted.abs().max()
        law(
            bool((error <= allowed).all()),
            "closed form",
            f"the mean gradient is off by {float(error.max()):.3g} where it is {float(wanted.abs().max()):.3g}",
        )
        return float(gradient.var(0).mean()), float(error.max())

    def check_fixed_point(self) -> None:
        prior = gaussian(_picture(0), 0.1)
        subject = self.kind(self.config, prior)
        x = torch.zeros(1, 3, _SIZE, _SIZE, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([x], lr=0.1, betas=(0.9, 0.99))
        for step in range(_STEPS):
            optimizer.param_groups[0]["lr"] = 0.1 * (1.0 - step / _STEPS) ** 2
            half = _noise(100 + step, 2, 3, _SIZE, _SIZE)
            t = torch.full((4,), 0.1 + 0.8 * ((step * 0.618) % 1.0), dtype=torch.float64)
            batch = x.expand(4, -1, -1, -1)
            question = self.question(prior, batch.detach(), torch.cat([half, -half]), t, step, _STEPS)
            answer = subject(question)
            loss = inject(batch, answer.gradient)
            if answer.image_gradient is not None:
                loss = loss + inject(prior.decode(batch), answer.image_gradient)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        decibels = float(psnr(prior.decode(x.detach()), _picture(0)[None]))
        law(decibels > 40.0, "fixed point", f"descent ends {decibels:.1f} dB from the mean of the prior")

    def check_parameterisation(self) -> None:
        reference = self.everything(self.standard())
        for form, network in _FORMS:
            other = self.everything(self.standard(Rewritten(self.prior, form, network)))
            error = _relative(other, reference)
            law(
                error <= 1e-5,
                "parameterisation",
                f"as a network for {network} in a {form or 'vp'} process the gradient is off by {error:.2g} of it",
            )

    def check_noise(self) -> None:
        prior = _three_gaussians(dict.fromkeys(_SPREADS, 1e-5))
        there, back = (
            self.everything(self.question(prior, self.x, sign * self.eps, self.t)) for sign in (1.0, -1.0)
        )
        size = 0.5 * (there + back).abs().max()
        left = 0.5 * (there - back).abs().max()
        law(
            float(left) <= 1e-4 * float(size),
            "noise",
            f"without spread in the prior, {float(left / size):.2g} of the gradient changes sign with the noise: "
            "its coefficients do not sum to 0",
        )

    def check_detachment(self) -> None:
        prior = _Leaky(self.prior)
        answer = self.ask(self.standard(prior))
        for name in ("gradient", "x0", "image_gradient"):
            value = getattr(answer, name)
            law(value is None or not value.requires_grad, "detachment", f"{name} has a graph into the prior")
        law(prior.gain.grad is None, "detachment", "a gradient reached the weights of the prior")

    def check_batch(self) -> None:
        together = self.everything(self.standard())
        for index in range(len(self.x)):
            one = slice(index, index + 1)
            question = self.question(self.prior, self.x[one], self.eps[one], self.t[one])
            condition = replace(question.condition, cameras=views(3, _SIZE, _SIZE)[one])
            alone = self.everything(replace(question, condition=condition))
            error = _relative(alone, together[one])
            law(error <= 1e-9, "batch", f"the gradient of sample {index} depends on the rest of its batch")

    def check_determinism(self) -> None:
        question = self.standard()
        first = self.everything(question)
        for name in ("x", "eps", "t"):
            kept = torch.equal(getattr(question, name), getattr(self, name))
            law(kept, "determinism", f"the objective changed the question's {name} in place")
        law(
            torch.equal(first, self.everything(self.standard())),
            "determinism",
            "the same seed and step give another gradient in a fresh object",
        )

    def check_dtype(self) -> None:
        exact = self.ask(self.standard())
        law(
            exact.gradient.dtype == torch.float64,
            "dtype",
            f"the gradient of float64 is {exact.gradient.dtype}",
        )
        question = self.question(self.prior, self.x.float(), self.eps.float(), self.t.float())
        short = self.ask(question)
        law(
            short.gradient.dtype == torch.float32,
            "dtype",
            f"the gradient of float32 is {short.gradient.dtype}",
        )
        error = _relative(_rows(short).double(), _rows(exact))
        law(error <= 1e-3, "dtype", f"float32 and float64 differ by {error:.2g} of the gradient's size")


def _rows(answer: Answer) -> Float[Tensor, "B N"]:
    rows = answer.gradient.flatten(1)
    return rows if answer.image_gradient is None else torch.cat([rows, answer.image_gradient.flatten(1)], 1)


def _relative(one: Tensor, two: Tensor) -> float:
    if one.shape != two.shape:
        return float("inf")
    return float((one - two).abs().max() / two.abs().max().clamp_min(1e-30))
