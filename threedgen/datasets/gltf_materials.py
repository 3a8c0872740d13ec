"""The materials of glTF as the colours that viewers display, without light.

Base colour (of metal and roughness, or of specular and gloss) and what shines by itself are added in linear light,
and turned into sRGB as in pictures. Textures keep their set of coordinates, KHR_texture_transform and what their
sampler does outside [0, 1].
"""

from __future__ import annotations

import io
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from threedgen.core.pictures import linear_from_srgb, srgb_from_linear
from threedgen.datasets.decoding import decoding, reason
from threedgen.datasets.gltf_document import Document
from threedgen.datasets.mesh_paint import GREY, Paint
from threedgen.datasets.mesh_references import References
from threedgen.datasets.painted_mesh import REPEATED, Wrap

_GLOSS = "KHR_materials_pbrSpecularGlossiness"
_STRENGTH = "KHR_materials_emissive_strength"
_TRANSFORM = "KHR_texture_transform"
_PICTURES = ("EXT_texture_webp", "EXT_texture_avif")  # other sources of a texture, which Pillow reads
_WRAPS = {33071: "clamp", 33648: "mirror", 10497: "repeat"}
_BLACK = np.zeros(3)


class _Texture(NamedTuple):
    """A picture of Pillow in RGBA, and where it lies: its set of coordinates, [2, 3] for (u, v, 1), its wraps."""

    picture: Any
    uv_set: int
    placed: tuple[tuple[float, ...], ...]
    wrap: Wrap

    @property
    def place(self) -> tuple[Any, ...]:
        return self.uv_set, self.placed, self.wrap, self.picture.size


class _Look(NamedTuple):
    """texture: where the colours of the picture `rgba` ([h, w, 4], displayed) lie, or None. factor, glow: in linear
    light, for a surface without texture: what its own colours are multiplied by, and what is added. tinted: whether
    the colours of corners change the texture. plain: whether the material says nothing about colours."""

    texture: _Texture | None
    rgba: np.ndarray | None
    factor: np.ndarray
    glow: np.ndarray
    opacity: float
    bare_opacity: float
    tinted: bool
    plain: bool


_NOTHING = _Look(None, None, np.ones(3), _BLACK, 1.0, 1.0, True, True)


