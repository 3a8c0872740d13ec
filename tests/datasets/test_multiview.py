import json

import pytest
import torch
from PIL import Image

from threedgen.cameras.orbit import convert, orbit
from threedgen.core.errors import UserError
from threedgen.datasets import multiview, world
from threedgen.datasets.multiview import PosedPictures
from threedgen.datasets.objects import open_objects
from threedgen.datasets.transforms_file import open_transforms, upward_axis


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
    back = {"srn": multiview.open_srn, "transforms": open_transforms}[layout](tmp_path).read()
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
    back = open_transforms(path).read()
    torch.testing.assert_close(back.cameras.intrinsics, pictures.cameras.intrinsics)


def test_pictures_cannot_come_from_outside_the_folder(pictures, tmp_path):
    multiview.write_transforms(tmp_path / "a", pictures)
    multiview.write_transforms(tmp_path / "b", pictures)
    path = tmp_path / "a/transforms.json"
    path.write_text(path.read_text().replace("images/000001.png", "../b/images/000001.png"))
    with pytest.raises(UserError, match="outside"):
        open_transforms(path).read()


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
        (lambda f: [p.unlink() for p in (f / "rgb").iterdir()], "holds no pictures"),
    ],
)
def test_damaged_srn_folders_are_named_in_one_line(pictures, tmp_path, damage, message):
    multiview.write_srn(tmp_path, pictures)
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        multiview.open_srn(tmp_path).read()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("time", "noon", "transforms.json: time holds 'noon' instead of a number"),
        ("time", [0], r"transforms.json: time holds \[0\] instead of a number"),
        ("fl_x", "long", "transforms.json: fl_x holds 'long' instead of a number"),
        ("cx", None, "transforms.json: cx holds None instead of a number"),
        ("k1", {"a": 1}, "transforms.json: k1 holds {'a': 1} instead of a number"),
        ("w", 0, "transforms.json: w and h must be positive"),
        ("h", -3, "transforms.json: w and h must be positive"),
        ("transform_matrix", [[0.0] * 4] * 3, "4x4 transform_matrix"),
        ("transform_matrix", 3, "4x4 transform_matrix"),
        ("transform_matrix", [[0.0, 0.0, 0.0, "x"]] * 4, "transform_matrix holds 'x' instead of a number"),
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
        open_transforms(tmp_path).read()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("angle", [0.0, -1.0, 3.2, float("nan")])
def test_a_field_of_view_that_no_camera_has_is_reported(angle, pictures, tmp_path):
    def change(document):
        document["camera_angle_x"] = angle
        for frame in document["frames"]:
            del frame["fl_x"], frame["fl_y"]

    with pytest.raises(UserError, match="camera_angle_x must be between 0 and pi"):
        open_transforms(rewritten(tmp_path, pictures, change)).read()


def test_numbers_may_be_written_as_text(pictures, tmp_path):
    def change(document):
        document["w"] = str(document["w"])
        for frame in document["frames"]:
            frame.update(fl_x=str(frame["fl_x"]), time="0.5")

    back = open_transforms(rewritten(tmp_path, pictures, change)).read().cameras
    torch.testing.assert_close(back.intrinsics, pictures.cameras.intrinsics)
    assert back.time.tolist() == [0.5] * 3


@pytest.mark.parametrize(
    "document", ["[]", "3", "{}", '{"frames": {}}', '{"frames": [3]}', '{"frames": [{}]}']
)
def test_json_of_another_kind_is_no_transforms(document, pictures, tmp_path):
    with pytest.raises(UserError, match=r"not a transforms\.json|'frames' must list pictures"):
        open_transforms(rewritten(tmp_path, pictures, lambda _: document)).read()


def rewritten(folder, pictures, change):
    """A transforms.json whose document `change` edits, or replaces by the text that it returns."""
    multiview.write_transforms(folder, pictures)
    path = folder / "transforms.json"
    document = json.loads(path.read_text())
    text = change(document)
    path.write_bytes((json.dumps(document) if text is None else text).encode())
    return path


def in_blenders_world(document):
    document.pop("up", None)
    poses = torch.tensor([frame["transform_matrix"] for frame in document["frames"]])
    poses = convert(convert(poses, "opengl", "opencv"), "opencv", "blender")
    for frame, pose in zip(document["frames"], poses.tolist(), strict=True):
        frame["transform_matrix"] = pose


def test_a_world_with_z_up_is_turned(pictures, tmp_path):
    """In a file of nerf-synthetic, as Blender writes it, cameras above the object are read as above it."""
    back = open_transforms(rewritten(tmp_path, pictures, in_blenders_world)).read()
    torch.testing.assert_close(back.cameras.world_from_camera, pictures.cameras.world_from_camera)


def test_a_file_without_up_that_has_y_up_is_left_as_it_is(pictures, tmp_path):
    back = open_transforms(rewritten(tmp_path, pictures, lambda d: d.pop("up", None) and None)).read()
    torch.testing.assert_close(back.cameras.world_from_camera, pictures.cameras.world_from_camera)


