"""Vertex offsets that move their neighbours along (Nicolet et al. 2021, "Large Steps in Inverse Rendering of
Geometry").

A raw gradient of a silhouette pulls single vertices and tears the surface. With offsets x = (I + lambda L)^-1
u, L the graph Laplacian, the optimizer's steps in u become smooth displacements x: every step of it, and not
only the sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


class Smoother:
    """u -> (I + strength L)^-1 u for the vertices of one mesh, by a sparse factorisation made once.

    L is the combinatorial Laplacian (degree minus adjacency), so a rigid shift passes unchanged. Works on the
    CPU in double precision; the result is returned where and as u is.
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

    def solve(self, values: Float[Tensor, "V C"]) -> Float[Tensor, "V C"]:
        """Without gradients."""
        right = values.detach().cpu().double().numpy()
        return torch.from_numpy(self._factors.solve(right)).to(values)

    def __call__(self, values: Float[Tensor, "V C"]) -> Float[Tensor, "V C"]:
        """Differentiable: the matrix is symmetric, so the gradient is the same solve."""
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
