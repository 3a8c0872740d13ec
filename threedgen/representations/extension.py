"""Motions that continue earlier ones, and motions that return to rest (Align Your Gaussians, Ling et al. 2024,
section 3.5).

A later motion begins while the earlier one still runs. In the overlap the displacement is
D_12 = (1 - chi) D_1 + chi D_2, with chi rising smoothly from 0 to 1, so that neither the position nor the speed
jumps at the beginning and the end of the overlap.
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.core.settings import between, settings
from threedgen.core.transforms import quat_from_vector, quat_multiply
from threedgen.representations.trajectory import CarriedField, Similarity


@settings
class Config:
    """The earlier motion that a motion continues; the two overlap for some time.

    Attributes:
        run: Folder of the run whose motion is continued; empty if there is none.
        overlap: Length of the overlap, as a share of the length of this motion, at whose beginning it is.
        last: Length of the overlap, as a share of the length of the earlier motion, at whose end it is.
    """

    run: str = ""
    overlap: Annotated[float, between(0.0, 1.0, open_low=True)] = 0.5
    last: Annotated[float, between(0.0, 1.0, open_low=True)] = 0.5


def chi(share: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """3 s^2 - 2 s^3 for s between 0 and 1, 0 below and 1 above: its slope is zero at both ends."""
    s = share.clamp(0.0, 1.0)
    return s * s * (3.0 - 2.0 * s)


class Handover(nn.Module):
    """A field that starts from the end of another: `earlier`, frozen, blended into `own`.

    If the fields are carried by trajectories, these are blended separately, their rotations along the arc between
    them: an asset that spins during the overlap then keeps its size, which it would not if positions were averaged.
    """

    def __init__(self, config: Config, earlier: nn.Module, own: nn.Module) -> None:
        super().__init__()
        self._overlap, self._last = config.overlap, config.last
        self.earlier, self.own = earlier.requires_grad_(False), own

    def continue_from(self, earlier: nn.Module) -> None:
        """Replaces the earlier field, and freezes the new one."""
        self.earlier = earlier.requires_grad_(False)

    def forward(self, points: Float[Tensor, "N 3"], times: Float[Tensor, " T"]) -> Float[Tensor, "T N K"]:
        local = self.local(points, times)
        return (
            self.own.carry(points, local, self.whole(times)) if isinstance(self.own, CarriedField) else local
        )

    def local(self, points: Float[Tensor, "N 3"], times: Float[Tensor, " T"]) -> Float[Tensor, "T N K"]:
        """The blended fields, without trajectories."""
        own = _local(self.own, points, times)
        inside, share = self._inside(times)
        if not len(inside):
            return own
        with torch.no_grad():
            before = _local(self.earlier, points, self._earlier_times(share))
        return own.index_copy(0, inside, torch.lerp(before, own[inside], chi(share)[:, None, None]))

    def whole(self, times: Float[Tensor, " T"]) -> Similarity:
        """The blended trajectories."""
        own = _whole(self.own, times)
        inside, share = self._inside(times)
        if not len(inside):
            return own
        middle = times.new_tensor([0.5])
        with torch.no_grad():
            before, half = (_whole(self.earlier, self._earlier_times(s)) for s in (share, middle))
        side = _side(half[0], _whole(self.own, self._overlap * middle)[0])
        there: Similarity = (own[0][inside], own[1][inside], own[2][inside])
        blended = _blend(before, there, chi(share), side)
        return tuple(a.index_copy(0, inside, b) for a, b in zip(own, blended, strict=True))  # pyright: ignore

    def departure(self, points: Float[Tensor, "N 3"], moments: int = 4) -> Float[Tensor, "S N 3"]:
        """D_12 - D_1 in world units at evenly spaced moments of the overlap, without its two ends."""
        share = ((torch.arange(moments, device=points.device) + 0.5) / moments).to(points)
        with torch.no_grad():
            before = self.earlier(points, self._earlier_times(share))
        return (self(points, self._overlap * share) - before)[..., :3]

    def _inside(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """The indices of the times that are in the overlap, and the share of it that is over by then."""
        inside = (times < self._overlap).nonzero().squeeze(1)
        return inside, times[inside] / self._overlap

    def _earlier_times(self, share: Tensor) -> Tensor:
        return 1.0 - self._last * (1.0 - share)


class Closed(nn.Module):
    """A field whose motion returns to rest: it fades by 1 - chi over the last `share` of time. Its trajectory takes
    the shortest way, so that whole turns are not undone."""

    def __init__(self, field: nn.Module, share: float) -> None:
        super().__init__()
        self.field, self._share = field, share

    def forward(self, points: Float[Tensor, "N 3"], times: Float[Tensor, " T"]) -> Float[Tensor, "T N K"]:
        gone = chi((times - (1.0 - self._share)) / self._share)
        local = _local(self.field, points, times) * (1.0 - gone)[:, None, None]
        carrier = self.field.own if isinstance(self.field, Handover) else self.field
        if not isinstance(carrier, CarriedField):
            return local
        there = _whole(self.field, times)
        rest: Similarity = (
            times.new_tensor([1.0, 0.0, 0.0, 0.0]).expand(len(times), 4),
            torch.zeros_like(there[1]),
            torch.zeros_like(there[2]),
        )
        middle = _whole(self.field, times.new_tensor([1.0 - 0.5 * self._share]))[0]
        return carrier.carry(points, local, _blend(there, rest, gone, _side(middle, rest[0][:1])))


def _local(field: nn.Module, points: Tensor, times: Tensor) -> Tensor:
    if isinstance(field, Handover):
        return field.local(points, times)
    return field.own(points, times) if isinstance(field, CarriedField) else field(points, times)


def _whole(field: nn.Module, times: Tensor) -> Similarity:
    assert isinstance(field, Handover | CarriedField)
    return field.whole(times) if isinstance(field, Handover) else field.trajectory(times)


def _between(first: Float[Tensor, "T 4"], second: Float[Tensor, "T 4"]) -> Float[Tensor, "T 4"]:
    """The rotations that lead from the first quaternions to the second."""
    return quat_multiply(first * first.new_tensor([1.0, -1.0, -1.0, -1.0]), second)


def _side(first: Float[Tensor, "1 4"], second: Float[Tensor, "1 4"]) -> Float[Tensor, "1 1"]:
    """1, or -1 if the rotation from `first` to `second` is shorter the other way round. It is determined once, in
    the middle of a blend: if it were determined at each moment, it could change, which would be a jump."""
    return torch.where(_between(first, second)[:, :1] < 0.0, -1.0, 1.0).detach()


def _blend(
    first: Similarity, second: Similarity, weight: Float[Tensor, " T"], side: Float[Tensor, "1 1"]
) -> Similarity:
    """From `first` (weight 0) to `second` (weight 1): rotations along the arc between them, the others linearly."""
    between = side * _between(first[0], second[0])
    sine = between[:, 1:].square().sum(1, keepdim=True).clamp_min(1e-24).sqrt()
    arc = between[:, 1:] * (2.0 * torch.atan2(sine, between[:, :1]) / sine)  # 0 to 2 pi long
    turned = quat_multiply(first[0], quat_from_vector(weight[:, None] * arc))
    return (
        turned,
        torch.lerp(first[1], second[1], weight[:, None]),
        torch.lerp(first[2], second[2], weight),
    )
