"""A mesh as one HTML page that shows it, and plays it if it moves, without a library, a server or a network.

The page holds positions of 16 bits, colours of 8 bits or a texture, and its own WebGL 2 code (player.js). Its
Content-Security-Policy allows that script and that style, by their hashes, and nothing else, so that the page
cannot open any connection.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt16

from threedgen.core.atomic import store
from threedgen.core.errors import UserError
from threedgen.core.material import Material
from threedgen.core.png import to_uint8
from threedgen.core.types import TriMesh
from threedgen.export.materials import relit
from threedgen.export.seams import welds
from threedgen.export.textures import encoded
from threedgen.representations.mesh_checks import check_mesh

if TYPE_CHECKING:
    from threedgen.export.animation import Animation

_HERE = Path(__file__).parent
_STEPS = 65535  # steps of a position along each side of the box around the whole motion
MOST_BYTES = 16_000_000  # of positions; a motion that needs more gets fewer frames
_GREY = 0.7
_LAMP = 0.35  # share of the shade that a lamp at the camera makes
_UNTITLED = {"still": "an asset", "moving": "an asset in motion"}


def write_page(
    path: str | Path,
    mesh: TriMesh,
    animation: Animation | None = None,
    *,
    azimuth: float = 25.0,
    title: str = "",
) -> Path:
    """Writes a page that shows a mesh, which can be turned and zoomed, and that plays and scrubs its animation.

    A page that moves, opened as PAGE#t=SECONDS, is paused at that time. Positions are exact to half of 1/65535 of
    the box around the mesh and its motion, and change linearly between frames. A motion of more than MOST_BYTES
    gets fewer frames, evenly spaced. The mesh has its texture, or its vertex colours, or is grey; an albedo is
    shown in its own light, and what is unlit as it is. azimuth: of the first view, in degrees from the front.
    title: shown above the mesh, as plain text. Raises UserError for a mesh that no file can hold or that is too
    large for a page, and if the place cannot be written.
    """
    path = Path(path)
    check_mesh(mesh, f"cannot write {path}")
    if mesh.material is not None and mesh.material.light is not None:
        mesh = dataclasses.replace(relit(mesh, mesh.material.light), material=Material("unlit"))
    moving = mesh.vertices[None] if animation is None else animation.vertices
    kept = _fitting(moving.detach().cpu().numpy().astype(np.float64), path)
    low, span, positions = quantised(kept)
    faces, same = mesh.faces.cpu().numpy().astype("<u4"), welds(mesh)
    scene = {
        "frames": len(kept),
        "vertices": len(mesh.vertices),
        "faces": len(faces),
        "welded": bool((same != np.arange(len(same))).any()),
        "textured": mesh.texture is not None,
        "seconds": 0.0 if animation is None else round(float(animation.times[-1]), 4),
        "loop": animation is not None and animation.loop,
        "azimuth": azimuth,
        "lamp": _LAMP if mesh.material is None or mesh.material.colors == "lit" else 0.0,
        "low": low.tolist(),
        "span": span.tolist(),
    }
    parts = [faces.tobytes()]
    if scene["welded"]:
        parts.append(same.astype("<u4").tobytes())
    if mesh.texture is not None and mesh.uvs is not None:
        uvs = mesh.uvs.detach().cpu().numpy().astype("<f4")
        parts += [uvs.tobytes(), positions.astype("<u2").tobytes(), encoded(mesh.texture)]
    else:
        colors = torch.full_like(mesh.vertices, _GREY) if mesh.vertex_colors is None else mesh.vertex_colors
        parts += [positions.astype("<u2").tobytes(), to_uint8(colors).tobytes()]
    kind = "still" if animation is None else "moving"
    data = base64.b64encode(b"".join(parts)).decode()
    store(path, _page(kind, scene, data, title.strip() or _UNTITLED[kind]).encode("utf-8"))
    return path


def quantised(
    vertices: Float[np.ndarray, "T V 3"],
) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"], UInt16[np.ndarray, "T V 3"]]:
    """low, span and whole numbers q such that vertices = low + span * q, up to half a span."""
    low, high = vertices.min((0, 1)), vertices.max((0, 1))
    span = (high - low) / _STEPS
    return low, span, ((vertices - low) / np.where(span > 0.0, span, 1.0)).round().astype(np.uint16)


def _fitting(vertices: Float[np.ndarray, "T V 3"], path: Path) -> Float[np.ndarray, "t V 3"]:
    """The vertices at as many evenly spaced moments as fit, including the first and the last."""
    most = MOST_BYTES // (6 * vertices.shape[1])
    if most >= len(vertices):
        return vertices
    if most < 2:
        setting = "mesh.faces" if len(vertices) == 1 else "moving_faces"
        raise UserError(
            f"cannot write {path}: {vertices.shape[1]} vertices are too many for a page; lower {setting}"
        )
    places = np.linspace(0.0, len(vertices) - 1.0, most)
    before = np.minimum(places.astype(int), len(vertices) - 2)
    share = (places - before)[:, None, None]
    return (1.0 - share) * vertices[before] + share * vertices[before + 1]


def _page(kind: str, scene: dict[str, Any], data: str, title: str) -> str:
    script, style = ((_HERE / name).read_text(encoding="utf-8") for name in ("player.js", "player.css"))
    allowed = {"script-src": script, "style-src": style}
    rules = [f"{kind} 'sha256-{_digest(text)}'" for kind, text in allowed.items()]
    policy = "; ".join(["default-src 'none'", *rules, "base-uri 'none'", "form-action 'none'"])
    page = Template((_HERE / "player.html").read_text(encoding="utf-8"))
    return page.substitute(
        kind=kind,
        policy=policy,
        title=html.escape(title),
        style=style,
        scene=json.dumps(scene, allow_nan=False),
        data=data,
        script=script,
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
