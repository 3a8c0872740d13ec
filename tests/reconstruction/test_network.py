"""The reconstructor: where its Gaussians are, what they depend on, its training and its folder."""

import math
from dataclasses import replace

import pytest
import torch

from threedgen.cameras.orbit import orbit
from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.reconstruction.config import ReconstructorTrainingConfig
from threedgen.reconstruction.hull import DEPTH, visual_hull
from threedgen.reconstruction.network import GivenViews, Reconstructor, ReconstructorArchitecture
from threedgen.reconstruction.rays import pixel_rays, pluecker
from threedgen.reconstruction.store import load_reconstructor, save_reconstructor
from threedgen.reconstruction.trainer import ReconstructorTrainer
from threedgen.training.config import SceneBankConfig
from threedgen.training.ring_bank import RingBank

TINY = ReconstructorArchitecture(size=16, channels=(8, 16), attention=(False, True), heads=8)


def _ring(views=4, size=16):
    one = torch.ones(views)
    return orbit(360.0 / views * torch.arange(views), 10.0 * one, 2.85 * one, 40.0, size, size)


def _given(views=4, count=1, seed=0):
    draw = torch.Generator().manual_seed(seed)
    pictures = torch.rand(count, views, 3, 16, 16, generator=draw) * 2.0 - 1.0
    cameras = _ring(views)[torch.arange(views).repeat(count)]
    return GivenViews(pictures, pictures, torch.zeros(count, dtype=torch.long), cameras)


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = Reconstructor(TINY)
    draw = torch.Generator().manual_seed(1)
    for value in made.parameters():
        value.data += 0.05 * torch.randn(value.shape, generator=draw)
    return made.eval()


def test_gaussians_begin_at_the_pixels_that_made_them():
    """A new network puts each Gaussian on the ray of its pixel, where it enters the hull, in its colour."""
    given = _given()
    cloud = Reconstructor(TINY)(given)[0]
    assert len(cloud) == 4 * 16 * 16
    for view in range(4):
        means = cloud.means[view * 256 : (view + 1) * 256]
        camera = given.cameras[view : view + 1]
        pose = camera.world_from_camera[0]
        local = (means - pose[:3, 3]) @ pose[:3, :3]
        seen = local @ camera.intrinsics[0].T
        at = torch.arange(16) + 0.5
        y, x = torch.meshgrid(at, at, indexing="ij")
        torch.testing.assert_close(seen[:, 0] / seen[:, 2], x.flatten(), atol=1e-3, rtol=0)
        torch.testing.assert_close(seen[:, 1] / seen[:, 2], y.flatten(), atol=1e-3, rtol=0)
        hull = visual_hull(given.estimates, given.cameras, 8)[0, view, 0].clamp_min(-0.9)
        enters = hull.repeat_interleave(2, 0).repeat_interleave(2, 1).flatten()
        torch.testing.assert_close(local[:, 2], 2.85 + DEPTH * enters, atol=1e-3, rtol=0)
    colors = 0.5 + 0.28209479 * cloud.sh[:, 0]
    own = (given.estimates[0].permute(0, 2, 3, 1).reshape(-1, 3) + 1.0) / 2.0
    torch.testing.assert_close(colors, own, atol=1e-5, rtol=0)


def test_pluecker_coordinates_are_those_of_the_lines():
    cameras = _ring()
    rays = pluecker(cameras, 16).flatten(2).transpose(1, 2)
    origins, directions, _ = pixel_rays(cameras, 16)
    torch.testing.assert_close(rays[..., :3].norm(dim=2), torch.ones(4, 256))
    along = origins[:, None] + 1.7 * directions  # any other point of the line has the same moment
    torch.testing.assert_close(
        torch.linalg.cross(along, rays[..., :3], dim=2), rays[..., 3:], atol=1e-5, rtol=0
    )


