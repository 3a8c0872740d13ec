"""How far distances between neighbours are from those at rest, by the compiled kernel, with a gradient.

threedgen.representations.motion_terms has the same in torch.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.kernels import load_native


def can_compare(rest: Tensor, moved: Tensor) -> bool:
    """Whether the kernel takes such points: float32 on the CPU, those at rest without a gradient."""
    plain = all(
        points.dtype == torch.float32 and points.device.type == "cpu" and len(points)
        for points in (rest, moved)
    )
    return plain and not rest.requires_grad and load_native() is not None


def changed_distances(
    rest: Float[Tensor, "N 3"],
    moved: Float[Tensor, "T N 3"],
    neighbours: Int[Tensor, "N K"],
    smallest: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The mean squared change of the distances to the neighbours, differentiable in `moved`, and the mean squared
    distance at rest. smallest: is added to the squared distances of moved points, whose root has a gradient then.

    Does not depend on torch's number of threads, which the kernel takes. Raises ValueError for other shapes, and
    for neighbours that there are not.
    """
    return _ChangedDistances.apply(rest, moved, neighbours, smallest)


class _ChangedDistances(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rest: Tensor, moved: Tensor, neighbours: Tensor, smallest: float
    ) -> tuple[Tensor, Tensor]:
        native, gradient = load_native(), torch.empty_like(moved, memory_format=torch.contiguous_format)
        assert native is not None
        buffers = (points.detach().contiguous().numpy() for points in (rest, moved, neighbours))
        changes, squares = native.rigidity(*buffers, smallest, torch.get_num_threads(), gradient.numpy())
        pairs = neighbours.numel()
        ctx.save_for_backward(gradient.div_(pairs * len(moved)))
        at_rest = moved.new_tensor(squares / pairs)
        ctx.mark_non_differentiable(at_rest)
        return moved.new_tensor(changes / (pairs * len(moved))), at_rest

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None, None]:
        return None, gradients[0] * ctx.saved_tensors[0], None, None
