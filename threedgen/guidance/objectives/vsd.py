"""Variational score distillation: the prior compared with a second denoiser that learns the renders of the
scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from threedgen.core.errors import UserError
from threedgen.core.settings import above, at_least, between, settings
from threedgen.core.transfer import Number, exact, sent_as
from threedgen.guidance.objectives.base import Answer, Objective, Question
from threedgen.guidance.priors.base import Condition, Prior, roles_of
from threedgen.guidance.priors.processes import per_sample
from threedgen.loop.optim import Config as AdamConfig
from threedgen.loop.optim import build_optimizer

STREAM = "guidance/vsd"
_PREFIX = "optimizer."
# The moments of ProlificDreamer. The learning rate does not decay, because the renders change until the end.
_ADAM = AdamConfig(betas=(0.9, 0.99), eps=1e-15, decay="constant")


class VSD(nn.Module, Objective):
    """g = w (eps_hat(z; y) - eps_phi(z; y, camera)): ProlificDreamer (Wang et al. 2023), eq. 9 and algorithm 1.

    eps_phi is a particle model of the prior. After each gradient it takes `updates` steps of Adam on the renders,
    at t uniform in [0, 1] (one draw for each group of views) and with the prompt without words for the view. The
    model and the moments of Adam are the state of this module. Metric: particle_loss, the mean squared error of
    the model.
    """

    @settings
    class Config:
        """Options of VSD.

        Attributes:
            kind: Kind of the particle model. lora adds low-rank changes to the attention, copy trains all weights
                (for small networks), auto lets the prior choose.
            rank: Rank of the low-rank changes.
            learning_rate: Learning rate of Adam for the particle model.
            updates: Number of steps of Adam for each step of the scene.
            camera_dropout: Share of the updates in which the particle model does not receive the camera.
        """

        kind: Literal["auto", "lora", "copy"] = "auto"
        rank: Annotated[int, at_least(1)] = 4
        learning_rate: Annotated[float, above(0.0)] = 1e-4
        updates: Annotated[int, at_least(1)] = 1
        camera_dropout: Annotated[float, between(0.0, 1.0)] = 0.1

    def __init__(self, config: Config, prior: Prior) -> None:
        super().__init__()
        self.config = config
        roles = roles_of(prior)
        if config.camera_dropout and roles.needs_cameras:
            raise UserError("this prior needs the camera of every view: set options.camera_dropout to 0")
        self.model: Any = roles.particle_model(config.kind, config.rank, seed=0)
        learns = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        rates = {"particles": config.learning_rate}
        self._optimizer = build_optimizer({"particles": learns}, _ADAM, learning_rates=rates, total_steps=1)
        self._learns = learns

    def forward(self, question: Question) -> Answer:
        predicted = question.evaluate()
        plain = question.condition.saying((question.prompt,) * len(question.x))
        own = self.model.predict(predicted.z, question.t, plain)
        difference = predicted.guided.eps - own.eps
        gradient = per_sample(question.weight(), difference) * difference
        return Answer(gradient, predicted.guided.x0, {"particle_loss": self._learn(question, plain)})

    def _learn(self, question: Question, condition: Condition) -> Number:
        """Trains the particle model on these renders for `updates` steps; returns the mean of its losses."""
        rng = question.generator(STREAM)
        x, losses = question.x, []
        for _ in range(self.config.updates):
            drawn = torch.rand(len(x) // question.group, generator=rng).repeat_interleave(question.group)
            t = sent_as(drawn, question.t)
            eps = sent_as(torch.randn(x.shape, generator=rng), x)
            dropped = float(torch.rand((), generator=rng)) < self.config.camera_dropout
            given = replace(condition, cameras=None) if dropped else condition
            with torch.enable_grad():
                loss = self.model.denoising_loss(x, eps, t, given)
            # Not backward(): the weights of a prior that did not freeze them would accumulate gradients.
            gradients = torch.autograd.grad(loss, self._learns, allow_unused=True)
            for parameter, gradient in zip(self._learns, gradients, strict=True):
                parameter.grad = gradient
            self._optimizer.step()
            self._optimizer.zero_grad()
            losses.append(exact(loss))
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
