"""The contracts of the objects that the loop is called with.

Any object with these methods will do; none of them needs a base class or a registration. B is the number of
views of a step; `step` counts from 0 to total - 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor, nn

from threedgen.core.rendering import BackgroundColors, Renderer
from threedgen.core.transfer import Number
from threedgen.core.types import Cameras, RenderOutput, Signal

__all__ = ["Background", "CameraSampler", "Guidance", "Regularizer", "Renderer", "Scene", "Stepper"]


class Scene(Protocol):
    """What a run optimises: an nn.Module whose parameters mean a primitive.

    Its whole state is its `state_dict()`, from which `load_state_dict` restores it, also if the numbers of rows
    of its parameters have changed.
    """

    def at(self, time: Float[Tensor, " B"] | None = None, /) -> Any:
        """The primitive at the time of each view, in [0, 1]. A scene that does not move ignores it."""
        ...

    def parameter_groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        """The parameters by the name of their group; each parameter is in exactly one group."""
        ...

    def learning_rates(self) -> Mapping[str, float]:
        """The initial learning rate of each group."""
        ...

    def adapt(
        self, step: int, total: int, output: RenderOutput, optimizer: Any, seed: int, /
    ) -> Mapping[str, Number]:
        """Changes the parameters after an optimizer step (constraints, growth, pruning); returns numbers to log.

        output: the render of the step, whose gradients are still there. optimizer: the run's Stepper; if parameters
        are replaced, it must be told (see threedgen.loop.optim.Optimizer.replace_rows).
        """
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> Any: ...


class CameraSampler(Protocol):
    """The training views of each step."""

    def __call__(self, seed: int, step: int, total: int, /) -> Cameras:
        """The B views of one step: a function of the arguments alone."""
        ...


class Guidance(Protocol):
    """How a render should change.

    A guidance that remembers something between steps is an nn.Module, whose state_dict is part of the run's state.
    """

    def __call__(
        self, output: RenderOutput, cameras: Cameras, prompt: str, step: int, total: int, seed: int, /
    ) -> Signal:
        """The loss on the render [B, H, W, 3] of the cameras' B views, and numbers to log.

        seed: of all random draws (see threedgen.core.random).
        """
        ...


class Background(Protocol):
    """The colours behind the object in each step."""

    def __call__(self, seed: int, step: int, /) -> BackgroundColors:
        """[3], [B, 3] or [B, H, W, 3] in [0, 1]: a function of the arguments alone."""
        ...


class Regularizer(Protocol):
    """A loss that needs no prior."""

    def __call__(
        self, output: RenderOutput, primitive: Any, step: int, total: int, /
    ) -> tuple[Float[Tensor, ""], Mapping[str, Number]]:
        """A scalar loss on the render and the primitive that it shows, and numbers to log."""
        ...


class Stepper(Protocol):
    """The optimizer of a run (threedgen.loop.optim.Optimizer is the built-in one)."""

    def zero_grad(self) -> None:
        """Removes every gradient."""
        ...

    def step(self) -> None:
        """Changes every parameter that has a gradient."""
        ...

    def state_tensors(self) -> Mapping[str, Tensor]:
        """The whole state as tensors by name."""
        ...

    def load_state_tensors(self, tensors: Mapping[str, Tensor], groups: Mapping[str, Any]) -> None:
        """Takes the state that `state_tensors` gave, for the parameters in `groups`."""
        ...
