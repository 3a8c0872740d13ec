"""Adam over named groups with a learning rate each, and the replacement of rows that density control needs.

The state is a flat dictionary of tensors, so that a checkpoint is one safetensors file and nothing is pickled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.optim.adam import adam

from threedgen.core.checkpoint import MOMENTS, check_moments
from threedgen.core.errors import UserError
from threedgen.core.settings import above, between, settings
from threedgen.loop.contracts import Scene

Decay = Literal["constant", "exponential", "cosine"]
_FUSED = ("cpu", "cuda")  # the devices on which Adam is one pass over memory
_STEP = "step"
_STEPS_TAKEN = "steps_taken"


@settings
class Config:
    """The steps of Adam in every group; the initial learning rates are those of the representation.

    Attributes:
        betas: Decay of the first and the second moment.
        eps: Added to the root of the second moment. It is so small that the steps do not depend on the scale of the
            loss (Kerbl et al. 2023 use 1e-15).
        scale: Factor of every learning rate.
        decay: How the learning rates fall from the first step to the last. exponential is linear in their
            logarithm.
        final: Learning rates at the last step as a fraction of the initial ones.
    """

    betas: Annotated[tuple[float, float], between(0.0, 1.0, open_high=True)] = (0.9, 0.99)
    eps: Annotated[float, above(0.0)] = 1e-15
    scale: Annotated[float, above(0.0)] = 1.0
    decay: Decay = "exponential"
    final: Annotated[float, above(0.0)] = 0.2


def decay_factor(config: Config, progress: float) -> float:
    """The factor of the initial learning rates at `progress` in [0, 1] of the run: 1 at 0, `final` at 1."""
    progress = min(max(progress, 0.0), 1.0)
    if config.decay == "exponential":
        return config.final**progress
    if config.decay == "cosine":
        return config.final + (1.0 - config.final) * 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0


class Optimizer:
    """Adam (Kingma and Ba 2015, algorithm 1) over named groups, made by `build_optimizer`.

    steps_taken: the number of `step()` calls so far, with which the learning rates decay. It is part of the state.
    """

    def __init__(
        self,
        groups: Mapping[str, Iterable[nn.Parameter]],
        learning_rates: Mapping[str, float],
        config: Config,
        total_steps: int,
    ) -> None:
        self.config = config
        self.total_steps = total_steps
        self.steps_taken = 0
        self._initial = {name: config.scale * learning_rates[name] for name in groups}
        self._groups = {name: list(parameters) for name, parameters in groups.items()}
        # The class torch.optim.Adam would import torch's compiler, which takes a second.
        self._state: dict[nn.Parameter, dict[str, Tensor]] = {}

    def learning_rates(self) -> dict[str, float]:
        """The rates that the next `step()` uses, by group."""
        progress = self.steps_taken / max(self.total_steps - 1, 1)
        factor = decay_factor(self.config, progress)
        return {name: initial * factor for name, initial in self._initial.items()}

    def zero_grad(self) -> None:
        """Removes every gradient (sets it to None)."""
        for parameters in self._groups.values():
            for parameter in parameters:
                parameter.grad = None

    def step(self) -> None:
        """One Adam step of every parameter that has a gradient."""
        rates = self.learning_rates()
        with torch.no_grad():
            for name, parameters in self._groups.items():
                fused = _is_fused(parameters)
                self._step_group([item for item in parameters if item.grad is not None], rates[name], fused)
        self.steps_taken += 1

    def _step_group(self, parameters: list[nn.Parameter], rate: float, fused: bool) -> None:
        for parameter in parameters:
            if parameter not in self._state:
                self._state[parameter] = _new_state(parameter, fused)
        states = [self._state[parameter] for parameter in parameters]
        adam(
            list(parameters),
            [grad.contiguous() if fused else grad for item in parameters if (grad := item.grad) is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state[_STEP] for state in states],
            amsgrad=False,
            beta1=self.config.betas[0],
            beta2=self.config.betas[1],
            lr=rate,
            weight_decay=0.0,
            eps=self.config.eps,
            maximize=False,
            fused=True if fused else None,
        )

    def moments(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The first and second moment of a parameter by name, in its shape; empty before its first step."""
        state = self._state.get(parameter, {})
        return {name: state[name] for name in MOMENTS if name in state}

    def replace_rows(self, old: nn.Parameter, new: nn.Parameter, source: Int[Tensor, " M"]) -> None:
        """Puts `new` [M, ...] in the place of `old` [N, ...]: its row i continues row source[i] of `old`.

        source[i] = -1 marks a new row, whose moments are 0. All rows of a parameter share its step count (for
        the bias correction): a row that is added late takes at most (1 - b1^k) / sqrt(1 - b2^k) times the usual
        step, which is 2.1 with the default betas. Raises KeyError if `old` is in no group.
        """
        for parameters in self._groups.values():
            for index, parameter in enumerate(parameters):
                if parameter is old:
                    parameters[index] = new
                    self._move_state(old, new, source)
                    return
        raise KeyError("replace_rows: this parameter is in no group of the optimizer")

    def _move_state(self, old: nn.Parameter, new: nn.Parameter, source: Int[Tensor, " M"]) -> None:
        state = self._state.pop(old, None)
        if not state:
            return
        kept = source >= 0
        for name in MOMENTS:
            rows = torch.zeros_like(new)
            rows[kept] = state[name][source[kept]]
            state[name] = rows
        self._state[new] = state

    def zero_moments(self, parameter: nn.Parameter) -> None:
        """Sets both moments of a parameter to 0, whose values were changed otherwise (an opacity reset)."""
        for moment in self.moments(parameter).values():
            moment.zero_()

    def state_tensors(self) -> dict[str, Tensor]:
        """The whole state as a flat dictionary: "GROUP.INDEX.{step,exp_avg,exp_avg_sq}" and "steps_taken".

        The tensors are those of the optimizer, not copies.
        """
        tensors = {_STEPS_TAKEN: torch.tensor(self.steps_taken, dtype=torch.int64)}
        for group, parameters in self._groups.items():
            for index, parameter in enumerate(parameters):
                for name, value in self._state.get(parameter, {}).items():
                    tensors[f"{group}.{index}.{name}"] = value
        return tensors

    def load_state_tensors(
        self, tensors: Mapping[str, Tensor], groups: Mapping[str, Iterable[nn.Parameter]]
    ) -> None:
        """Takes a state that `state_tensors` gave, for the parameters in `groups` (with the same names as before).

        The parameters may be other objects with other numbers of rows than those of the constructor, because
        loading a scene may have replaced them. Raises UserError if a moment does not fit its parameter, and
        KeyError for other groups.
        """
        if set(groups) != set(self._initial):
            raise KeyError(f"the groups {sorted(groups)} are not the optimizer's {sorted(self._initial)}")
        held = {name: list(parameters) for name, parameters in groups.items()}
        states: dict[nn.Parameter, dict[str, Tensor]] = {}
        unused = set(tensors) - {_STEPS_TAKEN}
        for group, parameters in held.items():
            fused = _is_fused(parameters)
            for index, parameter in enumerate(parameters):
                prefix = f"{group}.{index}."
                names = [name for name in unused if name.startswith(prefix)]
                saved = {name.removeprefix(prefix): tensors[name].detach().clone() for name in names}
                if saved:  # a parameter without a gradient so far has none
                    check_moments(saved, parameter, f"{group}.{index}")
                    states[parameter] = {
                        kind: value.to(parameter.device if kind in MOMENTS or fused else "cpu")
                        for kind, value in saved.items()
                    }
                unused -= set(names)
        count = tensors.get(_STEPS_TAKEN)
        if unused or count is None or count.shape or count.is_floating_point() or count < 0:
            raise UserError(
                f"optimizer state does not fit this run: unknown {sorted(unused)[:3] or 'step count'}"
            )
        self._groups, self._state = held, states
        self.steps_taken = int(count)


