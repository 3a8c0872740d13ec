"""The contract of a representation: parameters of an asset, and the primitive they mean at a given time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from threedgen.core.roles import RepresentationRoles
from threedgen.core.transfer import Number
from threedgen.core.types import Primitive, RenderOutput


class RowOptimizer(Protocol):
    """What a representation that adds or removes rows needs of the optimizer."""

    def replace_rows(self, old: nn.Parameter, new: nn.Parameter, source: Int[Tensor, " M"]) -> None:
        """Row i of `new` continues row source[i] of `old`; -1 marks a new row."""

    def zero_moments(self, parameter: nn.Parameter) -> None:
        """Forgets the moments of a parameter whose values were set by hand."""


class Representation(nn.Module, ABC, RepresentationRoles):
    """Parameters of a 3D or 4D asset. Its whole state is its `state_dict()`, buffers included.

    A representation may read files when it starts, but never the folder of a run: if it continues one, it names the
    run in `earlier_run`, and whoever builds the representation loads that run and calls `continue_from`.

    renderer: name of the renderer that draws its primitive if the recipe does not choose one.
    starts_from: the primitives that it can start from as a later stage of a recipe. If there are any, it has a
    classmethod `from_asset(config, seed, asset)`, which receives the primitive of the earlier stage, detached and
    on the CPU. If TriMesh is among them, a cloud or a field of the earlier stage becomes a mesh before that.
    """

    renderer: ClassVar[str]
    starts_from: ClassVar[tuple[type, ...]] = ()

    @abstractmethod
    def at(self, time: Float[Tensor, " B"] | None = None) -> Primitive:
        """The primitive at each `time` in [0, 1], one per camera; None is the asset at rest. A representation that
        does not move ignores it."""

    @classmethod
    def blank(cls, config: Any) -> Self:
        """An object to load a state into. A class that reads files when it starts overrides this so that none is
        read: the folder of a run is then all that is needed to load it."""
        return cls(config, 0)  # type: ignore[call-arg]

    @property
    def earlier_run(self) -> str:
        """The folder of the run that this representation continues; empty if it continues none."""
        return ""

    @property
    def sheets(self) -> Mapping[str, Sequence[UInt8[np.ndarray, "H W 3"]]]:
        """Pictures of what else this scene might have become, by the name of the sheet that a new run gets of them.
        One that was loaded has none."""
        return {}

    def continue_from(self, earlier: Any) -> None:
        """Continues from the end of `earlier`, the scene of `earlier_run`, on the CPU. Raises UserError if it
        cannot."""
        raise NotImplementedError

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters by the name of their group, each parameter in exactly one group."""

    @abstractmethod
    def learning_rates(self) -> Mapping[str, float]:
        """The initial learning rate of each group, under the same names as in `parameter_groups()`."""

    def penalty(
        self, primitive: Any, step: int, total: int
    ) -> tuple[Float[Tensor, ""] | float, Mapping[str, Number]]:
        """A loss on the parameters themselves, such as on their smoothness, at the 0-based `step` of `total`, and
        numbers to log. primitive: what `at` returned in this step, so that nothing is computed twice."""
        return 0.0, {}

    def adapt(
        self, step: int, total: int, output: RenderOutput, optimizer: RowOptimizer, seed: int
    ) -> dict[str, float]:
        """Called after each step of the optimizer (0-based `step` of `total`): constraints, growth, pruning.

        The gradients must not have been cleared yet. Parameters may be replaced if `optimizer.replace_rows` is
        called for each. Random draws come from `threedgen.core.random.generator(seed, stream, step)` only. Returns
        numbers to log.
        """
        return {}
