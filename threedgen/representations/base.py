"""The contract of a representation: parameters of an asset, and the primitive they mean at a given time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

from jaxtyping import Float, Int
from torch import Tensor, nn

from threedgen.core.roles import RepresentationRoles
from threedgen.core.types import Primitive, RenderOutput


class RowOptimizer(Protocol):
    """What a representation that changes its rows asks of the optimizer; optim.Optimizer has it."""

    def replace_rows(self, old: nn.Parameter, new: nn.Parameter, source: Int[Tensor, " M"]) -> None:
        """Row i of `new` goes on from row source[i] of `old`; -1 marks a new row."""

    def zero_moments(self, parameter: nn.Parameter) -> None:
        """Forgets the moments of a parameter whose values were set by hand."""


class Representation(nn.Module, ABC, RepresentationRoles):
    """Parameters of a 3D or 4D asset. Its whole state is its `state_dict()` (buffers included).

    renderer: name of the renderer that its primitive meets where the recipe does not choose one.
    starts_from: the primitives that it can go on from as a later stage of a recipe; it then has a classmethod
    `from_asset(config, seed, asset)`, given the earlier stage's primitive, detached and on the CPU. Where
    TriMesh is among them, a cloud or a field is meshed first if need be.
    """

    renderer: ClassVar[str]
    starts_from: ClassVar[tuple[type, ...]] = ()

    @abstractmethod
    def at(self, time: Float[Tensor, " B"] | None = None) -> Primitive:
        """The primitive at `time` in [0, 1] ([B] as in Cameras; None or ignored where nothing moves)."""

    @classmethod
    def blank(cls, config: Any) -> Self:
        """An object to load a state into. One that reads files at its start (the points of a mesh) must not read
        them here, so that a run needs nothing but its own folder."""
        return cls(config, 0)  # type: ignore[call-arg]

    @property
    def earlier_run(self) -> str:
        """The folder of a run whose end this representation continues; empty if it continues none."""
        return ""

    def continue_from(self, earlier: Any) -> None:
        """Continues the end of `earlier`, the scene of `earlier_run` on the CPU. Raises UserError if it cannot."""
        raise NotImplementedError

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters by group name, each parameter in exactly one group."""

    @abstractmethod
    def learning_rates(self) -> Mapping[str, float]:
        """The initial learning rate of each group, same names as `parameter_groups()`."""

    def penalty(
        self, primitive: Any, step: int, total: int
    ) -> tuple[Float[Tensor, ""] | float, Mapping[str, float]]:
        """A loss on the representation's own terms at 0-based `step` of `total` (smoothness, opacities), and
        numbers to log. primitive: what `at` returned in this step, so that nothing is computed twice."""
        return 0.0, {}

    def adapt(
        self, step: int, total: int, output: RenderOutput, optimizer: RowOptimizer, seed: int
    ) -> dict[str, float]:
        """Called after each optimizer step (0-based `step` of `total`): constraints, growth, pruning.

        Gradients must still be there. Parameters may be replaced; the optimizer is told. Random draws come
        from random.generator(seed, stream, step) only. Returns numbers to log.
        """
        return {}