def _is_fused(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether the step of these is one pass over memory instead of ten. It reads memory in order, whatever the
    strides are (findings/torch-fused-adam-ignores-strides.sh)."""
    return all(item.device.type in _FUSED and item.is_contiguous() for item in parameters)


def _new_state(parameter: nn.Parameter, fused: bool) -> dict[str, Tensor]:
    """The step count is where it makes CUDA wait for nothing: on the device if the step is fused, else here."""
    moments = {name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in MOMENTS}
    return {_STEP: torch.zeros((), device=parameter.device if fused else "cpu"), **moments}


def check_groups(
    groups: Mapping[str, Iterable[nn.Parameter]], named_parameters: Iterable[tuple[str, nn.Parameter]]
) -> None:
    """Raises UserError unless every parameter that requires a gradient is in exactly one group."""
    holders: dict[int, list[str]] = {}
    for group, parameters in groups.items():
        for parameter in parameters:
            holders.setdefault(id(parameter), []).append(group)
    for name, parameter in named_parameters:
        found = holders.pop(id(parameter), [])
        if parameter.requires_grad and not found:
            raise UserError(
                f"parameter {name} is in no optimizer group: add it to parameter_groups() or freeze it"
            )
        if len(found) > 1:
            raise UserError(
                f"parameter {name} is in {len(found)} optimizer groups ({', '.join(found)}): keep one"
            )
    if holders:
        strangers = sorted({group for found in holders.values() for group in found})
        raise UserError(
            f"optimizer group {strangers[0]} holds a parameter that its representation does not have"
        )


def build_optimizer(
    groups: Mapping[str, Iterable[nn.Parameter]],
    config: Config,
    *,
    learning_rates: Mapping[str, float],
    total_steps: int,
    owner: nn.Module | Scene | None = None,
) -> Optimizer:
    """Adam over `groups` (name -> parameters) with the initial `learning_rates` (same names, at least 0).

    total_steps: length of the run, over which the rates decay. owner: the module whose parameters must each be in
    exactly one group. Raises UserError if one is not, for a group without a rate, and for a rate without a group.
    """
    groups = {name: list(parameters) for name, parameters in groups.items()}
    named = owner.named_parameters() if owner is not None else []
    if owner is not None:
        check_groups(groups, named)
    for name in groups:
        if name not in learning_rates:
            raise UserError(
                f"optimizer group {name} has no learning rate; known: {', '.join(learning_rates)}"
            )
    for name, rate in learning_rates.items():
        if name not in groups:
            raise UserError(f"learning rate {name} matches no optimizer group; groups: {', '.join(groups)}")
        if not (rate >= 0.0 and math.isfinite(rate)):
            raise UserError(f"learning rate {name} is {rate}; it must be a number >= 0")
    return Optimizer(groups, learning_rates, config, total_steps)
