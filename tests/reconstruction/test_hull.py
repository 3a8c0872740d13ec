"""The visual hull: where the outlines of all views allow an object to be."""

import torch

from threedgen.cameras.orbit import orbit
from threedgen.reconstruction.hull import DEPTH, SAMPLES, foreground, visual_hull


def _cameras(views, size=64):
    one = torch.ones(views)
    return orbit(360.0 / views * torch.arange(views), 0.0 * one, 2.85 * one, 40.0, size, size)


def _discs(views, radius=0.5, size=64):
    """What level cameras see of a ball of `radius` around the origin: black discs on white."""
    at = torch.arange(size) + 0.5 - size / 2
    focal = 0.5 * size / torch.tan(torch.deg2rad(torch.tensor(20.0)))
    y, x = torch.meshgrid(at / focal, at / focal, indexing="ij")
    cosine = (1.0 + x * x + y * y).rsqrt()
    inside = 2.85 * (1.0 - cosine**2).sqrt() < radius
    return torch.where(inside, -1.0, 1.0)[None, None, None].expand(1, views, 3, -1, -1)


def test_the_hull_of_a_ball_encloses_it_and_narrows_with_more_views():
    """Along the axis of a view the hull begins before the ball and ends behind it, by less the more views there
    are: of infinitely many it is the ball, on the level of the cameras."""
    step = 2.0 * DEPTH / SAMPLES
    thickness = []
    for views in (2, 4, 12):
        hull = visual_hull(_discs(views), _cameras(views), 32)
        enters, leaves, hit = hull[0, 0, :, 16, 16]
        assert float(hit) == 1.0
        assert float(enters) * DEPTH <= -0.5 + step
        assert float(leaves) * DEPTH >= 0.5 - step
        thickness.append(float(leaves - enters) * DEPTH)
        assert float(hull[0, 0, :, 0, 0].abs().max()) == 0.0  # a ray that misses it
    assert thickness[0] > thickness[1] + step
    assert thickness[2] <= thickness[1]
    assert abs(thickness[2] - 1.0) < 2.5 * step


def test_one_view_says_nothing_of_depth():
    hull = visual_hull(_discs(1), _cameras(1), 32)[0, 0]
    assert hull[:, 16, 16].tolist() == [-1.0, 1.0, 1.0]  # all that is in the picture


def test_objects_of_a_batch_have_their_own_hulls():
    small, large = _discs(4, 0.3), _discs(4, 0.6)
    cameras = _cameras(4)
    both = visual_hull(torch.cat([small, large]), cameras[torch.arange(4).repeat(2)], 32)
    torch.testing.assert_close(both[0], visual_hull(small, cameras, 32)[0])
    torch.testing.assert_close(both[1], visual_hull(large, cameras, 32)[0])


def test_views_that_contradict_each_other_leave_no_hull():
    pictures = _discs(4).clone()
    pictures[0, 1] = 1.0  # nothing at all
    assert float(visual_hull(pictures, _cameras(4), 32).abs().max()) == 0.0


def test_white_that_is_enclosed_belongs_to_the_object():
    picture = torch.ones(1, 3, 16, 16)
    picture[:, :, 4:12, 4:12] = 0.0
    picture[:, :, 6:9, 6:9] = 1.0
    seen = foreground(picture)[0]
    assert int(seen.sum()) == 64
    picture[:, :, 6:9, 6:12] = 1.0  # now it is open to the side
    assert int(foreground(picture).sum()) == 64 - 18
