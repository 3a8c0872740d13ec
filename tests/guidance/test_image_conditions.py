"""The pictures that priors receive: depth and normals as colours, and the views to which they belong."""

from __future__ import annotations

from dataclasses import replace

import torch
from tiny_pipelines import ring

from threedgen.core.types import RenderOutput
from threedgen.guidance.priors.base import Condition, PriorRoles
from threedgen.guidance.prompting.image_conditions import (
    ImageConditions,
    Picturing,
    depth_picture,
    normal_picture,
)


class Follower(PriorRoles):
    image_condition = "pictures"


def output() -> RenderOutput:
    alpha = torch.zeros(1, 2, 2, 1)
    alpha[0, 0, 0], alpha[0, 0, 1], alpha[0, 1, 0] = 1.0, 0.8, 1.0
    depth = torch.zeros(1, 2, 2, 1)
    depth[0, 0, 0], depth[0, 0, 1], depth[0, 1, 0] = 2.0, 0.8 * 4.0, 3.0
    normal = torch.zeros(1, 2, 2, 3)
    normal[0, 0, 0], normal[0, 0, 1] = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])
    normal[0, 1, 0] = torch.tensor([1.0, 0.0, 0.0])
    return RenderOutput(torch.rand(1, 2, 2, 3, requires_grad=True), alpha, depth, normal)


def test_depth_is_nearness():
    picture = depth_picture(output())
    assert picture is not None
    torch.testing.assert_close(picture[0, :, :, 0], torch.tensor([[1.0, 0.0], [0.5, 0.0]]))
    assert depth_picture(replace(output(), depth=None)) is None


def test_normals_are_seen_by_the_camera():
    """From the front: towards the camera is blue, up is green, right is red, the background is grey."""
    picture = normal_picture(output(), ring(1, 2, elevation=0.0))
    assert picture is not None
    torch.testing.assert_close(picture[0, 0, 0], torch.tensor([0.5, 0.5, 1.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(picture[0, 0, 1], torch.tensor([0.5, 1.0, 0.5]), atol=1e-6, rtol=0)
    torch.testing.assert_close(picture[0, 1, 0], torch.tensor([1.0, 0.5, 0.5]), atol=1e-6, rtol=0)
    torch.testing.assert_close(picture[0, 1, 1], torch.full((3,), 0.5))


def test_pictures_carry_no_gradient_and_the_condition_stays():
    seen = output()
    conditions = ImageConditions(Follower(), Picturing(pictures="render"))  # type: ignore[arg-type]
    told = conditions(Condition(("a cube",), "bad"), ring(1, 2), seen)
    assert told.pictures is not None
    assert not told.pictures.requires_grad
    assert torch.equal(told.pictures, seen.rgb)
    assert (told.prompts, told.negative) == (("a cube",), "bad")
