import json

import pytest
import torch

from threedgen.cameras import orbit
from threedgen.datasets import multiview, world
from threedgen.datasets.multiview import PosedPictures
from threedgen.errors import UserError


@pytest.fixture(scope="module")
def pictures() -> PosedPictures:
    cameras = orbit(
        torch.tensor([0.0, 70.0, 200.0]),
        torch.tensor([5.0, 30.0, -10.0]),
        torch.full((3,), 2.85),
        40.0,
        32,
        32,
    )
    rgb, alpha = world.render(world.canonical("car", "red"), cameras)
    return PosedPictures(rgb, alpha, cameras)


@pytest.mark.parametrize("layout", ["srn", "transforms"])
def test_round_trip(pictures, layout, tmp_path):
    getattr(multiview, f"write_{layout}")(tmp_path, pictures)
    back = getattr(multiview, f"read_{layout}")(tmp_path)
    torch.testing.assert_close(back.images, pictures.images, atol=1.01 / 255, rtol=0)
    torch.testing.assert_close(back.cameras.world_from_camera, pictures.cameras.world_from_camera)
    torch.testing.assert_close(back.cameras.intrinsics, pictures.cameras.intrinsics)
    assert (back.cameras.height, back.cameras.width) == (32, 32)
    if layout == "transforms":
        torch.testing.assert_close(back.alpha, pictures.alpha, atol=0.51 / 255, rtol=0)


def test_stored_axes_are_those_of_the_layout(pictures, tmp_path):
    multiview.write_srn(tmp_path / "srn", pictures)
    multiview.write_transforms(tmp_path / "gl", pictures)
    srn = torch.tensor([float(x) for x in (tmp_path / "srn/pose/000000.txt").read_text().split()]).reshape(
        4, 4
    )
    gl = torch.tensor(
        json.loads((tmp_path / "gl/transforms.json").read_text())["frames"][0]["transform_matrix"]
    )
    torch.testing.assert_close(srn, pictures.cameras.world_from_camera[0])
    torch.testing.assert_close(gl[:, 1:3], -srn[:, 1:3])
    torch.testing.assert_close(gl[:, 3], srn[:, 3])


def test_nerf_synthetic_style_without_extension_or_focal_keys(pictures, tmp_path):
    multiview.write_transforms(tmp_path, pictures)
    path = tmp_path / "transforms.json"
    document = json.loads(path.read_text())
    frames = [
        {"file_path": f["file_path"][:-4], "transform_matrix": f["transform_matrix"]}
        for f in document["frames"]
    ]
    path.write_text(json.dumps({"camera_angle_x": document["camera_angle_x"], "frames": frames}))
    back = multiview.read_transforms(path)
    torch.testing.assert_close(back.cameras.intrinsics, pictures.cameras.intrinsics)


def test_pictures_cannot_come_from_outside_the_folder(pictures, tmp_path):
    multiview.write_transforms(tmp_path / "a", pictures)
    multiview.write_transforms(tmp_path / "b", pictures)
    path = tmp_path / "a/transforms.json"
    path.write_text(path.read_text().replace("images/000001.png", "../b/images/000001.png"))
    with pytest.raises(UserError, match="outside"):
        multiview.read_transforms(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "intrinsics.txt").write_text("1 2"), "intrinsics"),
        (lambda f: (f / "pose/000001.txt").write_text("1 2 3"), "16 numbers"),
        (lambda f: (f / "pose/000001.txt").write_text("1 2 3 x " * 4), "000001.txt must hold 16 numbers"),
        (lambda f: (f / "intrinsics.txt").write_text("1 2 3\n0\n1\n1e999 64\n"), "intrinsics"),
        (lambda f: (f / "intrinsics.txt").write_text("1 2 3\n0\n1\n0 64\n"), "intrinsics"),
        (lambda f: (f / "pose/000001.txt").unlink(), "000001.txt"),
        (lambda f: (f / "rgb/000001.png").write_bytes(b"x"), "000001.png"),
        (lambda f: [p.unlink() for p in (f / "rgb").iterdir()], "no PNG"),
    ],
)
def test_damaged_srn_folders_are_named_in_one_line(pictures, tmp_path, damage, message):
    multiview.write_srn(tmp_path, pictures)
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        multiview.read_srn(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("time", "noon", "transforms.json"),
        ("time", [0], "transforms.json"),
        ("fl_x", "long", "transforms.json"),
        ("cx", None, "transforms.json"),
        ("w", 0, "transforms.json"),
        ("picture", b"x", "000000.png"),
    ],
)
def test_damaged_transforms_are_named_in_one_line(pictures, tmp_path, key, value, message):
    multiview.write_transforms(tmp_path, pictures)
    path = tmp_path / "transforms.json"
    if key == "picture":
        (tmp_path / "images/000000.png").write_bytes(value)
    else:
        document = json.loads(path.read_text())
        document["frames"][0][key] = value
        path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=message) as caught:
        multiview.read_transforms(tmp_path)
    assert "\n" not in str(caught.value)
