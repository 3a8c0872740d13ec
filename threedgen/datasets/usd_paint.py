"""The colours of meshes of OpenUSD: UsdPreviewSurface without light, or else primvars:displayColor."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from threedgen.core.pictures import linear_from_srgb, srgb_from_linear
from threedgen.datasets.decoding import decoding, reason
from threedgen.datasets.mesh_paint import GREY, Paint
from threedgen.datasets.mesh_references import References
from threedgen.datasets.painted_mesh import REPEATED, Wrap
from threedgen.datasets.usd_files import modules

_STEPS = 4  # shaders at most between a texture and its coordinates
_WRAPS = {"clamp": "clamp", "mirror": "mirror", "black": "clamp"}


class _Look(NamedTuple):
    """color: [3] in linear light, or None for that of the mesh. texture: [h, w, 4], displayed, or None. varname,
    wrap: its coordinates. opacity: that of the material without its texture."""

    color: np.ndarray | None
    texture: np.ndarray | None
    varname: str
    wrap: Wrap
    opacity: float


class Surfaces:
    """The paints of a file. image: [h, w, 4], a texture that replaces those of all materials, or None."""

    def __init__(self, path: Path, references: References, image: Float[np.ndarray, "h w 4"] | None) -> None:
        self._path = path
        self._references = references
        self._image = image
        self._looks: dict[str, _Look] = {}

    def paints(
        self,
        prim: Any,
        places: Int[np.ndarray, "F 3"],
        polygon: Int[np.ndarray, " F"],
        faces: Int[np.ndarray, "F 3"],
    ) -> Iterator[tuple[Int[np.ndarray, " f"], Paint]]:
        """The triangles of each material, by their numbers, and their paint. places: where each corner stands in
        the list of the mesh. polygon: that of each triangle. faces: the points of the corners."""
        (UsdShade,) = modules(self._path, "UsdShade")
        left = np.full(len(places), True)
        binding = UsdShade.MaterialBindingAPI(prim)
        for subset in binding.GetMaterialBindSubsets():
            members = np.array(subset.GetIndicesAttr().Get() or (), np.int64)
            chosen = left & np.isin(polygon, members)
            left &= ~chosen
            if chosen.any():
                which = np.nonzero(chosen)[0]
                yield which, self._paint(subset.GetPrim(), prim, places[which], polygon[which], faces[which])
        which = np.nonzero(left)[0]
        if len(which):
            yield which, self._paint(prim, prim, places[which], polygon[which], faces[which])

    def _paint(self, bound: Any, prim: Any, places: Any, polygon: Any, faces: Any) -> Paint:
        def values(name: str) -> np.ndarray | None:
            return _primvar(prim, name, places, polygon, faces)

        look = self._look(bound)
        varname = look.varname if look is not None else "st"
        texture = self._image if self._image is not None else look.texture if look is not None else None
        uvs = values(varname) if texture is not None else None
        opacity = 1.0 if look is None or self._image is not None else look.opacity
        if texture is not None and uvs is not None:
            wrap = look.wrap if look is not None and self._image is None else REPEATED
            return Paint(np.ones((*faces.shape, 3)), uvs[..., :2], texture, opacity, wrap)
        if look is not None and look.color is not None:
            return Paint.of_color(srgb_from_linear(look.color.clip(0.0, 1.0)), faces, opacity)
        own = values("displayColor")
        if own is None:
            return Paint.of_color(GREY, faces, opacity)
        return Paint.of_color(srgb_from_linear(own.clip(0.0, 1.0)), faces, opacity)

    def _look(self, bound: Any) -> _Look | None:
        (UsdShade,) = modules(self._path, "UsdShade")
        material, _ = UsdShade.MaterialBindingAPI(bound).ComputeBoundMaterial()
        if not material:
            return None
        name = str(material.GetPath())
        if name not in self._looks:
            shader, _, _ = material.ComputeSurfaceSource()
            self._looks[name] = self._preview(shader) if shader else _Look(None, None, "st", REPEATED, 1.0)
        return self._looks[name]

    def _preview(self, shader: Any) -> _Look:
        color, texture = self._input(shader, "diffuseColor", (0.18, 0.18, 0.18))
        shine, glow = self._input(shader, "emissiveColor", (0.0, 0.0, 0.0))
        opacity, cover = self._input(shader, "opacity", 1.0)
        # What shines is added; its texture, or the colours of the mesh, are all there is without a base colour.
        if texture is None:
            texture = glow
            if shine is None:
                color = color if glow is not None else None
            elif color is not None:
                color = color + shine
        pixels, varname, wrap = None, "st", REPEATED
        if texture is not None:
            pixels, varname, wrap = self._picture(texture, cover is not None)
        alpha = 1.0 if opacity is None else float(np.mean(opacity))
        threshold = shader.GetInput("opacityThreshold")
        if threshold and (threshold.Get() or 0.0) > 0.0:
            limit = float(threshold.Get())
            alpha = float(alpha >= limit)
            if pixels is not None:
                pixels[..., 3] = pixels[..., 3] >= limit
        return _Look(color, pixels, varname, wrap, alpha)

    def _input(self, shader: Any, name: str, default: Any) -> tuple[np.ndarray | None, Any]:
        """The value of an input (None if the mesh or a texture has it), and the texture shader, if any."""
        (UsdShade,) = modules(self._path, "UsdShade")
        given = shader.GetInput(name)
        if not given:
            return np.asarray(default, np.float64), None
        sources = UsdShade.Utils.GetValueProducingAttributes(given)
        if not sources:
            return np.asarray(default, np.float64), None
        source = UsdShade.Shader(sources[0].GetPrim())
        kind = source.GetIdAttr().Get() if source else None
        if kind == "UsdUVTexture":
            return None, source
        if kind is not None and kind.startswith("UsdPrimvarReader"):
            return None, None
        value = sources[0].Get()
        return np.asarray(default if value is None else value, np.float64), None

    def _picture(self, shader: Any, clear: bool) -> tuple[np.ndarray | None, str, Wrap]:
        """The pixels of a texture shader, [h, w, 4], displayed, the name of its coordinates, and its wraps. clear:
        whether its alpha counts."""
        from PIL import Image

        UsdShade, Ar = modules(self._path, "UsdShade", "Ar")

        def value(name: str, default: Any) -> Any:
            return _value(UsdShade, shader, name, default)

        varname = _coordinates(UsdShade, shader)
        across, up = (_WRAPS.get(str(value(name, "")), "repeat") for name in ("wrapS", "wrapT"))
        wrap = (across, up)
        asset = value("file", None)
        data = None if asset is None else self._content(str(asset.resolvedPath), Ar)
        if data is None:
            self._references.lose("" if asset is None else str(asset.path), "is not in its folder")
            return None, varname, wrap
        path = self._path
        with (
            decoding(path, lambda error: f"cannot read a texture of {path}: {reason(error)}"),
            Image.open(io.BytesIO(data)) as picture,
        ):
            pixels = np.asarray(picture.convert("RGBA"), np.float64) / 255.0
        scale, bias = (
            np.asarray(value(name, (end,) * 4), np.float64) for name, end in (("scale", 1.0), ("bias", 0.0))
        )
        if value("sourceColorSpace", "auto") != "raw":
            pixels[..., :3] = linear_from_srgb(pixels[..., :3])
        pixels = (pixels * scale + bias).clip(0.0, 1.0)
        pixels[..., :3] = srgb_from_linear(pixels[..., :3])
        if not clear:
            pixels[..., 3] = 1.0
        return pixels, varname, wrap

    def _content(self, resolved: str, Ar: Any) -> bytes | None:
        """The bytes of a file in the package, or in the folder of the layer; None for any other."""
        folder = self._path.resolve().parent
        outer = Path(
            Ar.SplitPackageRelativePathOuter(resolved)[0] if Ar.IsPackageRelativePath(resolved) else resolved
        )
        if not resolved or not outer.resolve().is_relative_to(folder):
            return None
        asset = Ar.GetResolver().OpenAsset(Ar.ResolvedPath(resolved))
        return None if not asset else bytes(asset.GetBuffer())


def _value(UsdShade: Any, shader: Any, name: str, default: Any) -> Any:
    given = shader.GetInput(name)
    found = UsdShade.Utils.GetValueProducingAttributes(given) if given else []
    got = found[0].Get() if found else None
    return default if got is None else got


def _coordinates(UsdShade: Any, texture: Any) -> str:
    """The name of the primvar with the coordinates of a texture shader."""
    reader = texture
    for _ in range(_STEPS):
        given = reader.GetInput("st") or reader.GetInput("in")
        found = UsdShade.Utils.GetValueProducingAttributes(given) if given else []
        reader = UsdShade.Shader(found[0].GetPrim()) if found else None
        if not reader:
            break
        if str(reader.GetIdAttr().Get()).startswith("UsdPrimvarReader"):
            return str(_value(UsdShade, reader, "varname", "st"))
    return "st"


def _primvar(prim: Any, name: str, places: Any, polygon: Any, faces: Any) -> np.ndarray | None:
    """The values of a primvar at the corners of triangles, [F, 3, C], or None if there are none for all of them."""
    Usd, UsdGeom = modules(Path(), "Usd", "UsdGeom")
    primvar = UsdGeom.PrimvarsAPI(prim).FindPrimvarWithInheritance(name)
    values = primvar.ComputeFlattened(Usd.TimeCode.EarliestTime()) if primvar else None
    if values is None:
        return None
    table = np.atleast_2d(np.array(values, np.float64))
    numbers = {
        UsdGeom.Tokens.constant: np.zeros_like(places),
        UsdGeom.Tokens.uniform: np.broadcast_to(polygon[:, None], places.shape),
        UsdGeom.Tokens.faceVarying: places,
    }.get(primvar.GetInterpolation(), faces)
    if not len(table) or (numbers.size and not 0 <= numbers.min() <= numbers.max() < len(table)):
        return None
    return table[numbers]