def test_the_order_of_the_views_does_not_matter(model):
    given = _given()
    order = torch.tensor([2, 0, 3, 1])
    other = replace(
        given, estimates=given.estimates[:, order], noisy=given.noisy[:, order], cameras=given.cameras[order]
    )
    first, second = model(given)[0], model(other)[0]
    assert len(first) == len(second) == 4 * 256
    for name in ("means", "scales", "opacities", "sh"):
        values = getattr(first, name).unflatten(0, (4, 256))[order].flatten(0, 1)
        torch.testing.assert_close(values, getattr(second, name), atol=1e-4, rtol=1e-4)


def test_every_gaussian_depends_on_all_views_and_on_no_other_object(model):
    given = _given(count=2)
    first = model(given)
    changed = given.estimates.clone()
    changed[0, 1] = -changed[0, 1]
    second = model(replace(given, estimates=changed, noisy=changed))
    assert not torch.equal(first[0].means[:256], second[0].means[:256])  # of the view that did not change
    torch.testing.assert_close(first[1].means, second[1].means, atol=1e-6, rtol=0)


def test_the_picture_is_a_further_view_whose_camera_may_be_unknown(model):
    given = _given()
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(4)) * 2.0 - 1.0
    told = replace(given, picture=picture, picture_cameras=_ring(1), known=torch.ones(1))
    plain, with_it = model(given)[0], model(told)[0]
    assert len(with_it) <= len(given.cameras) * 256  # it makes no Gaussians of its own
    assert not torch.equal(plain.means[:8], with_it.means[:8])
    unknown = replace(told, known=torch.zeros(1))
    elsewhere = replace(unknown, picture_cameras=_ring(3)[1:2])
    assert torch.equal(model(unknown)[0].means, model(elsewhere)[0].means)
    assert not torch.equal(model(told)[0].means, model(unknown)[0].means)


def test_the_noise_level_and_the_noisy_views_are_seen(model):
    given = _given()
    later = replace(given, timesteps=torch.tensor([700]))
    noisy = replace(later, noisy=-given.noisy)
    means = [model(one)[0].means[:50] for one in (given, later, noisy)]
    assert not torch.equal(means[0], means[1])
    assert not torch.equal(means[1], means[2])


def test_one_object_is_learned(tmp_path):
    """From 30 steps on one scene the error falls to less than half."""
    bank = RingBank(SceneBankConfig(object_scenes=0, class_scenes=0, assemblies=1, shapes=0), 16, 0)
    config = ReconstructorTrainingConfig(
        steps=30, batch=2, warmup=1, decay=0.3, learning_rate=5e-3, precision="fp32", noisy_share=0.0
    )
    trainer = ReconstructorTrainer(config, 16, tmp_path)
    losses = [trainer.train_step(trainer.next_batch(bank)) for _ in range(30)]
    assert all(map(math.isfinite, losses))
    assert sum(losses[-6:]) < 0.5 * sum(losses[:6])


def test_a_folder_keeps_the_model_and_a_damaged_one_is_named(tmp_path, model):
    save_reconstructor(model, tmp_path, {"steps": 3})
    again = load_reconstructor(tmp_path)
    given = _given()
    torch.testing.assert_close(again(given)[0].means, model(given)[0].means, atol=5e-3, rtol=0)
    (tmp_path / "reconstructor.json").write_text("{}")
    with pytest.raises(UserError, match="is not a reconstructor model"):
        load_reconstructor(tmp_path)
    with pytest.raises(UserError, match=r"holds no reconstructor\.json"):
        load_reconstructor(tmp_path / "none")


def test_the_command_trains_and_continues(tmp_path, monkeypatch):
    monkeypatch.setattr("threedgen.datasets.things.thing_set.INSTALLED", str(tmp_path / "none"))
    options = [
        "--assemblies",
        "2",
        "--shapes",
        "1",
        "--class-scenes",
        "0",
        "--object-scenes",
        "0",
        "--size",
        "16",
    ]
    command = ["train", "reconstructor", "--out", str(tmp_path / "run"), "--batch", "1", "--warmup", "1"]
    assert main([*command, *options, "--steps", "1"]) == 0
    assert main([*command, *options, "--steps", "2"]) == 0
    lines = (tmp_path / "run" / "errors.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert load_reconstructor(tmp_path / "run" / "model").size == 16
    assert main([*command, *options, "--size", "20"]) == 2