class Materials:
    """The paints of a document. image: [h, w, 4], a texture that replaces all materials, or None."""

    def __init__(
        self, document: Document, references: References, image: Float[np.ndarray, "h w 4"] | None
    ) -> None:
        self._document = document
        self._references = references
        self._image = image
        self._looks: dict[Any, _Look] = {None: _NOTHING}
        self._pictures: dict[Any, Any] = {}

    def paint(
        self,
        number: int | None,
        faces: Int[np.ndarray, "F 3"],
        own: Float[np.ndarray, "V 3"] | None,
        uvs: dict[int, Float[np.ndarray, "V 2"]],
    ) -> Paint:
        """The paint of triangles of one material. own: colours of the vertices in linear light. uvs: texture
        coordinates of each set, v = 0 at the top. Raises UserError for a texture that is damaged."""
        if self._image is not None:
            if 0 not in uvs:
                return Paint.of_color(GREY if own is None else srgb_from_linear(own)[faces], faces)
            colors = np.ones((*faces.shape, 3)) if own is None else srgb_from_linear(own)[faces]
            return Paint(colors, _flipped(uvs[0])[faces], self._image)
        if number not in self._looks:
            self._looks[number] = self._look(self._document.part("materials", number))
        look = self._looks[number]
        if look.texture is not None and look.texture.uv_set in uvs:
            uv = uvs[look.texture.uv_set]
            uv = np.column_stack([uv, np.ones(len(uv))]) @ np.asarray(look.texture.placed).T
            # The product of displayed colours is nearly the displayed product of light: sRGB is nearly a power.
            tint = None if own is None or not look.tinted else srgb_from_linear(own)[faces]
            colors = np.ones((*faces.shape, 3)) if tint is None else tint
            return Paint(colors, _flipped(uv)[faces], look.rgba, look.opacity, look.texture.wrap)
        if look.plain and own is None:
            return Paint.of_color(GREY, faces)
        light = look.factor if own is None else own[faces] * look.factor
        return Paint.of_color(srgb_from_linear((light + look.glow).clip(0.0, 1.0)), faces, look.bare_opacity)

    def _look(self, material: Any) -> _Look:
        gloss = material.get("extensions", {}).get(_GLOSS)
        base = material.get("pbrMetallicRoughness", {}) if gloss is None else gloss
        names = (
            ("baseColorFactor", "baseColorTexture") if gloss is None else ("diffuseFactor", "diffuseTexture")
        )
        rgba = np.asarray(base.get(names[0], (1.0,) * 4), np.float64)
        if rgba.shape != (4,):
            raise ValueError(f"{names[0]} must hold four numbers")
        color, alpha = rgba[:3].clip(0.0, 1.0), float(rgba[3])
        strength = material.get("extensions", {}).get(_STRENGTH, {}).get("emissiveStrength", 1.0)
        glow = np.asarray(material.get("emissiveFactor", _BLACK), np.float64) * float(strength)
        texture = self._texture(base.get(names[1]))
        shine = self._texture(material.get("emissiveTexture")) if glow.any() else None
        placed, light, opaque = self._light(texture, color, shine, glow)
        mode, cutoff = material.get("alphaMode", "OPAQUE"), float(material.get("alphaCutoff", 0.5))
        blended, masked = mode == "BLEND", mode == "MASK"
        pixels = None
        if light is not None:
            covers = np.ones(light.shape[:2]) if opaque is None else opaque
            covers = covers * alpha >= cutoff if masked else covers if blended else np.ones_like(covers)
            pixels = np.dstack([srgb_from_linear(light.clip(0.0, 1.0)), covers])
        return _Look(
            placed,
            pixels,
            color,
            glow if shine is None else _BLACK,
            alpha if blended else 1.0,
            alpha if blended else float(not masked or alpha >= cutoff),
            tinted=texture is not None or bool(color.any()),
            plain=names[0] not in base and placed is None and texture is None and not glow.any(),
        )

    def _light(
        self, texture: _Texture | None, color: np.ndarray, shine: _Texture | None, glow: np.ndarray
    ) -> tuple[_Texture | None, np.ndarray | None, np.ndarray | None]:
        """Where the texture of a material lies, its linear light [h, w, 3], and its alpha [h, w].

        A base colour and a shining one of different places cannot be one texture: the base colour remains, unless
        it is black."""
        light, alpha = None, None
        if texture is not None:
            pixels = np.asarray(texture.picture, np.float64) / 255.0
            light, alpha = linear_from_srgb(pixels[..., :3]) * color, pixels[..., 3]
        if shine is None:
            return texture, None if light is None else light + glow, alpha
        if texture is not None and light is not None and color.any():
            if texture.place[:3] != shine.place[:3]:
                return texture, light, alpha
            shine = shine._replace(picture=shine.picture.resize(texture.picture.size))
        else:
            light, alpha = color, None
        own = np.asarray(shine.picture, np.float64)[..., :3] / 255.0
        return shine, light + linear_from_srgb(own) * glow, alpha

    def _texture(self, info: Any) -> _Texture | None:
        """What a material names as its texture, or None if there is nothing to read."""
        if info is None:
            return None
        texture = self._document.part("textures", info["index"])
        others = texture.get("extensions", {})
        named = [others[name]["source"] for name in _PICTURES if name in others]
        source = named[0] if named else texture.get("source")
        if source is None:
            kinds = ", ".join(others) or "no picture"
            self._references.lose(f"texture {info['index']}", f"is stored as {kinds}, which is not read")
            return None
        if source not in self._pictures:
            self._pictures[source] = self._picture(source)
        if self._pictures[source] is None:
            return None
        move = info.get("extensions", {}).get(_TRANSFORM, {})
        sampler = self._document.part("samplers", texture["sampler"]) if "sampler" in texture else {}
        wraps = tuple(_WRAPS.get(sampler.get(name, 0), "repeat") for name in ("wrapS", "wrapT"))
        return _Texture(
            self._pictures[source],
            int(move.get("texCoord", info.get("texCoord", 0))),
            _transform(move),
            REPEATED if wraps == REPEATED else (wraps[0], wraps[1]),
        )

    def _picture(self, source: Any) -> Any:
        """A picture of Pillow in RGBA, or None if it is a file beside the document that is missing or none."""
        from PIL import Image, UnidentifiedImageError

        entry, path = self._document.part("images", source), self._document.path
        inside = "bufferView" in entry
        try:
            data = self._document.view(entry["bufferView"]) if inside else self._document.uri(entry["uri"])
        except OSError:
            return None
        with decoding(path, lambda error: f"cannot read a texture of {path}: {reason(error)}"):
            try:
                with Image.open(io.BytesIO(data)) as picture:
                    return picture.convert("RGBA")
            except UnidentifiedImageError:
                if inside or entry["uri"].startswith("data:"):
                    raise
                return None


def _transform(move: Any) -> tuple[tuple[float, ...], ...]:
    """The rows of [2, 3], for (u, v, 1), of KHR_texture_transform: scaled, then turned, then moved."""
    (x, y), (width, height) = move.get("offset", (0.0, 0.0)), move.get("scale", (1.0, 1.0))
    cos, sin = math.cos(move.get("rotation", 0.0)), math.sin(move.get("rotation", 0.0))
    return (cos * width, sin * height, float(x)), (-sin * width, cos * height, float(y))


def _flipped(uvs: Float[np.ndarray, "V 2"]) -> Float[np.ndarray, "V 2"]:
    return np.column_stack([uvs[:, 0], 1.0 - uvs[:, 1]])
