"""Everything that changes during a run, in one object that a checkpoint, a rollback and the loop share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from threedgen.core.checkpoint import prefixed, unprefixed
from threedgen.core.random import derive_seed


class Stepper(Protocol):
    """What the loop and the checkpoint ask of an optimizer (optim.Optimizer is the built-in one)."""

    def zero_grad(self) -> None: ...

    def step(self) -> None: ...

    def state_tensors(self) -> Mapping[str, Tensor]: ...

    def load_state_tensors(self, tensors: Mapping[str, Tensor], groups: Mapping[str, Any]) -> None: ...


@dataclass
class RunState:
    """The state of a run before step `step`.

    seed: of the run. rollbacks: how often a bad step was taken back; each one changes the draws that follow
    (the same draws would only repeat the failure), deterministically. guidances: in recipe order; those that
    remember something (an nn.Module with a state_dict) are part of the state. stage: of a recipe with several,
    which one this is (steps count from 0 in each); steps_before: how many steps the stages before it had.
    """

    scene: Any
    optimizer: Stepper
    seed: int
    step: int = 0
    rollbacks: int = 0
    guidances: Sequence[Any] = field(default_factory=tuple)
    stage: int = 0
    steps_before: int = 0

    @property
    def steps_in_run(self) -> int:
        """Steps done since the run began, in all stages."""
        return self.steps_before + self.step

    @property
    def draw_seed(self) -> int:
        """The seed for random streams now: the run's own until something was rolled back."""
        return self.seed if self.rollbacks == 0 else derive_seed(self.seed, "rollback", self.rollbacks)

    def tensors(self) -> dict[str, Tensor]:
        """The live tensors of scene, optimizer and learning guidances, under distinct names."""
        tensors = prefixed("scene", self.scene.state_dict())
        tensors.update(prefixed("optimizer", self.optimizer.state_tensors()))
        for index, guide in self._learners():
            tensors.update(prefixed(f"guidance.{index}", guide.state_dict()))
        return tensors

    def numbers(self) -> dict[str, int]:
        """The rest of the state, as JSON holds it."""
        return {"stage": self.stage, "step": self.step, "rollbacks": self.rollbacks, "seed": self.seed}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, int]) -> None:
        """Takes a state that `tensors` and `numbers` gave, in this process or another."""
        self.scene.load_state_dict(unprefixed("scene", tensors))
        self.optimizer.load_state_tensors(unprefixed("optimizer", tensors), self.scene.parameter_groups())
        for index, guide in self._learners():
            guide.load_state_dict(unprefixed(f"guidance.{index}", tensors))
        self.step = int(numbers["step"])
        self.rollbacks = int(numbers["rollbacks"])

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Copies of `tensors` and `numbers` that later steps do not touch."""
        return {name: value.detach().clone() for name, value in self.tensors().items()}, self.numbers()

    def broken(self) -> str | None:
        """What the first non-finite gradient belongs to and how it is broken, or None when all are finite."""
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
