"""What every renderer is: a callable from a primitive, cameras and a background to pictures."""

from __future__ import annotations

from typing import Protocol, TypeVar

from jaxtyping import Float
from torch import Tensor

from threedgen.types import Cameras, RenderOutput

PrimitiveT = TypeVar("PrimitiveT", contravariant=True)

Background = Float[Tensor, "3"] | Float[Tensor, "B 3"] | Float[Tensor, "B H W 3"]


class Renderer(Protocol[PrimitiveT]):
    """Renders one kind of primitive (RadianceField, GaussianCloud or TriMesh)."""

    def __call__(self, primitive: PrimitiveT, cameras: Cameras, background: Background, /) -> RenderOutput:
        """Differentiable pictures of a primitive, one a camera.

        background: linear RGB seen where alpha is below 1: one colour, one a view, or a picture a view.
        """
        ...
