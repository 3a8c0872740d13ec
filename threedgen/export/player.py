"""A moving mesh as one HTML page that plays it, without a library, a server or a network.

The page holds positions of 16 bits, colours of 8 bits and its own WebGL 2 code (player.js). Its
Content-Security-Policy allows that script and that style, by their hashes, and nothing else, so that the page
cannot open any connection.
"""

from __future__ import annotations

import base64
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
from threedgen.core.png import to_uint8
from threedgen.core.types import TriMesh
from threedgen.representations.mesh_checks import check_mesh

if TYPE_CHECKING:
    from threedgen.export.animation import Animation, Config

_HERE = Path(__file__).parent
_STEPS = 65535  # steps of a position along each side of the box around the whole motion
MOST_BYTES = 16_000_000  # of positions; a motion that needs more gets fewer frames
_GREY = 0.7
_UNTITLED = "an asset in motion"


def write_player(
    path: str | Path, mesh: TriMesh, animation: Animation, config: Config, title: str = ""
) -> Path:
    """Writes a page that plays, pauses, scrubs, turns and zooms.

    Opened as PAGE#t=SECONDS it is paused at that time. Positions are exact to half of 1/65535 of the box around
    the motion, and change linearly between frames. A motion of more than MOST_BYTES gets fewer frames, evenly
    spaced. A mesh without vertex colours is grey. config: its azimuth is the first direction of view. title:
    shown above the mesh, as plain text. Raises UserError for a mesh that no file can hold or that is too large
    for a page, and if the place cannot be written.
    """
    path = Path(path)
    check_mesh(mesh, f"cannot write {path}")
    vertices = animation.vertices.detach().cpu().numpy().astype(np.float64)
    kept = _fitting(vertices, path)
    low, span, positions = quantised(kept)
    faces = mesh.faces.cpu().numpy().astype("<u4")
    colors = torch.full_like(mesh.vertices, _GREY) if mesh.vertex_colors is None else mesh.vertex_colors
    scene = {
        "frames": len(kept),
        "vertices": len(mesh.vertices),
        "faces": len(faces),
        "seconds": config.seconds,
        "loop": animation.loop,
        "azimuth": config.azimuth,
        "low": low.tolist(),
        "span": span.tolist(),
    }
    raw = faces.tobytes() + positions.astype("<u2").tobytes() + to_uint8(colors).tobytes()
    page = _page(scene, base64.b64encode(raw).decode(), title.strip() or _UNTITLED)
    store(path, page.encode("utf-8"))
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
        raise UserError(
            f"cannot write {path}: {vertices.shape[1]} vertices are too many for a page; lower moving_faces"
        )
    places = np.linspace(0.0, len(vertices) - 1.0, most)
    before = np.minimum(places.astype(int), len(vertices) - 2)
    share = (places - before)[:, None, None]
    return (1.0 - share) * vertices[before] + share * vertices[before + 1]


def _page(scene: dict[str, Any], data: str, title: str) -> str:
    script, style = ((_HERE / name).read_text(encoding="utf-8") for name in ("player.js", "player.css"))
    allowed = {"script-src": script, "style-src": style}
    rules = [f"{kind} 'sha256-{_digest(text)}'" for kind, text in allowed.items()]
    policy = "; ".join(["default-src 'none'", *rules, "base-uri 'none'", "form-action 'none'"])
    page = Template((_HERE / "player.html").read_text(encoding="utf-8"))
    return page.substitute(
        policy=policy,
        title=html.escape(title),
        style=style,
        scene=json.dumps(scene, allow_nan=False),
        data=data,
        script=script,
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
