"""The size of codes and what they have in common: a running mean code and a running mean square.

Objects of one class have codes that are mostly alike: for small coloured cars, 95 % of the mean square is the mean
code. A denoiser that sees the codes as they are spends its capacity on that mean. With centred codes it sees what
makes objects differ, at unit variance (docs/methods.md, "Centred codes"; Control3Diff, Gu et al. 2023, normalises
its triplanes in the same way).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

_SMALLEST = 1e-8  # mean square


class CodeStatistics(nn.Module):
    """Running statistics of codes.

    center: [K, R, R], the running mean code if codes are centred, else 0. mean_square: [], the running mean square
    of codes minus `center`; it starts at 1.
    """

    center: Float[Tensor, "K R R"]
    mean_square: Float[Tensor, ""]

    def __init__(self, shape: tuple[int, int, int], centred: bool) -> None:
        super().__init__()
        self.centred = centred
        self.register_buffer("center", torch.zeros(shape))
        self.register_buffer("mean_square", torch.ones(()))

    @torch.no_grad()
    def update(
        self,
        codes: Float[Tensor, "B K R R"],
        momentum: float,
        average: Callable[[Iterable[Tensor]], None] = lambda _: None,
    ) -> None:
        """Moves the statistics towards these codes. average: replaces tensors by their means over all processes."""
        if self.centred:
            mean = codes.mean(0)
            average([mean])
            self.center.lerp_(mean, momentum)
        now = (codes - self.center).square().mean()
        average([now])
        self.mean_square.lerp_(now, momentum)

    def normalise(self, codes: Float[Tensor, "B K R R"]) -> Float[Tensor, "B K R R"]:
        """Codes as the denoiser sees them: centred and at unit variance, or as they are."""
        return (codes - self.center) / self._std() if self.centred else codes

    def denormalise(self, normalised: Float[Tensor, "B K R R"]) -> Float[Tensor, "B K R R"]:
        """The codes that `normalise` turns into these."""
        return self.center + self._std() * normalised if self.centred else normalised

    def weight(self, weight: float) -> Float[Tensor, ""]:
        """lambda_diff for a loss that is a mean over the values of normalised codes: c_diff over their running mean
        square. weight: c_diff."""
        one = self.mean_square.new_ones(())
        return weight * one if self.centred else weight / self.mean_square.clamp_min(_SMALLEST)

    def _std(self) -> Float[Tensor, ""]:
        return self.mean_square.clamp_min(_SMALLEST).sqrt()
