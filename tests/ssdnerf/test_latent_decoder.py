"""The decoder: activated codes, the places of texels, and the ranges of colours and densities."""

import math

import pytest
import torch

from threedgen.cameras.orbit import orbit
from threedgen.core.random import generator
from threedgen.renderers.volume import VolumeRenderer
from threedgen.ssdnerf.config import Codes, Decoder, Rendering
from threedgen.ssdnerf.decoder import TriplaneDecoder, activate, as_pictures, deactivate, truncated_exp
from threedgen.ssdnerf.occupancy import ObjectGrids

CODES, RENDERING = Codes(channels=2, resolution=8), Rendering(samples=32, cells=8, threshold=0.5, extent=1.5)


def decoder(directions: bool = True, seed: int = 0) -> TriplaneDecoder:
    torch.manual_seed(seed)
    return TriplaneDecoder(CODES, Decoder(hidden=8, directions=directions), RENDERING)


def some_code(tag: int = 0) -> torch.Tensor:
    return torch.randn(3, 2, 8, 8, generator=generator(0, "code", tag))


def some_points(count: int = 50, extent: float = 1.5) -> torch.Tensor:
    return extent * (2.0 * torch.rand(count, 3, generator=generator(0, "points", 0)) - 1.0)


def test_activated_parameters_come_back_and_stay_inside():
    parameters = torch.linspace(-3.0, 3.0, 25)
    codes = activate(parameters)
    torch.testing.assert_close(codes, 2.0 * torch.tanh(parameters))
    torch.testing.assert_close(deactivate(codes), parameters, rtol=1e-4, atol=1e-4)
    outside = deactivate(torch.tensor([-2.0, 2.0, 7.0, -7.0]))
    assert bool(outside.isfinite().all())
    torch.testing.assert_close(activate(outside).abs(), torch.full((4,), 2.0), rtol=1e-3, atol=0)


def test_the_diffusion_sees_the_planes_channels_side_by_side():
    code = some_code()
    assert torch.equal(as_pictures(code[None])[0], torch.cat(list(code)))


def test_colours_reach_a_little_past_black_and_white_and_densities_are_positive():
    net = decoder()
    field = net.field(40.0 * some_code())
    points = some_points()
    with torch.no_grad():
        density, color = field.query(points, torch.nn.functional.normalize(points, dim=1))
    assert float(density.min()) > 0.0
    assert float(color.min()) == pytest.approx(-1e-3, abs=2e-4)
    assert float(color.max()) == pytest.approx(1.0 + 1e-3, abs=2e-4)


def test_the_directions_of_views_change_colours_only_and_only_where_they_are_asked_for():
    points, code = some_points(), some_code()
    ahead, aside = (
        torch.tensor([[0.0, 0.0, 1.0]]).expand(50, 3),
        torch.tensor([[1.0, 0.0, 0.0]]).expand(50, 3),
    )
    for directions in (True, False):
        field = decoder(directions).field(code)
        (density, color), (again, other) = field.query(points, ahead), field.query(points, aside)
        assert torch.equal(density, again)
        assert torch.equal(color, other) is not directions


def test_a_code_fills_the_box_it_is_reported_to():
    """An object of twice the size has the same code in a larger box."""
    small, large = decoder(), decoder()
    small.extent, large.extent = 1.0, 2.0
    code, points = some_code(), some_points(extent=1.0)
    assert torch.equal(small.field(code).bounds, torch.tensor([[-1.0] * 3, [1.0] * 3]))
    near, far = small.field(code).query(points, points), large.field(code).query(2.0 * points, points)
    torch.testing.assert_close(near, far)


@torch.no_grad()
def test_each_plane_is_seen_along_its_own_axis():
    """A bump in the middle of one plane is constant along the axis that the plane does not have."""
    net, axes = decoder(), set()
    line = torch.linspace(-1.4, 1.4, 9)
    for plane in range(3):
        code = torch.zeros(3, 2, 8, 8)
        code[plane, :, 3:5, 3:5] = 2.0
        spread = []
        for axis in range(3):
            points = torch.zeros(9, 3)
            points[:, axis] = line
            density, _ = net.field(code).query(points, points)
            spread.append(float(density.max() - density.min()))
        axes.add(spread.index(min(spread)))
        assert min(spread) < 1e-6 < 1e-3 < sorted(spread)[1]
    assert axes == {0, 1, 2}


