"""Laws of Perp-Neg (Armandpour et al. 2023), and of computing all branches in one batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_objectives import SIZE, Counted, image, noise

from threedgen.guidance.priors import guided
from threedgen.guidance.priors.base import Blend, Condition, Prediction


def three(seed: int, count: int = 2) -> list[Prediction]:
    """Conditional, unconditional and further predictions for one z."""
    alpha = torch.full((count,), 0.8, dtype=torch.float64)
    z = noise(seed, count, 3, 2, 2)
    return [
        Prediction.from_eps(z, noise(seed + i, count, 3, 2, 2), alpha, (1 - alpha**2).sqrt())
        for i in range(1, 5)
    ]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(-5.0, 0.0))
def test_perpendicular_negatives(seed, weight):
    """w = 0 is plain guidance; components parallel to the direction of the prompt cancel; the rest is orthogonal
    to it."""
    c, u, one, two = three(seed)
    none = guided.perpendicular(c, u, [one, two], torch.zeros(2, 2, dtype=torch.float64))
    assert torch.equal(none.eps, c.eps)
    assert torch.equal(none.x0, c.x0)
    weights = torch.tensor([[weight], [2.0 * weight]], dtype=torch.float64)
    parallel = guided.guide(c, u, -3.0)  # e_i = -3 e_pos
    torch.testing.assert_close(guided.perpendicular(c, u, [parallel], weights).eps, c.eps)
    pushed = guided.perpendicular(c, u, [one], weights)
    inner = ((pushed.eps - c.eps) * (c.eps - u.eps)).flatten(1).sum(1)
    torch.testing.assert_close(inner, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-9)
    # The formula of the paper, and the three forms of the prediction agree.
    toward, other = c.eps - u.eps, one.eps - u.eps
    share = (other * toward).flatten(1).sum(1) / toward.flatten(1).square().sum(1)
    beside = other - share.reshape(2, 1, 1, 1) * toward
    torch.testing.assert_close(pushed.eps, u.eps + toward + weights.reshape(2, 1, 1, 1) * beside)
    z, alpha = noise(seed, 2, 3, 2, 2), torch.full((2,), 0.8, dtype=torch.float64)
    again = Prediction.from_eps(z, pushed.eps, alpha, (1 - alpha**2).sqrt())
    torch.testing.assert_close(again.x0, pushed.x0)
    torch.testing.assert_close(again.v, pushed.v)


def test_perpendicular_negatives_without_a_direction_and_with_a_wrong_sign():
    c, _, one, _ = three(1)
    weights = torch.full((2, 1), -1.0, dtype=torch.float64)
    same = guided.perpendicular(
        c, c, [one], weights
    )  # the prompt says nothing: only the clamp keeps it finite
    torch.testing.assert_close(same.eps, c.eps - (one.eps - c.eps))
    with pytest.raises(ValueError, match="0 or negative"):
        guided.perpendicular(c, one, [c], -weights)


def test_all_branches_travel_in_one_batch():
    prior = Counted(cube=image(1), ugly=image(2), none=image(3), side=image(4), back=image(5))
    z, t = noise(1, 2, 3, SIZE, SIZE), torch.full((2,), 0.5, dtype=torch.float64)
    opposed = (
        (("side", -1.0), ("back", -0.5)),
        ((Blend(("side", "back"), (0.5, 0.5)), -2.0), ("back", 0.0)),
    )
    condition = Condition(("cube", "side"), "ugly", opposed=opposed)
    said = guided.branches(prior, z, t, condition, unconditional=True, null=True)
    assert len(prior.asked) == 1
    assert prior.asked[0].prompts[:8] == ("cube", "side", "ugly", "ugly", "", "", "side", opposed[1][0][0])
    alone = {
        text: prior.predict(z, t, Condition((text, text))) for text in ("cube", "side", "back", "ugly", "")
    }
    assert said.unconditional is not None
    assert said.null is not None
    torch.testing.assert_close(said.unconditional.eps, alone["ugly"].eps)
    torch.testing.assert_close(said.null.x0, alone[""].x0)
    weights = torch.tensor([[-1.0, -0.5]], dtype=torch.float64)
    first = [
        Prediction(alone[text].eps[:1], alone[text].x0[:1], alone[text].v[:1])
        for text in ("cube", "ugly", "side", "back")
    ]
    pushed = guided.perpendicular(first[0], first[1], first[2:], weights)
    torch.testing.assert_close(said.conditional.eps[:1], pushed.eps)
    # An empty negative prompt is the empty text and is computed once; without guidance neither is computed.
    prior.asked.clear()
    guided.branches(prior, z, t, Condition(("cube",) * 2), unconditional=True, null=True)
    guided.branches(prior, z, t, Condition(("cube",) * 2), unconditional=False)
    assert [len(condition) for condition in prior.asked] == [4, 2]
