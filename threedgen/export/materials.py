"""What the colours of an exported mesh mean: albedo where the light in them is known, and else unlit.

An asset looks like the pictures that its prior learned from, and these are lit. A program that lights its colours
again shows it twice lit. Where the light is known, it is divided out; where it is not, the file asks programs to
leave the mesh unlit.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from threedgen.core.errors import UserError
from threedgen.core.material import Colors, Light, Material, Wish
from threedgen.core.pictures import resize
from threedgen.core.types import TriMesh
from threedgen.export.calm_normals import calm_normals
from threedgen.representations.texture_atlas import texels_of, texture_of

_FITTING = 0.95  # share of the texels whose albedo is not cut off at white
_TABLE = Path(__file__).with_name("materials.yaml")


@dataclass(frozen=True)
class Look:
    """What is known of the colours of an asset.

    light: the one that they hold, or None. why: how it is known, or why it is not. text: words that may say what
    the asset is made of, such as its prompt.
    """

    light: Light | None = None
    why: str = "the light in its colours is not known"
    text: str = ""


class Substance(NamedTuple):
    """What words say about a surface; metallic and roughness in [0, 1]."""

    name: str
    metallic: float
    roughness: float


def dressed(mesh: TriMesh, wish: Wish, look: Look) -> TriMesh:
    """The mesh with a material, and with albedo for its colours if the light is to be divided out of them.

    mesh: with normals, of which an albedo loses the small bumps. wish: "auto" is albedo where the light is known,
    and else unlit; a mesh without colours is lit. Raises UserError if albedo is asked for and the light is not
    known.
    """
    if mesh.texture is None and mesh.vertex_colors is None:
        return _lit(mesh, "lit", look, "it has no colours")
    if wish == "albedo" and look.light is None:
        raise UserError(
            f"cannot write the albedo of this asset, because {look.why}: set material to auto, unlit or lit"
        )
    if wish == "lit":
        return _lit(mesh, "lit", look, "it was asked for")
    if look.light is None or wish == "unlit":
        why = "it was asked for" if wish == "unlit" else look.why
        return dataclasses.replace(mesh, material=Material("unlit", why))
    return _albedo(mesh, look.light, look)


def relit(mesh: TriMesh, light: Light) -> TriMesh:
    """A mesh with albedo as it looks in a light: the inverse of what `dressed` does. mesh: with normals."""
    return dataclasses.replace(_scaled(mesh, _shades(mesh, light)), material=None)


def _albedo(mesh: TriMesh, light: Light, look: Look) -> TriMesh:
    """The mesh with its colours divided by their shades. Where they are brighter than a white surface would be, the
    shape is not exactly what was lit: a light that is stronger by a few percent makes room for most of them."""
    mesh = dataclasses.replace(mesh, normals=calm_normals(mesh))
    shades = _shades(mesh, light)
    colors = mesh.vertex_colors if mesh.texture is None else mesh.texture
    assert colors is not None
    brightest = (colors.detach() / shades).amax(-1).cpu().numpy()
    stronger = max(1.0, float(np.quantile(brightest, _FITTING)))
    light = Light(round(light.ambient * stronger, 4), round(light.diffuse * stronger, 4), light.toward)
    return _lit(_scaled(mesh, 1.0 / (stronger * shades)), "albedo", look, look.why, light)


def _lit(mesh: TriMesh, colors: Colors, look: Look, why: str, light: Light | None = None) -> TriMesh:
    substance = substance_of(look.text)
    if substance is None:
        material = Material(colors, why, light=light)
    else:
        said = f"{why}; {substance.name}, by the words of its text"
        material = Material(colors, said, substance.metallic, substance.roughness, light)
    return dataclasses.replace(mesh, material=material)


def _shades(mesh: TriMesh, light: Light) -> Tensor:
    """The shade of each texel [H, W, 3], or of each vertex [V, 1], by the normals that programs light it with."""
    assert mesh.normals is not None
    if mesh.texture is None:
        return light.shade(mesh.normals)
    height, width = mesh.texture.shape[:2]
    texels = texels_of(mesh, max(height, width))
    square = texture_of(texels, light.shade(texels.normals.float()).expand(-1, 3))
    return resize(square[None], height, width)[0].to(mesh.texture)


def _scaled(mesh: TriMesh, factors: Float[Tensor, "*size"]) -> TriMesh:
    """The mesh with its colours times the factors, in [0, 1]."""
    if mesh.texture is not None:
        return dataclasses.replace(mesh, texture=(mesh.texture * factors).clamp(0.0, 1.0))
    assert mesh.vertex_colors is not None
    return dataclasses.replace(mesh, vertex_colors=(mesh.vertex_colors * factors).clamp(0.0, 1.0))


def substance_of(text: str) -> Substance | None:
    """What the words of a text say the surface is made of; None if they say nothing, or several things."""
    table, words = _substances(), re.findall(r"[a-z]+", text.lower())
    found = {table[word] for word in words if word in table}
    return found.pop() if len(found) == 1 else None


@cache
def _substances() -> dict[str, Substance]:
    import yaml

    entries = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    return {
        word: Substance(name, entry["metallic"], entry["roughness"])
        for name, entry in entries.items()
        for word in entry["words"]
    }


def facts_of(material: Material) -> dict[str, Any]:
    """A material as the report states it; programs' factors only if they light it."""
    facts: dict[str, Any] = {"colors": material.colors, "why": material.why}
    if material.colors != "unlit":
        facts |= {"metallic": material.metallic, "roughness": material.roughness}
    if material.light is not None:
        facts["light"] = dataclasses.asdict(material.light)
    return facts