def test_a_density_that_went_too_far_can_come_back():
    values = torch.tensor([-40.0, -1.0, 0.0, 3.0, 30.0], requires_grad=True)
    result = truncated_exp(values)
    torch.testing.assert_close(result[1:4], values[1:4].exp())
    assert float(result[4]) == pytest.approx(math.exp(15.0))
    (gradient,) = torch.autograd.grad(result.sum(), values)
    torch.testing.assert_close(gradient[1:4], result[1:4].detach())
    assert float(gradient[4]) == pytest.approx(math.exp(15.0))
    assert float(gradient[0]) == pytest.approx(math.exp(-15.0))


def test_gradients_of_pictures_reach_code_and_decoder():
    net, code = decoder(), some_code().requires_grad_()
    cameras = orbit(torch.tensor([30.0]), torch.tensor([20.0]), torch.tensor([4.0]), 40.0, 8, 8)
    VolumeRenderer(VolumeRenderer.Config(samples=16))(
        net.field(code), cameras, torch.ones(3)
    ).rgb.sum().backward()
    assert code.grad is not None
    assert all(float(code.grad[plane].abs().sum()) > 0.0 for plane in range(3))
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0.0 for p in net.parameters())


def test_an_untrained_decoder_is_thin_fog_that_is_not_taken_for_nothing():
    net, code = decoder(), 1e-4 * some_code()
    density, _ = net.field(code).query(some_points(), some_points())
    assert float(density.min()) > RENDERING.threshold
    grids = ObjectGrids(RENDERING, "cpu")
    seen = grids.update(net, code, torch.zeros(8, 8, 8), 0, "look", 0)
    assert bool(grids.occupied(seen).all())


def test_an_object_that_is_thin_everywhere_is_not_taken_for_nothing():
    """Otherwise no ray would visit it, and nothing could make it denser."""
    grids = ObjectGrids(RENDERING, "cpu")
    thin = torch.full((8, 8, 8), 0.1 * RENDERING.threshold)
    assert bool(grids.occupied(thin).all())
    thin[:4] = 0.0
    assert not bool(grids.occupied(thin)[:3].any())
    dense = torch.full((8, 8, 8), 0.9 * RENDERING.threshold)
    dense[7] = 100.0  # the mean is above the threshold, which then decides
    assert not bool(grids.occupied(dense)[:6].any())


def test_every_object_has_an_emptiness_of_its_own():
    """One grid serves all objects, but the densities of one object are not overwritten by the next."""
    net, grids = decoder(), ObjectGrids(RENDERING, "cpu")
    before = torch.zeros(8, 8, 8)
    codes = [2.0 * some_code(tag) for tag in range(3)]
    alone = [ObjectGrids(RENDERING, "cpu").update(net, code, before, 0, "look", 0) for code in codes]
    together = [grids.update(net, code, before, 0, "look", 0) for code in codes]
    for left, right in zip(alone, together, strict=True):
        assert torch.equal(left, right)
    assert not torch.equal(together[0], together[1])


def test_emptiness_is_a_running_maximum_of_densities():
    net, grids, code = decoder(), ObjectGrids(RENDERING, "cpu"), some_code()
    first = grids.update(net, code, torch.zeros(8, 8, 8), 0, "look", 0)
    kept = grids.update(net, code, 100.0 * torch.ones(8, 8, 8), 0, "look", 0)
    torch.testing.assert_close(kept, torch.full((8, 8, 8), 90.0))
    assert torch.equal(grids.update(net, code, first, 0, "look", 0), first)
    nothing = torch.zeros(8, 8, 8)
    nothing[4, 4, 4] = 1.0
    occupied = grids.occupied(nothing)
    assert int(occupied.sum()) == 27  # the cell and its neighbours
    assert bool(occupied[3:6, 3:6, 3:6].all())
