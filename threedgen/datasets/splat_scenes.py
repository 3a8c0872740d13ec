"""Gaussians in scene files: glTF with KHR_gaussian_splatting, and OpenUSD's ParticleField3DGaussianSplat.

Such files place their Gaussians by nodes or prims, which may turn them, move them and scale them the same along all
axes. Those of all nodes are read into one cloud.
"""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from threedgen.core.errors import UserError
from threedgen.core.spherical_harmonics import rotate
from threedgen.core.transforms import quat_from_matrix, quat_multiply
from threedgen.datasets import usd_files
from threedgen.datasets.decoding import damaged
from threedgen.datasets.gltf_document import Document, node_matrix
from threedgen.datasets.splat_stored import SIGNATURE, Stored, logits, logs

GLTF_NAME = "KHR_gaussian_splatting"
_DEEPEST = 100  # nodes inside each other
_SAME = 1e-3  # how much the scales of a node may differ


class _Piece(NamedTuple):
    """Gaussians of one node, (w, x, y, z), with linear scales, and the matrix [4, 4] that places them."""

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    sh: np.ndarray
    matrix: np.ndarray


def read_gltf(path: Path, data: bytes) -> Stored:
    """The Gaussians of a .glb or .gltf file. Raises UserError if it holds none, if they are stored in a way that is
    not known, or if it is damaged."""
    document = Document(path, data, lambda name: (path.parent / Path(name).name).read_bytes())
    with damaged(path):
        known = {GLTF_NAME, "KHR_mesh_quantization"}
        unknown = [name for name in document.tree.get("extensionsRequired", []) if name not in known]
        if unknown:
            raise UserError(f"{path} needs {unknown[0]}, which threedgen does not read: write it without")
        scene = document.part("scenes", document.tree.get("scene", 0))
        pieces: list[_Piece] = []
        level = [(node, np.eye(4)) for node in scene.get("nodes", [])]
        for _ in range(_DEEPEST):
            below = []
            for index, above in level:
                node = document.part("nodes", index)
                matrix = above @ node_matrix(node)
                below += [(child, matrix) for child in node.get("children", [])]
                if "mesh" in node:
                    primitives = document.part("meshes", node["mesh"])["primitives"]
                    pieces += [
                        _of_primitive(document, one, matrix)
                        for one in primitives
                        if GLTF_NAME in one.get("extensions", {})
                    ]
            level = below
        ours = document.tree["asset"].get("generator") == SIGNATURE
    return _joined(path, pieces, "y", ours)


def _of_primitive(document: Document, primitive: Any, matrix: np.ndarray) -> _Piece:
    numbers = primitive["attributes"]

    def own(name: str) -> np.ndarray:
        return document.array(numbers[f"{GLTF_NAME}:{name}"]).astype(np.float64)

    orders = [(degree, order) for degree in range(4) for order in range(2 * degree + 1)]
    names = [f"SH_DEGREE_{degree}_COEF_{order}" for degree, order in orders]
    sh = [own(name) for name in names if f"{GLTF_NAME}:{name}" in numbers]
    return _Piece(
        document.array(numbers["POSITION"]).astype(np.float64),
        np.roll(own("ROTATION"), 1, axis=1),
        own("SCALE"),
        own("OPACITY")[:, 0],
        np.stack(sh, axis=1),
        matrix,
    )


def usd_fields(stage: Any) -> list[Any]:
    """The prims of a stage that are Gaussians; empty where usd-core is too old to know them."""
    return [prim for prim in stage.Traverse() if str(prim.GetTypeName()) == "ParticleField3DGaussianSplat"]


def read_usd(path: Path) -> Stored:
    """The Gaussians of a .usd, .usda, .usdc or .usdz file. Raises UserError without usd-core, and if it holds
    none that can be read."""
    stage = usd_files.opened(path)
    Usd, UsdGeom = usd_files.modules(path, "Usd", "UsdGeom")
    cache = UsdGeom.XformCache(Usd.TimeCode.EarliestTime())
    with damaged(path):
        pieces = [
            _of_prim(prim, np.array(cache.GetLocalToWorldTransform(prim)).T) for prim in usd_fields(stage)
        ]
    up = "z" if usd_files.z_is_up(stage) else "y"
    return _joined(path, pieces, up, SIGNATURE in stage.GetRootLayer().customLayerData)


def _of_prim(prim: Any, matrix: np.ndarray) -> _Piece:
    time = import_module("pxr.Usd").TimeCode.EarliestTime()

    def get(*names: str) -> Any:
        for name in names:  # in full precision, or else in half
            value = prim.GetAttribute(name).Get(time) if prim.HasAttribute(name) else None
            if value is not None and len(value):
                return value
        raise KeyError(names[0])

    means = np.array(get("positions", "positionsh"), np.float64)
    turns = get("orientations", "orientationsh")
    quats = np.array([[q.GetReal(), *q.GetImaginary()] for q in turns], np.float64)
    sh = np.array(
        get("radiance:sphericalHarmonicsCoefficients", "radiance:sphericalHarmonicsCoefficientsh"), np.float64
    )
    return _Piece(
        means,
        quats,
        np.array(get("scales", "scalesh"), np.float64),
        np.array(get("opacities", "opacitiesh"), np.float64),
        sh.reshape(len(means), -1, 3),
        matrix,
    )


def _joined(path: Path, pieces: list[_Piece], up: str, ours: bool) -> Stored:
    if not pieces:
        raise UserError(f"{path} holds no 3D Gaussians: give a file with some, or a mesh without --asset")
    most = max(piece.sh.shape[1] for piece in pieces)
    if math.isqrt(most) ** 2 != most:
        raise UserError(f"{path} holds an incomplete set of spherical harmonics: write it again")
    placed = [_in_place(path, piece, most) for piece in pieces]
    means, quats, log_scales, opacities, sh = (np.concatenate(one) for one in zip(*placed, strict=True))
    return Stored(means, quats, log_scales, opacities, sh, up, ours)


def _in_place(path: Path, piece: _Piece, coefficients: int) -> tuple[np.ndarray, ...]:
    """The Gaussians where their node has them: means, quats, logarithms of scales, logits of opacities, sh."""
    sh = np.zeros((len(piece.means), coefficients, 3))
    sh[:, : piece.sh.shape[1]] = piece.sh
    log_scales, logit = logs(piece.scales), logits(piece.opacities)
    if np.array_equal(piece.matrix, np.eye(4)):
        return piece.means, piece.quats, log_scales, logit, sh
    linear = piece.matrix[:3, :3]
    size = np.cbrt(np.linalg.det(linear))
    turn = linear / size if size > 0.0 else linear
    if not size > 0.0 or np.abs(turn @ turn.T - np.eye(3)).max() > _SAME:
        raise UserError(
            f"{path} has a node that mirrors or stretches its Gaussians: apply its transform, and write it again"
        )
    rotation = torch.from_numpy(turn)
    quats = quat_multiply(quat_from_matrix(rotation), torch.from_numpy(piece.quats)).numpy()
    return (
        piece.means @ linear.T + piece.matrix[:3, 3],
        quats,
        log_scales + math.log(size),
        logit,
        rotate(torch.from_numpy(sh), rotation).numpy(),
    )
