"""Connected pieces of voxels and meshes, and the smoothing of meshes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from threedgen.kernels import load_native

_SHRINK, _SWELL = 0.5, -0.51  # the share of the way to the mean of its neighbours that a vertex moves


def voxel_pieces(solid: Bool[np.ndarray, "X Y Z"]) -> Int[np.ndarray, "X Y Z"]:
    """The number, from 1, of the piece of each solid voxel; 0 for the others. Voxels that share a corner touch."""
    native: Any = load_native()
    if native is None:
        return voxel_pieces_skimage(solid)
    pieces = np.empty(solid.shape, dtype=np.int64)
    native.voxel_pieces(np.ascontiguousarray(solid).view(np.uint8), pieces)
    return pieces


def voxel_pieces_skimage(solid: Bool[np.ndarray, "X Y Z"]) -> Int[np.ndarray, "X Y Z"]:
    """The same without the compiled kernel."""
    from skimage.measure import label

    return np.asarray(label(solid, connectivity=3))


def mesh_pieces(count: int, faces: Int[np.ndarray, "F 3"]) -> Int[np.ndarray, " V"]:
    """The number, from 0, of the piece that each of `count` vertices belongs to."""
    native: Any = load_native()
    if native is None:
        return mesh_pieces_scipy(count, faces)
    pieces = np.empty(count, dtype=np.int64)
    native.mesh_pieces(np.ascontiguousarray(faces), pieces)
    return pieces


def mesh_pieces_scipy(count: int, faces: Int[np.ndarray, "F 3"]) -> Int[np.ndarray, " V"]:
    """The same without the compiled kernel."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(edges), dtype=bool), (edges[:, 0], edges[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def taubin(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], passes: int
) -> Float[np.ndarray, "V 3"]:
    """Vertices after passes of alternate shrinking and swelling (Taubin 1995).

    They remove the ripple of the lattice and keep the volume.
    """
    native: Any = load_native()
    if native is None:
        return taubin_scipy(vertices, faces, passes)
    smooth = np.empty(vertices.shape)
    arrays = (np.ascontiguousarray(vertices), np.ascontiguousarray(faces))
    native.taubin(*arrays, passes, _SHRINK, _SWELL, torch.get_num_threads(), smooth)
    return smooth


def taubin_scipy(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], passes: int
) -> Float[np.ndarray, "V 3"]:
    """The same without the compiled kernel."""
    from scipy.sparse import coo_matrix

    rows = faces[:, [0, 1, 2, 1, 2, 0]].ravel()
    columns = faces[:, [1, 2, 0, 0, 1, 2]].ravel()
    size = (len(vertices), len(vertices))
    adjacency = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=size).tocsr()
    adjacency.data[:] = 1.0
    neighbours = np.maximum(np.diff(adjacency.indptr), 1)[:, None]
    for _ in range(passes):
        for step in (_SHRINK, _SWELL):
            vertices = vertices + step * ((adjacency @ vertices) / neighbours - vertices)
    return vertices


def grown(mask: Bool[np.ndarray, "X Y Z"], steps: int, outside: bool = False) -> Bool[np.ndarray, "X Y Z"]:
    """`mask` with the voxels that share a face with it, `steps` times over.

    outside: whether what is beyond the border belongs to the mask.
    """
    for _ in range(steps):
        before = np.pad(mask, 1, constant_values=outside)
        mask = mask.copy()
        for axis in range(3):
            for start in (0, 2):
                window = [slice(1, -1)] * 3
                window[axis] = slice(start, start + mask.shape[axis])
                mask |= before[tuple(window)]
    return mask