def test_a_given_up_has_precedence_over_what_the_cameras_show(pictures, tmp_path):
    path = rewritten(tmp_path, pictures, lambda d: d.update(up="z"))
    turned = open_transforms(path).read().cameras.centers
    x, y, z = pictures.cameras.centers.unbind(1)
    torch.testing.assert_close(turned, torch.stack([x, z, -y], dim=1))
    back = open_transforms(path, up="y").read().cameras.centers
    torch.testing.assert_close(back, pictures.cameras.centers)
    with pytest.raises(UserError, match="up must be y or z"):
        open_transforms(rewritten(tmp_path, pictures, lambda d: d.update(up="x"))).read()
    multiview.write_srn(tmp_path / "srn", pictures)
    torch.testing.assert_close(multiview.open_srn(tmp_path / "srn", "z").read().cameras.centers, turned)


@pytest.mark.parametrize("up", ["y", "z"])
def test_up_is_found_from_few_cameras_and_shaky_ones(up):
    rng = torch.Generator().manual_seed(0)
    to_world = {"y": "opengl", "z": "blender"}[up]
    for azimuth, elevation in (
        (torch.tensor([30.0, 60.0]), torch.tensor([50.0, 50.0])),
        (torch.tensor([0.0, 180.0]), torch.tensor([20.0, 20.0])),
        (360 * torch.rand(50, generator=rng), 90 * torch.rand(50, generator=rng)),
    ):
        cameras = orbit(azimuth, elevation, torch.full_like(azimuth, 4.0), 40.0, 8, 8)
        poses = convert(cameras.world_from_camera, "opencv", to_world)
        roll = (
            torch.deg2rad(10 * torch.randn(len(azimuth), generator=rng)) if len(azimuth) > 2 else 0 * azimuth
        )
        turn = torch.eye(4).repeat(len(azimuth), 1, 1)
        turn[:, 0, 0] = turn[:, 1, 1] = roll.cos()
        turn[:, 0, 1], turn[:, 1, 0] = -roll.sin(), roll.sin()
        assert upward_axis(poses @ turn) == up


def test_cameras_that_cannot_tell_are_in_blenders_world():
    """A camera above and behind with +Y up is one below and in front with +Z up: then +Z is up, as in Blender."""
    camera = orbit(torch.tensor([180.0]), torch.tensor([45.0]), torch.tensor([3.0]), 40.0, 8, 8)
    assert upward_axis(convert(camera.world_from_camera, "opencv", "opengl")) == "z"


ODD = {
    "NUL": lambda d: d["frames"][1].update(file_path="a\0b"),
    "long": lambda d: d["frames"][1].update(file_path="a" * 5000),
    "half a character": lambda d: d["frames"][1].update(file_path="\ud800"),
    "huge pose": lambda d: d["frames"][1].update(transform_matrix=[[10**400] * 4] * 4),
    "deep": lambda d: "[" * 100_000,
    "late": lambda d: d["frames"][1].update(time=9),
    "no time": lambda d: d["frames"][1].update(time=float("nan")),
}


@pytest.mark.parametrize("kind", list(ODD))
def test_odd_values_are_one_line(kind, pictures, tmp_path):
    with pytest.raises(
        UserError, match=r"not a transforms\.json|no picture of the name|every time"
    ) as caught:
        open_transforms(rewritten(tmp_path, pictures, ODD[kind])).read()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_byte_order_mark_is_no_mistake(pictures, tmp_path):
    path = rewritten(tmp_path, pictures, lambda d: "\ufeff" + json.dumps(d))
    assert len(open_transforms(path).read().images) == 3


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_srn_scenes_out_of_an_archive_of_a_mac(suffix, pictures, tmp_path):
    """A folder around the scenes, companions beside every file, and pictures that are not padded with zeros."""
    for name in ("a", "b"):
        scene = tmp_path / "cars" / name
        multiview.write_srn(scene, pictures)
        for number, place in enumerate((2, 10, 1)):
            old = scene / "rgb" / f"{number:06d}.png"
            Image.open(old).save(scene / "rgb" / f"{place}{suffix}", quality=95)
            old.unlink()
            (scene / "pose" / f"{number:06d}.txt").rename(scene / "pose" / f"{place}.txt")
        for path in list(scene.rglob("*.*")):
            (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(200))
    (tmp_path / "__MACOSX" / "a" / "rgb").mkdir(parents=True)
    objects = open_objects(str(tmp_path))
    assert objects.names == ["a", "b"]
    found = objects.load(0)
    assert found.names == tuple(f"{place}{suffix}" for place in (1, 2, 10))
    torch.testing.assert_close(
        found.cameras.world_from_camera, pictures.cameras.world_from_camera[[2, 0, 1]], atol=1e-5, rtol=0
    )
