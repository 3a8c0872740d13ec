"""How large codes are, and what they have in common: a running mean code and a running mean square.

Scenes of one kind have codes that are mostly alike: of small coloured cars 95 % of the mean square is their mean. A
diffusion that sees the codes as they are spends itself on that mean; centred, it sees what makes scenes differ, at
unit variance (as Control3Diff normalises its triplanes; METHODS 5.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

_SMALLEST = 1e-8  # mean square


class CodeStatistics(nn.Module):
    """center: [K, R, R], the running mean code where codes are centred, else 0. mean_square: [], running, of what
    is left of codes without it; 1 at the start."""

    center: Float[Tensor, "K R R"]
    mean_square: Float[Tensor, ""]

    def __init__(self, shape: tuple[int, int, int], centred: bool) -> None:
        super().__init__()
        self.centred = centred
        self.register_buffer("center", torch.zeros(shape))
        self.register_buffer("mean_square", torch.ones(()))

    @torch.no_grad()
    def follow(
        self,
        codes: Float[Tensor, "B K R R"],
        momentum: float,
        average: Callable[[Iterable[Tensor]], None] = lambda _: None,
    ) -> None:
        """A step towards these codes. average: replaces tensors by their means over all processes."""
        if self.centred:
            mean = codes.mean(0)
            average([mean])
            self.center.lerp_(mean, momentum)
        now = (codes - self.center).square().mean()
        average([now])
        self.mean_square.lerp_(now, momentum)

    def seen(self, codes: Float[Tensor, "B K R R"]) -> Float[Tensor, "B K R R"]:
        """What the diffusion sees of codes."""
        return (codes - self.center) / self._std() if self.centred else codes

    def meant(self, seen: Float[Tensor, "B K R R"]) -> Float[Tensor, "B K R R"]:
        """The codes that are seen so."""
        return self.center + self._std() * seen if self.centred else seen

    def weight(self, weight: float) -> Float[Tensor, ""]:
        """lambda_diff for a loss that is a mean over elements of what is seen: c_diff / EMA of its mean square."""
        one = self.mean_square.new_ones(())
        return weight * one if self.centred else weight / self.mean_square.clamp_min(_SMALLEST)

    def _std(self) -> Float[Tensor, ""]:
        return self.mean_square.clamp_min(_SMALLEST).sqrt()
