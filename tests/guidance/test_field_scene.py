"""Scenes of two things that are decoded alone: how texts are read, and how fields are placed and rendered."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from threedgen.guidance.priors.field_scene import Placed, Relation, place, relation_of, render_placed
from threedgen.guidance.priors.text_field import DecodedText, FieldArchitecture, TextField
from threedgen.training.things_store import cameras_of

SIZES = FieldArchitecture(width=4, code=2, rank=4, side=4, channels=2, hidden=3, samples=24)


class Balls(TextField):
    """A field whose texts are balls about the origin, with a radius and a colour in place of planes."""

    def shade_all(self, one: DecodedText, points: Tensor) -> tuple[Tensor, Tensor]:
        radius, color = one.scale[0], one.offset
        density = torch.where(points.norm(dim=1) < radius, 60.0, 0.0)
        return color.expand(len(points), -1), density


@pytest.fixture(scope="module")
def field() -> Balls:
    return Balls(SIZES)


def ball(radius: float, color: tuple[float, float, float]) -> DecodedText:
    return DecodedText(torch.zeros(3, 4, 4, 2), torch.tensor([radius]), torch.tensor(color), None)


RED, BLUE = ball(0.5, (1.0, 0.0, 0.0)), ball(0.8, (0.0, 0.0, 1.0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat on a red chair", Relation("a cat", "on", "a red chair")),
        ("a teddy bear sitting on top of the bed", Relation("a teddy bear", "on", "the bed")),
        ("A dog next to an oak tree", Relation("A dog", "beside", "an oak tree")),
        ("a dog and a cat", Relation("a dog", "beside", "a cat")),
        ("a car in front of a house", Relation("a car", "before", "a house")),
        ("a bird on a house beside a tree", Relation("a bird", "on", "a house beside a tree")),
        ("a red and white fire hydrant", None),
        ("a bear on wheels", None),
        ("an armchair", None),
        ("", None),
    ],
)
def test_texts_of_two_things(text: str, expected: Relation | None) -> None:
    assert relation_of(text) == expected


def test_one_thing_is_rendered_as_the_field_renders_it() -> None:
    torch.manual_seed(0)
    field = TextField(SIZES)
    views = cameras_of(torch.tensor([[30.0, 20.0, 2.85], [200.0, -10.0, 2.6]]), 12)
    decoded = field.decode(torch.randn(1, 4))
    row = torch.zeros(2, dtype=torch.long)
    expected = field.render(decoded, views, row)
    torch.testing.assert_close(render_placed(field, [Placed(decoded.each()[0])], views), expected)


def test_a_scaled_and_moved_thing_is_seen_by_a_moved_camera_as_before(field: Balls) -> None:
    """Half the size, seen from half the distance, is the same picture; so is a thing that moves with its camera."""
    views = cameras_of(torch.tensor([[40.0, 10.0, 2.8]]), 32)
    whole = render_placed(field, [Placed(RED)], views)
    pose = views.world_from_camera.clone()
    shift = torch.tensor([0.1, -0.2, 0.15])
    pose[:, :3, 3] = 0.5 * pose[:, :3, 3] + shift
    near = replace(views, world_from_camera=pose)
    x, y, z = shift.tolist()
    moved = render_placed(field, [Placed(RED, 0.5, (x, y, z))], near)
    # The same but at the edges, because the points of a ray are elsewhere.
    assert float((whole[..., 3] - moved[..., 3]).abs().mean()) < 0.01


def test_the_nearer_thing_hides_the_other(field: Balls) -> None:
    """One camera looks along +Z from the front: the red ball is before the blue one."""
    views = cameras_of(torch.tensor([[0.0, 0.0, 2.85], [180.0, 0.0, 2.85]]), 33)
    parts = [Placed(RED, 0.4, (0.0, 0.0, 0.5)), Placed(BLUE, 0.4, (0.0, 0.0, -0.4))]
    front, back = render_placed(field, parts, views)[:, 16 * 33 + 16]
    assert float(front[0]) > 0.95
    assert float(front[2]) < 0.05
    assert float(back[2]) > 0.95
    assert float(back[0]) < 0.05


@pytest.mark.parametrize("sizes", [(2, 2), (0, 5), (4, 1)])
def test_a_ball_stands_on_a_ball_without_a_gap(field: Balls, sizes: tuple[int, int]) -> None:
    upper, lower = place(field, RED, BLUE, "on", sizes)
    distance = math.dist(upper.shift, lower.shift)
    radii = 0.5 * upper.size + 0.8 * lower.size
    # The grid has 48 cells along the two units of the ball, so each surface is known to a cell.
    assert abs(distance - radii) < 0.06
    assert upper.shift[1] > lower.shift[1]
    assert abs(upper.shift[0] - lower.shift[0]) < 0.06
    assert 0.5 * upper.size <= 0.66 * 0.8 * lower.size / 0.8 + 1e-6
    # Together they are centred and fill the ball of all things.
    top, bottom = upper.shift[1] + 0.5 * upper.size, lower.shift[1] - 0.8 * lower.size
    assert abs(top + bottom) < 0.08
    assert 0.8 < max(top, -bottom) < 0.98


def test_things_beside_one_another_stand_on_the_same_ground(field: Balls) -> None:
    first, second = place(field, RED, BLUE, "beside", (2, 2))
    assert abs((first.shift[1] - 0.5 * first.size) - (second.shift[1] - 0.8 * second.size)) < 0.06
    assert first.shift[0] + 0.5 * first.size < second.shift[0] - 0.8 * second.size + 0.02
    before, behind = place(field, RED, BLUE, "before", (2, 2))
    assert before.shift[2] - 0.5 * before.size > behind.shift[2] + 0.8 * behind.size - 0.02


def test_a_thing_of_mist_stays_where_it_is(field: Balls) -> None:
    empty = ball(0.0, (0.0, 0.0, 0.0))
    assert place(field, empty, BLUE, "on", (1, 1)) == [Placed(empty), Placed(BLUE)]
