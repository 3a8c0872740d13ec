"""The moments that training clips show: spans and shares of whole motions that change during a run."""

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.clips import SPAN, ClipSampler, draw_spans
from threedgen.core.errors import UserError
from threedgen.core.random import generator

FRAMES, BATCH, TOTAL = 4, 40, 101


def spans(step: int, **settings: object) -> Float[Tensor, " B"]:
    """The spans of the clips of a step, which must lie inside the motion and be evenly spaced."""
    config = ClipSampler.Config(batch=BATCH, frames=FRAMES, resolution=8, **settings)  # pyright: ignore[reportArgumentType]
    times = ClipSampler(config)(0, step, TOTAL).time.reshape(BATCH, FRAMES)
    assert float(times.min()) >= 0.0
    assert float(times.max()) <= 1.0
    torch.testing.assert_close(
        times.diff(dim=1), times.diff(dim=1)[:, :1].expand(-1, FRAMES - 1), atol=1e-6, rtol=0
    )
    return times[:, -1] - times[:, 0]


def inside(found: Tensor, low: float, high: float) -> bool:
    """Whether all spans are in the range, and use most of it."""
    spread = float(found.max() - found.min())
    return (
        low - 1e-6 <= float(found.min()) and float(found.max()) <= high + 1e-6 and spread > 0.7 * (high - low)
    )


def test_a_span_may_change_from_the_first_to_the_last_step():
    ramp = {"from": [0.6, 1.0], "to": [0.1, 0.2]}
    assert inside(spans(0, span=ramp, whole=0), 0.6, 1.0)
    assert inside(spans(50, span=ramp, whole=0), 0.35, 0.6)
    assert inside(spans(100, span=ramp, whole=0), 0.1, 0.2)


def test_a_span_may_jump():
    steps = {0: [0.1, 0.2], 0.5: [0.8, 0.9]}
    assert inside(spans(49, span=steps, whole=0), 0.1, 0.2)
    assert inside(spans(50, span=steps, whole=0), 0.8, 0.9)


def test_whole_motions_are_as_frequent_as_asked():
    assert bool((spans(3, span=(0.1, 0.5), whole=1) > 1.0 - 1e-6).all())
    assert not bool((spans(3, span=(0.1, 0.5), whole=0) > 0.5 + 1e-6).any())
    drawn = draw_spans(4000, generator(0, "spans", 0), (0.1, 0.5), 0.25)[1]
    assert float((drawn == 1.0).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_their_share_may_change():
    ramp = {"from": 1, "to": 0}
    drawn = [spans(step, span=(0.1, 0.2), whole=ramp) for step in (0, 50, 100)]
    shares = [float((one > 0.5).float().mean()) for one in drawn]
    assert (shares[0], shares[2]) == (1.0, 0.0)
    assert 0.2 < shares[1] < 0.8


def test_clips_start_anywhere_in_what_is_left():
    start, span = draw_spans(4000, generator(0, "spans", 1), SPAN, 0.0)
    assert bool((start >= 0.0).all())
    assert bool((start + span <= 1.0 + 1e-6).all())
    share = start / (1.0 - span)
    assert float(share.mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"span": {"from": [0.5, 1.0], "to": [0.0, 0.5]}}, "span holds 0; .* greater than 0 and at most 1"),
        ({"span": {"from": [0.5, 1.0], "to": [0.5, 1.2]}}, "span holds 1.2; .* greater than 0 and at most 1"),
        ({"span": {0: [0.5, 1.0], 0.5: [0.9, 0.4]}}, r"span must be a range .*, got \[0.9, 0.4\]"),
        ({"whole": 1.5}, "whole is 1.5; it must be between 0 and 1"),
        ({"whole": {"from": 0.5, "to": -0.1}}, "whole holds -0.1; .* between 0 and 1"),
        ({"whole": float("nan")}, "whole is nan"),
        ({"until": 0.0}, "until is 0; it must be greater than 0 and at most 1"),
        ({"until": {"from": 0.5, "to": 1.5}}, "until holds 1.5"),
        ({"frames": 1}, "frames is 1; it must be at least 2"),
        ({"fov": 180.0}, "fov is 180"),
        ({"radius": (3.0, 2.0)}, "radius is"),
    ],
)
def test_schedules_that_leave_the_motion_are_named(settings, message):
    with pytest.raises(UserError, match=f"^{message}"):
        ClipSampler.Config(**settings)
