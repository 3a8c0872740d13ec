"""The contract of a renderer, which the loop and all renderers share."""

from __future__ import annotations

from typing import Protocol, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.types import Cameras, RenderOutput

PrimitiveT = TypeVar("PrimitiveT", contravariant=True)

# The colours behind the object, in [0, 1]: one colour, one for each view, or a picture for each view.
BackgroundColors = Float[Tensor, "3"] | Float[Tensor, "B 3"] | Float[Tensor, "B H W 3"]


class Renderer(Protocol[PrimitiveT]):
    """Renders one kind of primitive (RadianceField, GaussianCloud or TriMesh).

    A renderer declares that kind as a class attribute `primitive` (see threedgen.core.roles), so that a recipe that
    pairs it with another kind is refused before anything runs.
    """

    def __call__(
        self,
        primitive: PrimitiveT,
        cameras: Cameras,
        background: BackgroundColors,
        /,
        rng: torch.Generator | None = None,
    ) -> RenderOutput:
        """Differentiable pictures of a primitive, one for each of B cameras.

        background: the colours where alpha is below 1. rng: a CPU generator for renderers that draw random samples
        (jittered steps along a ray); with None they give the same picture every time.
        """
        ...
