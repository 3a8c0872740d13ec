"""COLMAP models: their cameras, lenses, points and masks, and the world that they are in."""

from __future__ import annotations

import builtins
import shutil
from typing import Any

import pytest
import torch
from captures import gauge, moved_poses, red_car, write_colmap

from threedgen.core.errors import UserError
from threedgen.datasets.colmap import open_colmap
from threedgen.datasets.gauge import centred
from threedgen.datasets.given import read_pictures
from threedgen.datasets.multiview import PosedPictures

pytest.importorskip("pycolmap")
COUNT, SIZE = 12, 32


@pytest.fixture(scope="module")
def exact() -> PosedPictures:
    return red_car(COUNT, SIZE)


def between(poses):
    """What no gauge changes: distances of cameras from each other as shares of the largest, and their turns."""
    centers = poses[:, :3, 3].double()
    distance = torch.cdist(centers, centers)
    turns = poses[:, None, :3, :3].double().transpose(2, 3) @ poses[:, :3, :3].double()
    return distance / distance.max(), turns


@pytest.mark.parametrize("text", [False, True])
def test_a_model_in_any_gauge_is_read_upright(text, exact, tmp_path):
    matrix = gauge(1)
    points = torch.tensor([[0.0, 0.5, 0.0], [0.1, 0.2, -0.3]])
    in_capture = points.double() @ matrix[:3, :3].T + matrix[:3, 3]
    write_colmap(tmp_path, exact, moved_poses(exact, matrix), points=in_capture, text=text, masks=True)
    found = read_pictures(tmp_path)
    assert found.names == tuple(f"shot{index}.png" for index in range(COUNT)), "shot2 comes before shot10"
    for mine, true in zip(
        between(found.cameras.world_from_camera), between(exact.cameras.world_from_camera), strict=True
    ):
        torch.testing.assert_close(mine, true, atol=1e-4, rtol=0)
    upward = -found.cameras.world_from_camera[:, :3, 1]
    torch.testing.assert_close(upward[:, 1], -exact.cameras.world_from_camera[:, 1, 1], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.alpha, exact.alpha, atol=1 / 255, rtol=0)
    back = found.origin.capture_from_world
    assert back is not None
    there = found.origin.points.double() @ back[:3, :3].T + back[:3, 3]
    assert torch.cdist(there, in_capture).amin(1).max() < 1e-4 * in_capture.norm()
    assert len(there) == 2
    torch.testing.assert_close(found.origin.colors[0], torch.tensor([200.0, 30.0, 20.0]) / 255)


def test_an_object_in_any_gauge_is_centred_and_scaled(exact, tmp_path):
    matrix = gauge(2, 0.1)
    write_colmap(tmp_path, exact, moved_poses(exact, matrix), masks=True)
    found, said = centred(read_pictures(tmp_path))
    assert "was centred on" in said
    distance = found.cameras.centers.norm(dim=1)
    assert 0.7 < float(distance.mean()) / 2.85 < 1.6
    back = found.origin.capture_from_world
    assert back is not None
    there = found.cameras.centers.double() @ back[:3, :3].T + back[:3, 3]
    torch.testing.assert_close(there, moved_poses(exact, matrix)[:, :3, 3], atol=1e-4, rtol=1e-4)


MODELS = {
    "OPENCV": (-0.1, 0.01, 0.001, 0.001),
    "OPENCV_FISHEYE": (0.02, 0.0, 0.0, 0.0),
    "FULL_OPENCV": (-0.1, 0.0, 0.0, 0.0, 0.01, 0.0, 0.0, 0.0),
    "FOV": (0.5,),
    "THIN_PRISM_FISHEYE": (0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
}


@pytest.mark.parametrize("model", list(MODELS))
def test_every_model_of_a_lens_is_straightened(model, exact, tmp_path):
    """Pictures that hold their own ray: what the pinhole sees must be what its ray says."""
    import numpy as np
    import pycolmap

    extra = MODELS[model]
    k = exact.cameras.intrinsics[0]
    four = [k[0, 0].item(), k[1, 1].item(), k[0, 2].item(), k[1, 2].item()]
    camera = pycolmap.Camera(model=model, width=SIZE, height=SIZE, params=[*four, *extra], camera_id=1)
    rows, columns = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5, indexing="ij")
    rays: Any = camera.cam_from_img(np.stack([columns, rows], -1).reshape(-1, 2))
    rays = rays.reshape(SIZE, SIZE, 2)
    shown = np.concatenate([rays, np.zeros((SIZE, SIZE, 1))], axis=2)
    pixels = np.clip(np.round((0.5 + shown) * 255), 0, 255).astype(np.uint8)
    write_colmap(
        tmp_path, exact, moved_poses(exact, gauge(0)), model=model, extra=extra, see=lambda _: pixels
    )
    found = read_pictures(tmp_path)
    k = found.cameras.intrinsics[0].numpy()
    expected = np.stack([(columns - k[0, 2]) / k[0, 0], (rows - k[1, 2]) / k[1, 1]], -1)
    assert np.abs(found.images[0, ..., :2].numpy() - 0.5 - expected).max() < 0.01


def test_damaged_models_are_one_line(exact, tmp_path):
    write_colmap(tmp_path, exact, moved_poses(exact, gauge(0)))
    shutil.copytree(tmp_path / "sparse", tmp_path / "kept")
    (tmp_path / "images" / "shot3.png").unlink()
    with pytest.raises(UserError, match=r"shot3\.png is missing"):
        read_pictures(tmp_path)
    (tmp_path / "sparse/0/images.bin").write_bytes(b"\xff" * 3)
    with pytest.raises(UserError, match="is not a COLMAP model that pycolmap reads") as caught:
        read_pictures(tmp_path)
    assert "\n" not in str(caught.value)
    shutil.rmtree(tmp_path / "images")
    shutil.rmtree(tmp_path / "masks")
    with pytest.raises(UserError, match=r"is not a COLMAP model|has a COLMAP model and no pictures"):
        read_pictures(tmp_path)


def test_without_pycolmap_the_extra_is_named(exact, tmp_path, monkeypatch):
    write_colmap(tmp_path, exact, moved_poses(exact, gauge(0)))
    original = builtins.__import__

    def refuse(name, *rest):
        if name == "pycolmap":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"threedgen\[colmap\]"):
        open_colmap(tmp_path)
