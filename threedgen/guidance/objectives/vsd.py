"""Variational score distillation: the prior against a second denoiser that learns the scene's own renders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from threedgen.core.errors import UserError
from threedgen.guidance.objectives.base import Answer, Objective, Question
from threedgen.guidance.priors.base import Condition, Prior
from threedgen.guidance.priors.processes import per_sample
from threedgen.loop.optim import Config as AdamConfig
from threedgen.loop.optim import build_optimizer

STREAM = "guidance/vsd"
_PREFIX = "optimizer."
# ProlificDreamer's moments; the rate stays as it is, because the particles never stop moving.
_ADAM = AdamConfig(betas=(0.9, 0.99), eps=1e-15, decay="constant")


class VSD(nn.Module, Objective):
    """g = w (eps_hat(z; y) - eps_phi(z; y, camera)): ProlificDreamer (Wang et al. 2023), eq. 9 and algorithm 1.

    eps_phi, a particle model of the prior, takes `updates` steps of Adam on the renders after each gradient, at t
    uniform in [0, 1] (one draw for each group of views) and under the prompt without words for the view. It and its
    moments are the state of this module. Metric: particle_loss, its mean squared error.
    """

    @dataclass(frozen=True)
    class Config:
        """kind: of the particle model: lora, copy (all weights, for small networks) or auto, which asks the prior.

        rank: of the LoRA. learning_rate: of Adam. updates: steps of it for each step of the scene.
        camera_dropout: share in [0, 1] of the updates at which the camera is not told.
        """

        kind: Literal["auto", "lora", "copy"] = "auto"
        rank: int = 4
        learning_rate: float = 1e-4
        updates: int = 1
        camera_dropout: float = 0.1

        def __post_init__(self) -> None:
            if self.rank < 1:
                raise UserError(f"rank must be at least 1, got {self.rank}")
            if not 0.0 < self.learning_rate < math.inf:
                raise UserError(f"learning_rate must be a positive number, got {self.learning_rate:g}")
            if self.updates < 1:
                raise UserError(f"updates must be at least 1, got {self.updates}")
            if not 0.0 <= self.camera_dropout <= 1.0:
                raise UserError(f"camera_dropout must lie between 0 and 1, got {self.camera_dropout:g}")

    def __init__(self, config: Config, prior: Prior) -> None:
        super().__init__()
        self.config = config
        make = getattr(prior, "particle_model", None)
        if make is None:
            raise UserError(
                "the objective vsd needs a prior that can be adapted, and this one cannot: use sds"
            )
        if config.camera_dropout and getattr(prior, "needs_cameras", False):
            raise UserError("this prior has to know every camera: set options.camera_dropout to 0")
        self.model: Any = make(config.kind, config.rank, seed=0)
        learns = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        rates = {"particles": config.learning_rate}
        self._optimizer = build_optimizer({"particles": learns}, _ADAM, learning_rates=rates, total_steps=1)
        self._learns = learns

    def forward(self, question: Question) -> Answer:
        said = question.evaluate()
        plain = question.condition.saying((question.prompt,) * len(question.x))
        own = self.model.predict(said.z, question.t, plain)
        difference = said.guided.eps - own.eps
        gradient = per_sample(question.weight(), difference) * difference
        return Answer(gradient, said.guided.x0, {"particle_loss": self._learn(question, plain)})

    def _learn(self, question: Question, condition: Condition) -> float:
        """`updates` steps of the particle model on these renders; the mean of its losses."""
        rng = question.generator(STREAM)
        x, losses = question.x, []
        for _ in range(self.config.updates):
            t = (
                torch.rand(len(x) // question.group, generator=rng)
                .repeat_interleave(question.group)
                .to(question.t)
            )
            eps = torch.randn(x.shape, generator=rng).to(x)
            dropped = float(torch.rand((), generator=rng)) < self.config.camera_dropout
            told = replace(condition, cameras=None) if dropped else condition
            with torch.enable_grad():
                loss = self.model.denoising_loss(x, eps, t, told)
            # Not backward(): a prior that forgot to freeze its weights would gather gradients for ever.
            gradients = torch.autograd.grad(loss, self._learns, allow_unused=True)
            for parameter, gradient in zip(self._learns, gradients, strict=True):
                parameter.grad = gradient
            self._optimizer.step()
            self._optimizer.zero_grad()
            losses.append(loss.item())
        return sum(losses) / len(losses)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, value in self._optimizer.state_tensors().items():
            destination[prefix + _PREFIX + name] = value

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        start = prefix + _PREFIX
        moments = {name: state_dict.pop(name) for name in list(state_dict) if name.startswith(start)}
        super()._load_from_state_dict(state_dict, prefix, *rest)
        tensors: Mapping[str, Tensor] = {name.removeprefix(start): value for name, value in moments.items()}
        self._optimizer.load_state_tensors(tensors, {"particles": self._learns})
