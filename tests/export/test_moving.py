"""Moving assets in every format: chosen by suffix, with their times, loop flag and camera."""

from __future__ import annotations

import json
from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from movements import RisingBall, rising_ball
from PIL import Image
from test_animation import arrays

from threedgen.core.errors import UserError
from threedgen.core.types import GaussianCloud, TriMesh
from threedgen.datasets.splat_files import read_splats
from threedgen.export.animation import Config, film
from threedgen.export.gltf import read_glb
from threedgen.export.moving import MovingAsset
from threedgen.export.names import holds_motion
from threedgen.export.splat_settings import SplatConfig
from threedgen.renderers.splatting import SplattingRenderer


def test_a_glb_has_the_frames_the_times_and_the_loop_flag(tmp_path):
    for loop in (True, False):
        asset = rising_ball(loop=loop)
        asset.write(tmp_path / "a.glb")
        document, numbers = arrays(tmp_path / "a.glb")
        (clip,) = document["animations"]
        assert clip["extras"] == {"loop": loop}
        np.testing.assert_allclose(numbers[clip["samplers"][0]["input"]][:, 0], np.arange(7) / 6.0, atol=1e-6)
        mesh, motion = asset.surface
        back, extras = read_glb(tmp_path / "a.glb")
        assert extras == {"prompt": "a ball rising"}
        assert torch.equal(back.vertices, motion.vertices[0])
        targets = document["meshes"][0]["primitives"][0]["targets"]
        for frame in range(1, 7):
            there = mesh.vertices.numpy() + numbers[targets[frame - 1]["POSITION"]]
            np.testing.assert_allclose(there, motion.vertices[frame].numpy(), atol=1e-6)
        bottom = motion.vertices[:, motion.vertices[0, :, 1].abs() < 0.05, 1].mean(1)
        torch.testing.assert_close(bottom - bottom[0], torch.arange(7) / 6.0, atol=0.02, rtol=0)


def test_a_scene_that_makes_its_own_mesh_is_written_with_that_mesh():
    asset = rising_ball()

    class Composed(RisingBall):
        def surface(self, mesh, moved, timing):
            assert moved.shape == (7, len(self.means), 3)
            assert (mesh, timing) == (asset.mesh, asset.config)
            return asset.surface

    scene = MovingAsset(Composed(), asset.config, asset.mesh, asset.renderer)
    assert scene.surface[1] is asset.surface[1]


def test_a_motion_that_does_not_begin_at_rest_does_not_in_the_file(tmp_path):
    class Away(RisingBall):
        def moved(self, times):
            return super().moved(0.5 + 0.5 * times)

    asset = rising_ball()
    away = MovingAsset(Away(), asset.config, asset.mesh, asset.renderer)
    mesh, motion = away.surface
    assert torch.equal(mesh.vertices, motion.vertices[0])
    assert float(mesh.vertices[:, 1].mean() - asset.surface[0].vertices[:, 1].mean()) > 0.45


@pytest.mark.parametrize(("loop", "frames"), [(True, 6), (False, 7)])
@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_films_of_loops_leave_out_the_last_frame(tmp_path, suffix, loop, frames):
    path = tmp_path / f"a{suffix}"
    rising_ball(loop=loop).write(path)
    if suffix == ".mp4":
        read = iio.imread(path, plugin="FFMPEG")
        assert read.shape == (frames, 34, 34, 3)  # H.264 wants even sizes: 33 gets a row and a column
        return
    with Image.open(path) as picture:
        assert getattr(picture, "n_frames", 1) == frames
        once = {".gif": None, ".webp": 1}[suffix]
        assert picture.info.get("loop") == (0 if loop else once)


def test_a_folder_name_means_pictures(tmp_path):
    rising_ball().write(tmp_path / "pictures")
    assert len(list((tmp_path / "pictures").glob("frame_*.png"))) == 6


def test_a_turning_camera_sees_what_fixed_cameras_see():
    scene, renderer = RisingBall(), SplattingRenderer()
    scene.cloud = two_colored(scene.cloud)
    turning = list(film(renderer, scene, Config(1.0, 4.0, azimuth=10.0, turn=360.0), 24))
    for number, frame in enumerate(turning):
        fixed = list(film(renderer, scene, Config(1.0, 4.0, azimuth=10.0 + 90.0 * number), 24))
        np.testing.assert_array_equal(frame, fixed[number])
    still = list(film(renderer, scene, Config(1.0, 4.0, azimuth=10.0), 24))
    assert np.abs(turning[2].astype(int) - still[2]).max() > 60


def two_colored(cloud: GaussianCloud) -> GaussianCloud:
    """Dark on the right and bright on the left."""
    sh = torch.where(cloud.means[:, :1, None] > 0.0, -1.5, 1.0).expand(-1, -1, 3)
    return GaussianCloud(cloud.means, cloud.quats, cloud.scales, cloud.opacities, sh.contiguous())


