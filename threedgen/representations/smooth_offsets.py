"""Smooth offsets of vertices (Nicolet et al. 2021, "Large Steps in Inverse Rendering of Geometry").

The gradient of a silhouette moves single vertices and tears the surface. With offsets x = (I + lambda L)^-1 u,
where L is the graph Laplacian, the steps of the optimizer in u become smooth displacements x: each step, and not
only their sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


class Smoother:
    """u -> (I + strength L)^-1 u for the vertices of one mesh, by a sparse factorisation that is made once.

    L is the combinatorial Laplacian (degree minus adjacency), so a shift of all vertices is not changed. Works on
    the CPU in double precision; the result has the device and the precision of u.
    """

    def __init__(self, faces: Int[Tensor, "F 3"], count: int, strength: float) -> None:
        from scipy.sparse import coo_matrix, identity
        from scipy.sparse.csgraph import laplacian
        from scipy.sparse.linalg import splu

        corners = faces.detach().cpu().numpy()
        rows, columns = corners[:, [0, 1, 2, 1, 2, 0]].ravel(), corners[:, [1, 2, 0, 0, 1, 2]].ravel()
        adjacency = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count)).tocsr()
        adjacency.data[:] = 1.0
        adjacency.setdiag(0.0)
        stiffness: Any = laplacian(adjacency)
        self._factors = splu((identity(count) + strength * stiffness).tocsc())

    def __deepcopy__(self, memo: dict[int, Any]) -> Smoother:
        """Itself: it never changes, and SciPy cannot copy the factorisation."""
        return self

    def solve(self, values: Float[Tensor, "V C"]) -> Float[Tensor, "V C"]:
        """The smoothed values, without gradients."""
        right = values.detach().cpu().double().numpy()
        return torch.from_numpy(self._factors.solve(right)).to(values)

    def __call__(self, values: Float[Tensor, "V C"]) -> Float[Tensor, "V C"]:
        """The smoothed values, differentiable: the matrix is symmetric, so gradients are smoothed the same way."""
        return _Solve.apply(values, self)  # type: ignore[return-value]


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, smoother: Smoother) -> Tensor:
        ctx.smoother = smoother
        return smoother.solve(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.smoother.solve(gradient), None
