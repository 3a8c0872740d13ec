"""The compiled pictures of radiance fields: those of the torch code, whatever the field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch_threads import torch_threads

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras
from threedgen.guidance.priors import field_scene, radiance_field
from threedgen.guidance.priors.field_scene import Placed, render_placed
from threedgen.guidance.priors.picture_field import PictureArchitecture, PictureField, seen_from
from threedgen.guidance.priors.radiance_field import RadianceField, chords
from threedgen.guidance.priors.text_field import FieldArchitecture, TextField
from threedgen.kernels import why_absent
from threedgen.kernels.field_rendering import FieldPart, can_render, render_fields

pytestmark = pytest.mark.skipif(why_absent() is not None, reason=f"no native kernels: {why_absent()}")
_BEHIND = 1.1e-4  # of a picture: what the kernel leaves out behind an opacity of 0.9999

AnyField = TypeVar("AnyField", bound=RadianceField)


def cameras(count: int, size: int = 12) -> Cameras:
    full = torch.ones(count)
    return orbit(torch.arange(count) * 70.0, 20.0 * full, 2.85 * full, 40.0, size, size)


def with_random_weights(field: AnyField, spread: float) -> AnyField:
    torch.manual_seed(0)
    for weights in field.parameters():
        torch.nn.init.normal_(weights, std=spread)
    return field.requires_grad_(False)


def text_field(hidden: int = 32, samples: int = 16) -> TextField:
    sizes = FieldArchitecture(width=5, code=2, rank=4, side=3, channels=2, hidden=hidden, samples=samples)
    return with_random_weights(TextField(sizes), 0.7)


def picture_field(hidden: int) -> PictureField:
    small = {"fine": 16, "middle": 16, "coarse": 16, "seen": 16, "rank": 16, "side": 6}
    sizes = PictureArchitecture(**small, channels=2, features=4, hidden=hidden, samples=8)
    torch.manual_seed(0)
    field = PictureField(sizes).requires_grad_(False)
    torch.nn.init.normal_(field.outer.weight, std=2.0)
    return field


@torch.no_grad()
def compare(render: Callable[[], Tensor]) -> None:
    """The pictures of the kernel against those of torch, which must show something and not everything."""
    fast = render()
    with (
        patch.object(radiance_field, "can_render", lambda _: False),
        patch.object(field_scene, "can_render", lambda _: False),
    ):
        slow = render()
    assert 0.01 < float(slow[..., 3].mean()) < 0.99
    assert float(slow[..., :3].std()) > 0.01
    torch.testing.assert_close(fast, slow, rtol=0.0, atol=_BEHIND)


@pytest.mark.parametrize(("hidden", "samples"), [(32, 16), (64, 5), (3, 7), (45, 2)])
@pytest.mark.parametrize("known", [False, True])
def test_fields_of_texts(hidden: int, samples: int, known: bool) -> None:
    field = text_field(hidden, samples)
    decoded = field.decode(torch.randn(2, 5))
    decoded = field.with_occupancy(decoded) if known else decoded
    compare(lambda: field.render(decoded, cameras(3), torch.tensor([1, 0, 1])))


@pytest.mark.parametrize("hidden", [8, 64])
def test_fields_of_pictures(hidden: int) -> None:
    field = picture_field(hidden)
    decoded = field.decode(torch.rand(2, 3, 64, 64) * 2.0 - 1.0, torch.tensor([[10.0, 2.85], [25.0, 2.7]]))
    owner = torch.tensor([1, 0, 1])
    compare(lambda: field.render(decoded, seen_from(decoded, cameras(3), owner), owner))


def test_fields_that_overlap() -> None:
    field = text_field()
    first, second = field.with_occupancy(field.decode(torch.randn(2, 5))).each()
    parts = [Placed(first, 0.5, (0.2, 0.1, -0.1)), Placed(second, 0.7, (-0.2, 0.0, 0.1))]
    compare(lambda: render_placed(field, parts, cameras(2)))


def test_chosen_pixels_and_rays_that_miss_the_ball() -> None:
    field = text_field()
    decoded, pixels = field.decode(torch.randn(1, 5)), torch.tensor([[0, 65, 66, 143]])
    compare(lambda: field.render(decoded, cameras(1), pixels=pixels))
    nearest = torch.tensor([[0.0, 2.0, 0.0]])
    part = field.part(decoded.each()[0])
    missed = render_fields([part], nearest, torch.tensor([[1.0, 0.0, 0.0]]), torch.zeros(1), 4)
    assert missed.tolist() == [[0.0] * 4]
    assert render_fields([], nearest, nearest, torch.ones(1), 4).tolist() == [[0.0] * 4]


def some_part() -> tuple[FieldPart, tuple[Tensor, Tensor, Tensor]]:
    field = text_field()
    with torch.no_grad():
        return field.part(field.with_occupancy(field.decode(torch.randn(1, 5))).each()[0]), chords(
            cameras(2, 32), None
        )


def test_the_number_of_threads_does_not_matter() -> None:
    part, rays = some_part()
    pictures = []
    for threads in (1, 3):
        with torch_threads(threads):
            pictures.append(render_fields([part], *rays, 16))
    assert torch.equal(*pictures)


def test_what_the_kernel_does_not_take() -> None:
    part, rays = some_part()
    layers = part.layers
    for wrong in (
        replace(part, layers=replace(layers, outer=layers.outer[:, 1:])),
        replace(part, layers=replace(layers, planes=layers.planes[..., 1:])),
        replace(part, layers=replace(layers, planes=layers.planes[:2])),
        replace(part, occupied=torch.ones(4, 4, 3, dtype=torch.bool)),
    ):
        with pytest.raises(ValueError, match="render_fields"):
            render_fields([wrong], *rays, 16)
    with pytest.raises(ValueError, match="rays"):
        render_fields([part], rays[0][:1], *rays[1:], 16)
    with torch.no_grad():
        assert can_render(layers.outer)
        assert not can_render(layers.outer.double())
        assert not can_render(torch.zeros(4, 500))
    assert not can_render(layers.outer)