def test_a_sequence_has_the_same_gaussians_in_every_file(tmp_path):
    asset = rising_ball(loop=False)
    asset.write(tmp_path / "frames" / "*.ply")
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == ["animation.json", *(f"frame_{number:05d}.ply" for number in range(7))]
    for name, moment in zip(names[1:], asset.config.moments().split(1), strict=True):
        read = read_splats(tmp_path / "frames" / name)
        assert torch.equal(read.means, asset.scene.moved(moment)[0])
        assert torch.equal(read.sh, asset.scene.cloud.sh)
    index = json.loads((tmp_path / "frames" / "animation.json").read_text())
    assert index == {
        **{"pattern": "frame_%05d.ply", "frames": 7, "fps": 6.0, "seconds": 1.0, "loop": False},
        **{"up_axis": "-Y", "meters_per_unit": 1.0, "note": {"prompt": "a ball rising"}},
    }


def test_a_shorter_sequence_does_not_mix_with_a_longer_one(tmp_path):
    rising_ball().write(tmp_path / "*.ply")
    rising_ball().write(tmp_path / "*.ply")
    with pytest.raises(UserError, match=r"holds frame_00004\.ply of a longer sequence: delete its frames"):
        rising_ball(fps=3.0).write(tmp_path / "*.ply")
    assert len(list(tmp_path.glob("*.ply"))) == 7


def test_a_sequence_that_fails_leaves_the_earlier_one(tmp_path):
    rising_ball().write(tmp_path / "*.ply")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken = rising_ball()
    broken.scene.means = broken.scene.means * torch.tensor(float("nan"))
    for folder, left in ((tmp_path, before), (tmp_path / "new", None)):
        with pytest.raises(UserError, match="not finite"):
            broken.write(folder / "*.ply")
        assert left is None or {path.name: path.read_bytes() for path in folder.iterdir()} == left
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("frames/f_*.ply", r"write a sequence of splats as DIR/\*\.ply"),
        ("a.avi", r"use one of \.mp4, \.gif, \.webp"),
    ],
)
def test_names_of_no_format_are_refused(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        rising_ball().write(tmp_path / name)


def test_which_names_hold_a_motion(tmp_path):
    for name in ("a.GLB", "a.mp4", "a.webp", "a.usdz", "a.usda", "player.html", "d/*.ply", "pictures"):
        assert holds_motion(tmp_path / name), name
    for name in ("a.ply", "a.obj", "a.avi", "a.splats.glb", "a.compressed.ply"):
        assert not holds_motion(tmp_path / name), name


def test_the_distance_of_a_motion():
    assert rising_ball().distance == pytest.approx(float(1.0 + (ball_heights() ** 2).mean()), rel=1e-5)


def ball_heights() -> torch.Tensor:
    return RisingBall().means[:, 1]


def test_two_seconds_of_five_thousand_vertices_are_below_ten_megabytes(tmp_path):
    torus = torch.stack(torch.meshgrid(torch.arange(100.0), torch.arange(50.0), indexing="ij"), -1)
    u, v = (2.0 * torch.pi * torus / torch.tensor([100.0, 50.0])).reshape(-1, 2).T
    points = torch.stack([(1 + 0.3 * v.cos()) * u.cos(), 0.3 * v.sin(), (1 + 0.3 * v.cos()) * u.sin()], 1)
    corner = torch.arange(5000).reshape(100, 50)
    beside, above = corner.roll(-1, 0), corner.roll(-1, 1)
    across = beside.roll(-1, 1)
    faces = torch.cat(
        [torch.stack([corner, above, across], -1), torch.stack([corner, across, beside], -1)]
    ).reshape(-1, 3)

    class Torus:
        means = points

        def moved(self, times):
            return points + times[:, None, None] * points.flip(1)

        def at(self, time=None):
            return TriMesh(points, faces, vertex_colors=0.5 * points.clamp(0.0, 1.0))

    asset = rising_ball(seconds=2.0, fps=24.0)
    asset = MovingAsset(Torus(), asset.config, asset.mesh, asset.renderer)
    assert asset.surface[1].vertices.shape == (49, 5000, 3)
    for name in ("anim.glb", "player.html"):
        asset.write(tmp_path / name)
        assert 1e6 < (tmp_path / name).stat().st_size <= 10e6


def test_a_sequence_is_written_as_its_settings_say(tmp_path):
    asset = replace(rising_ball(), splats=SplatConfig(up="z", degree=1))
    asset.write(tmp_path / "*.ply")
    assert json.loads((tmp_path / "animation.json").read_text())["up_axis"] == "Z"
    assert b"comment up: z\n" in (tmp_path / "frame_00000.ply").read_bytes()
    read = read_splats(tmp_path / "frame_00000.ply")
    torch.testing.assert_close(read.means, asset.scene.moved(asset.config.moments()[:1])[0])
    assert read.sh.shape[1] == 4
