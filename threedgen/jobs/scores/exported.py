"""How well the mesh that a run writes shows what the run made: the file is read back and rendered."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from threedgen.core.errors import UserError
from threedgen.core.material import Light
from threedgen.core.pictures import psnr, silhouette_iou, srgb_from_linear
from threedgen.core.types import GaussianCloud, Primitive, TriMesh
from threedgen.export.gltf import light_in
from threedgen.export.materials import relit
from threedgen.export.views import View, around, renders
from threedgen.recipes import typed
from threedgen.renderers.mesh import MeshRenderer
from threedgen.representations.mesh_checks import check_mesh

_OF_SPLATS = 16, 128  # views, and their pixels on each side
_OF_FIELDS = 4, 64  # whose renders take long
_SUPERSAMPLING = 2
MOST_DB, MOST_IOU = 3.0, 0.03
"""By how much the mesh may show a given picture worse than the Gaussians before a run warns."""


def read_back(path: Path) -> TriMesh:
    """The mesh of a .glb as trimesh reads it, in the coordinates of the file, with its texture or the colours of
    its vertices; an albedo as it looks in the light that the file names. Raises UserError for a file that it cannot
    read."""
    import trimesh

    try:
        loaded: Any = trimesh.load_scene(path, process=False)
        (piece,) = loaded.geometry.values()
        colors = _colors_of(piece.visual)
        vertices, faces = np.asarray(piece.vertices, np.float32), np.asarray(piece.faces, np.int64)
        normals = torch.from_numpy(np.array(piece.vertex_normals, dtype=np.float32))
    except Exception as error:  # whatever a damaged file makes of its parsers
        raise UserError(
            f"cannot read {path} ({type(error).__name__}: {error}): write it again with `threedgen export`"
        ) from error
    mesh = TriMesh(torch.from_numpy(vertices), torch.from_numpy(faces), normals=normals, **colors)
    check_mesh(mesh, f"cannot read {path}")
    light = light_in(path)
    return mesh if light is None else relit(mesh, typed.build(Light, light, f"the light in {path}"))


def _colors_of(visual: Any) -> dict[str, Any]:
    """What a mesh of trimesh is coloured by, as fields of a TriMesh: a texture, or else the colours of its vertices
    if it has any, which a .glb holds in linear light and trimesh keeps as an attribute beside the material."""
    image = getattr(getattr(visual, "material", None), "baseColorTexture", None)
    if image is None:
        linear = visual.vertex_attributes.get("color")
        if linear is None:
            return {}
        linear = np.asarray(linear, dtype=np.float32)[:, :3]
        return {"vertex_colors": torch.from_numpy(srgb_from_linear(linear).astype(np.float32))}
    uvs = np.asarray(visual.uv, dtype=np.float32) * [1.0, -1.0] + [0.0, 1.0]
    texture = np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0
    return {"uvs": torch.from_numpy(uvs.astype(np.float32)), "texture": torch.from_numpy(texture)}


@torch.no_grad()
def exported_scores(mesh: TriMesh, primitive: Primitive, given: Sequence[View]) -> dict[str, float]:
    """mesh_agreement_psnr (dB) and mesh_agreement_iou: of renders of the mesh beside those of the asset that it was
    made of, from several sides. With given pictures also mesh_reference_psnr and mesh_reference_iou, of the first.

    Warns if the mesh shows the given picture worse than the asset itself by more than MOST_DB or MOST_IOU.
    """
    views = around(mesh, *(_OF_SPLATS if isinstance(primitive, GaussianCloud) else _OF_FIELDS))
    beside = _means(mesh, renders(primitive, views))
    scores = {"mesh_agreement_psnr": beside[0], "mesh_agreement_iou": beside[1]}
    if given:
        first = given[0]
        ours = _means(mesh, [first])
        (own,) = renders(primitive, first.camera)
        asset = _compared(own.rgb + 1.0 - own.alpha, own.alpha, first)
        scores |= {"mesh_reference_psnr": ours[0], "mesh_reference_iou": ours[1]}
        if asset[0] - ours[0] > MOST_DB or asset[1] - ours[1] > MOST_IOU:
            warnings.warn(
                f"the mesh shows the picture worse than the asset that it was made of: {ours[0]:.1f} dB and an "
                f"overlap of {ours[1]:.2f} instead of {asset[0]:.1f} dB and {asset[1]:.2f}; a larger "
                "export.mesh.resolution or export.mesh.texture_size may help",
                stacklevel=1,
            )
    return {name: round(value, 4) for name, value in scores.items()}


def _means(mesh: TriMesh, views: Sequence[View]) -> tuple[float, float]:
    renderer = MeshRenderer(MeshRenderer.Config(supersampling=_SUPERSAMPLING))
    rows = []
    for view in views:
        output = renderer(mesh, view.camera, torch.ones(3))
        rows.append(_compared(output.rgb[0], output.alpha[0], view))
    decibels, overlaps = zip(*rows, strict=True)
    return sum(decibels) / len(rows), sum(overlaps) / len(rows)


def _compared(rgb: torch.Tensor, alpha: torch.Tensor, view: View) -> tuple[float, float]:
    """PSNR on white and the overlap of the silhouettes."""
    white = view.rgb + 1.0 - view.alpha
    return float(psnr(rgb[None], white[None])), float(silhouette_iou(alpha[None], view.alpha[None]))
