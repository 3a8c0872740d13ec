"""What the colours of a mesh mean: whether they hold the light of the pictures that they come from, and which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.settings import above, at_least, finite, settings

Colors = Literal["albedo", "unlit", "lit"]
Wish = Literal["auto", "albedo", "unlit", "lit"]
ROUGH = 0.9  # of what is not known to be smooth; as in the examples of KHR_materials_unlit


@settings
class Light:
    """A light that is fixed in the world: what is seen is the albedo times the shade, both display-referred.

    Attributes:
        ambient: Shade of what looks away from the source.
        diffuse: What a surface that faces the source gets beside that, by Lambert's law.
        toward: Direction towards the source in the world, of any length.
    """

    ambient: Annotated[float, above(0.0)]
    diffuse: Annotated[float, at_least(0.0)]
    toward: Annotated[tuple[float, float, float], finite]

    def shade(self, normals: Float[Tensor, "N 3"]) -> Float[Tensor, "N 1"]:
        """ambient + diffuse max(0, n . toward) for unit normals."""
        toward = torch.nn.functional.normalize(normals.new_tensor(self.toward), dim=0)
        return self.ambient + self.diffuse * (normals @ toward).clamp_min(0.0).unsqueeze(1)


@dataclass(frozen=True)
class Material:
    """How programs are to show the colours of a mesh.

    colors: albedo (the light was divided out of them, and programs light them), unlit (they hold their light, and
    programs show them as they are) or lit (they hold their light, and programs light them again). why: the reason,
    in words. metallic, roughness: in [0, 1], of programs that light them. light: under which an albedo looks like
    what the mesh was made of; else None.
    """

    colors: Colors
    why: str = ""
    metallic: float = 0.0
    roughness: float = ROUGH
    light: Light | None = None
