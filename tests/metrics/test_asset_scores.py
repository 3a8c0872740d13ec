"""Scores of assets in the shape world, of objects whose scores are known."""

import pytest
import torch

from threedgen.cameras.orbit import orbit, spherical
from threedgen.datasets import world
from threedgen.metrics import shape_world
from threedgen.metrics.shape_world import score_asset


def turned(scene, degrees):
    """A render function of the scene, turned around +Y."""

    def render(cameras):
        azimuth, elevation, radius = spherical(cameras)
        return world.render(
            scene, orbit(azimuth - degrees, elevation, radius, 40.0, cameras.height, cameras.width)
        )

    return render


@pytest.fixture(autouse=True)
def _fewer_members(monkeypatch):
    monkeypatch.setattr(shape_world, "MEMBERS", 4)
    monkeypatch.setattr(shape_world, "TURNS", 24)


def test_a_true_object_scores_perfectly_at_any_yaw():
    scores = score_asset(turned(world.canonical("chair", "blue"), 45.0), "chair", "blue")
    assert scores.iou == pytest.approx(1.0, abs=0.01)
    assert scores.psnr > 30.0
    assert scores.ssim > 0.98
    assert scores.retrieved == 1.0
    assert abs(scores.yaw) == pytest.approx(45.0)
    assert scores.janus is False


def test_the_wrong_object_is_not_retrieved():
    scores = score_asset(turned(world.canonical("table", "blue"), 0.0), "chair", "blue")
    assert scores.retrieved == 0.0
    assert scores.iou < 0.8


def test_a_car_with_two_fronts_is_a_janus_failure():
    front = turned(world.canonical("car", "red"), 0.0)
    back = turned(world.canonical("car", "red"), 180.0)

    def two_fronts(cameras):
        azimuth, _, _ = spherical(cameras)
        behind = (azimuth.abs() > 90.0).reshape(-1, 1, 1, 1)
        (rgb, alpha), (other_rgb, other_alpha) = front(cameras), back(cameras)
        return torch.where(behind, other_rgb, rgb), torch.where(behind, other_alpha, alpha)

    assert score_asset(two_fronts, "car", "red").janus is True
    assert score_asset(front, "car", "red").janus is False


def test_classes_without_a_front_have_no_janus_score():
    assert score_asset(turned(world.canonical("cube", "red"), 0.0), "cube", "red").janus is None
