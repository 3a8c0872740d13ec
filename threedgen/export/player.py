"""A mesh in motion as one HTML page that plays it: no library, no server, no network.

The page has positions of 16 bits, colours of 8, and its own WebGL 2 code (player.js). Its Content-Security-Policy
allows that script and that style, by their hashes, and nothing else: no connection can be made from it.
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
from jaxtyping import Float, UInt16

from threedgen.core.atomic import replacing
from threedgen.core.errors import UserError
from threedgen.core.types import TriMesh
from threedgen.representations.mesh_checks import check_mesh

if TYPE_CHECKING:
    from threedgen.export.animation import Animation, Config

_HERE = Path(__file__).parent
_STEPS = 65535  # of a position, along each side of the box around the whole motion
MOST_BYTES = 16_000_000  # of positions: of a longer motion there are fewer frames
_UNTITLED = "an asset in motion"


def write_player(
    path: str | Path, mesh: TriMesh, animation: Animation, config: Config, title: str = ""
) -> Path:
    """player.html: plays, pauses, scrubs, turns and zooms; opened as PAGE#t=SECONDS it is paused there.

    Positions are off by at most half of 1/65535 of the box around the motion, and go straight between frames; of a
    motion that is beyond MOST_BYTES there are fewer frames, evenly spaced. A mesh without vertex colours is grey.
    config: its azimuth is where one looks from at first. title: shown above, as plain text. Raises UserError for
    a mesh that no file can hold or is too large for a page, and when the place cannot be written.
    """
    path = Path(path)
    check_mesh(mesh, f"cannot write {path}")
    vertices = animation.vertices.detach().cpu().numpy().astype(np.float64)
    kept = _fitting(vertices, path)
    low, span, positions = quantised(kept)
    faces = mesh.faces.cpu().numpy().astype("<u4")
    colors = np.full((len(mesh.vertices), 3), 0.7) if mesh.vertex_colors is None else mesh.vertex_colors.cpu()
    tints = (np.clip(np.asarray(colors), 0.0, 1.0) * 255.0).round().astype(np.uint8)
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
    data = base64.b64encode(faces.tobytes() + positions.astype("<u2").tobytes() + tints.tobytes()).decode()
    page = _page(scene, data, title.strip() or _UNTITLED)
    with replacing(path) as temporary:
        temporary.write_bytes(page.encode("utf-8"))
    return path


def quantised(
    vertices: Float[np.ndarray, "T V 3"],
) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"], UInt16[np.ndarray, "T V 3"]]:
    """low, span and whole numbers q with vertices = low + span * q, up to half a span."""
    low, high = vertices.min((0, 1)), vertices.max((0, 1))
    span = (high - low) / _STEPS
    return low, span, ((vertices - low) / np.where(span > 0.0, span, 1.0)).round().astype(np.uint16)


def _fitting(vertices: Float[np.ndarray, "T V 3"], path: Path) -> Float[np.ndarray, "t V 3"]:
    """As many evenly spaced moments as fit, the first and the last among them."""
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
