"""Everything that changes during a run, in one object for the loop, for checkpoints and for rollbacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from threedgen.core.checkpoint import fill, prefixed, unprefixed
from threedgen.core.random import derive_seed
from threedgen.loop.contracts import Guidance, Stepper


@dataclass
class RunState:
    """The state of a run before step `step`.

    scene: a contracts.Scene; its type is Any because listeners use attributes of their own scenes. seed: of the
    run. rollbacks: how often a bad step was taken back; each rollback changes the draws that follow, because
    the same draws would only repeat the failure, in a way that the seed determines. guidances: in the order of
    the recipe; those that remember something (an nn.Module with a state_dict) are part of the state. stage: the
    number of the recipe's stage (steps count from 0 in each). steps_before: the number of steps of the stages
    before it. executors: how the priors of those stages were computed, as JSON.
    """

    scene: Any
    optimizer: Stepper
    seed: int
    step: int = 0
    rollbacks: int = 0
    guidances: Sequence[Guidance] = field(default_factory=tuple)
    stage: int = 0
    steps_before: int = 0
    executors: Sequence[Mapping[str, Any]] = ()

    @property
    def steps_in_run(self) -> int:
        """The number of steps since the start of the run, in all stages."""
        return self.steps_before + self.step

    @property
    def draw_seed(self) -> int:
        """The seed of the random streams now: the run's own until the first rollback."""
        return self.seed if self.rollbacks == 0 else derive_seed(self.seed, "rollback", self.rollbacks)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the scene, the optimizer and the guidances that learn, under distinct names; no copies."""
        tensors = prefixed("scene", self.scene.state_dict())
        tensors.update(prefixed("optimizer", self.optimizer.state_tensors()))
        for index, guide in self._learners():
            tensors.update(prefixed(f"guidance.{index}", guide.state_dict()))
        return tensors

    def numbers(self) -> dict[str, int]:
        """The rest of the state, as JSON can hold it."""
        return {"stage": self.stage, "step": self.step, "rollbacks": self.rollbacks, "seed": self.seed}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, int]) -> None:
        """Takes a state that `tensors` and `numbers` gave, in this process or in another. Raises UserError if the
        tensors do not fit."""
        fill(self.scene, unprefixed("scene", tensors), "scene")
        self.optimizer.load_state_tensors(unprefixed("optimizer", tensors), self.scene.parameter_groups())
        for index, guide in self._learners():
            fill(guide, unprefixed(f"guidance.{index}", tensors), f"guidance {index}")
        self.step = int(numbers["step"])
        self.rollbacks = int(numbers["rollbacks"])

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Copies of `tensors` and `numbers`, which later steps do not change."""
        return {name: value.detach().clone() for name, value in self.tensors().items()}, self.numbers()

    def is_finite(self, loss: Tensor) -> bool:
        """Whether the loss and every gradient are finite: all of them in one answer, because each that is read from
        a GPU makes the CPU wait for it."""
        gradients = [item.grad for item in self.scene.parameters() if item.grad is not None]
        return bool(torch.stack([item.isfinite().all().to(loss.device) for item in (loss, *gradients)]).all())

    def broken(self) -> str | None:
        """A description of the first gradient that is not finite, with its parameter; None if all are finite."""
        for name, parameter in self.scene.named_parameters():
            gradient = parameter.grad
            if gradient is not None and not torch.isfinite(gradient).all():
                kind = "NaN" if torch.isnan(gradient).any() else "infinite values"
                return f"{kind} in the gradient of '{name}'"
        return None

    def _learners(self) -> list[tuple[int, nn.Module]]:
        return [
            (index, guide)
            for index, guide in enumerate(self.guidances)
            if isinstance(guide, nn.Module) and guide.state_dict()
        ]
