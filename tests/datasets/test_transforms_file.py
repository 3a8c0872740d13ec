"""transforms.json as programs write it: names, lenses, masks, sizes, splits and keys."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.datasets import world
from threedgen.datasets.given import read_pictures
from threedgen.datasets.lenses import fisheye, opencv, straightened
from threedgen.datasets.multiview import PosedPictures, write_transforms
from threedgen.datasets.point_files import write_points

COUNT, SIZE = 4, 32


@pytest.fixture(scope="module")
def exact() -> PosedPictures:
    full = torch.ones(COUNT)
    cameras = orbit(90.0 * torch.arange(COUNT), 25.0 * full, 2.85 * full, 40.0, SIZE, SIZE)
    rgb, alpha = world.render(world.canonical("car", "red"), cameras)
    return PosedPictures(rgb.clamp(0.0, 1.0), alpha, cameras)


@pytest.fixture
def folder(exact, tmp_path) -> Path:
    write_transforms(tmp_path, exact)
    return tmp_path


def rewrite(folder: Path, change: Any) -> None:
    file = folder / "transforms.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def on_each(folder: Path, change: Any) -> None:
    """`change(path of the picture, frame)` for every frame of the file."""
    rewrite(folder, lambda d: [change(folder / frame["file_path"], frame) for frame in d["frames"]])


def as_jpeg(path: Path, suffix: str) -> None:
    picture = Image.open(path)
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture.getchannel("A"))
    white.save(path.with_suffix(suffix), format="JPEG", quality=98)
    path.unlink()


def no_suffix(path, frame):
    frame["file_path"] = "./" + frame["file_path"][:-4]


def windows(path, frame):
    frame["file_path"] = frame["file_path"].replace("/", "\\")


def jpeg_without_suffix(path, frame):
    as_jpeg(path, ".jpeg")
    no_suffix(path, frame)


def other_case(path, frame):
    as_jpeg(path, ".JPG")
    frame["file_path"] = frame["file_path"].replace(".png", ".jpg")


@pytest.mark.parametrize("change", [no_suffix, windows, jpeg_without_suffix, other_case])
def test_pictures_are_found_by_the_names_that_programs_write(change, exact, folder):
    on_each(folder, change)
    (folder / "images" / "._000000.png").write_bytes(b"\0\5\x16\7")
    found = read_pictures(folder)
    assert (found.images - exact.images).abs().mean() < 0.02
    torch.testing.assert_close(found.cameras.world_from_camera, exact.cameras.world_from_camera)


def test_a_picture_that_is_missing_is_named_as_the_file_names_it(folder):
    rewrite(folder, lambda d: d["frames"][1].update(file_path="images/lost.jpg"))
    with pytest.raises(UserError, match=r"images/lost\.jpg is missing$"):
        read_pictures(folder)


@pytest.mark.parametrize("mode", ["LA", "P", "16 bit", "CMYK"])
def test_pictures_of_every_kind_are_read_with_their_transparency(mode, exact, folder):
    """Pillow's own conversion of a palette makes transparent pixels black and opaque."""

    def change(path, frame):
        picture = Image.open(path)
        if mode == "P":
            picture.quantize(64, method=Image.Quantize.FASTOCTREE).save(path)
        elif mode == "16 bit":
            Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(path)
        elif mode == "CMYK":
            picture.convert("RGB").convert("CMYK").save(path, format="JPEG", quality=98)
        else:
            picture.convert("LA").save(path)

    on_each(folder, change)
    found = read_pictures(folder)
    if mode in ("LA", "P"):
        assert (found.alpha - exact.alpha).abs().mean() < 0.02
        assert found.images[exact.alpha[..., 0] == 0].min() > 0.99
    else:
        assert found.alpha.min() == 1.0


def test_a_mask_beside_a_picture_is_its_alpha(exact, folder):
    rng = np.random.default_rng(0)
    (folder / "masks").mkdir()

    def change(path, frame):
        picture = Image.open(path)
        noise = Image.fromarray(rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8))
        noise.paste(picture, mask=picture.getchannel("A"))
        noise.save(path)
        picture.getchannel("A").save(folder / "masks" / path.name)
        frame["mask_path"] = f"masks/{path.name}"

    on_each(folder, change)
    found = read_pictures(folder)
    torch.testing.assert_close(found.alpha, exact.alpha, atol=1 / 255, rtol=0)
    assert found.images[exact.alpha[..., 0] == 0].min() == 1.0


def test_the_angle_in_y_is_read(exact, folder):
    """Pictures squeezed to half their width have two focal lengths."""

    def change(path, frame):
        Image.open(path).resize((SIZE // 2, SIZE)).save(path)
        for key in ("fl_x", "fl_y", "cx", "cy"):
            del frame[key]

    on_each(folder, change)
    rewrite(folder, lambda d: d.update(w=SIZE // 2, camera_angle_y=d["camera_angle_x"]))
    matrix, expected = read_pictures(folder).cameras.intrinsics[0], exact.cameras.intrinsics[0]
    assert matrix[1, 1] == pytest.approx(float(expected[1, 1]))
    assert matrix[0, 0] == pytest.approx(float(expected[0, 0]) / 2)


def test_frames_may_have_sizes_and_intrinsics_of_their_own(exact, folder):
    def change(path, frame):
        frame.update(w=SIZE, h=SIZE)
        if path.name == "000001.png":
            Image.open(path).resize((48, 64), Image.Resampling.BICUBIC).save(path)
            frame.update(w=48, h=64, fl_x=1.5 * frame["fl_x"], fl_y=2.0 * frame["fl_y"], cx=24.0, cy=32.0)

    on_each(folder, change)
    rewrite(folder, lambda d: [d.pop(key) for key in ("w", "h")])
    found = read_pictures(folder)
    assert found.images.shape == exact.images.shape
    torch.testing.assert_close(found.cameras.intrinsics, exact.cameras.intrinsics)
    assert (found.images - exact.images).abs().mean() < 0.01


def test_a_pose_may_be_scaled_as_by_a_parent_in_blender(exact, folder):
    def change(path, frame):
        rows = np.array(frame["transform_matrix"])
        rows[:3, :3] *= 1.5
        frame["transform_matrix"] = rows.tolist()

    on_each(folder, change)
    torch.testing.assert_close(
        read_pictures(folder).cameras.world_from_camera, exact.cameras.world_from_camera
    )


def test_nerf_synthetic_as_published_keeps_its_tests_apart(exact, folder):
    document = json.loads((folder / "transforms.json").read_text())
    for name, part in (("train", slice(0, 3)), ("test", slice(3, 4))):
        (folder / f"transforms_{name}.json").write_text(
            json.dumps(document | {"frames": document["frames"][part]})
        )
    (folder / "transforms.json").unlink()
    found = read_pictures(folder)
    assert len(found.images) == COUNT
    assert found.origin.held_out == (3,)


def test_nerfstudios_lists_keep_tests_apart(folder):
    rewrite(
        folder, lambda d: d.update(test_filenames=["images/000002.png"], val_filenames=["images/000001.png"])
    )
    assert read_pictures(folder).origin.held_out == (2,)
    rewrite(folder, lambda d: d.pop("test_filenames"))
    assert read_pictures(folder).origin.held_out == (1,)


def test_keys_that_are_not_read_are_named_and_notes_are_not(folder):
    rewrite(folder, lambda d: d.update(rolling_shutter=0.1, aabb_scale=4, applied_scale=2.0))
    with pytest.warns(UserWarning, match=r"does not read its keys rolling_shutter$"):
        read_pictures(folder)
    rewrite(folder, lambda d: d.pop("rolling_shutter"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_pictures(folder)


def test_the_point_cloud_is_read_in_the_world_of_the_cameras(folder):
    write_points(folder / "sparse_pc.ply", torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[1.0, 0.0, 0.0]]))
    rewrite(folder, lambda d: d.update(ply_file_path="sparse_pc.ply", up="z"))
    origin = read_pictures(folder).origin
    torch.testing.assert_close(origin.points, torch.tensor([[0.1, 0.3, -0.2]]))
    torch.testing.assert_close(origin.colors, torch.tensor([[1.0, 0.0, 0.0]]))
    assert origin.capture_from_world is not None
    back = origin.capture_from_world[:3, :3].float() @ origin.points[0]
    torch.testing.assert_close(back, torch.tensor([0.1, 0.2, 0.3]))


LENSES = {
    "opencv": ({"camera_model": "OPENCV", "k1": -0.2, "k2": 0.05, "p1": 0.003, "p2": -0.002}, opencv),
    "k6": ({"k1": 0.6, "k4": 0.02, "k6": 0.01}, opencv),
    "fisheye": ({"camera_model": "OPENCV_FISHEYE", "k1": 0.05, "k2": -0.01}, fisheye),
    "instant-ngp's fisheye": ({"is_fisheye": True, "k1": 0.05, "k2": -0.01}, fisheye),
}
ORDER = {opencv: ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"), fisheye: ("k1", "k2", "k3", "k4")}


@pytest.mark.parametrize("kind", list(LENSES))
def test_a_bent_picture_is_straightened(kind, tmp_path):
    """A smooth scene on a plane: what the lens shows of it, and what the pinhole that is found must see."""
    keys, make = LENSES[kind]
    lens = make([keys.get(name, 0.0) for name in ORDER[make]])
    size, focal = 96, 80.0

    def color(points):
        return 0.5 + 0.5 * torch.sin(4.0 * torch.cat([points, points.sum(1, keepdim=True)], dim=1))

    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    pixels = (torch.stack([columns, rows], dim=-1).reshape(-1, 2).double() + 0.5 - size / 2) / focal
    # The inverse of a lens by iteration: what the pixel of the bent picture sees.
    ideal = pixels.clone()
    for _ in range(200):
        ideal = ideal + (pixels - lens(ideal))
    bent = (color(ideal).reshape(size, size, 3) * 255).round().byte().numpy()
    folder = tmp_path / "images"
    folder.mkdir()
    frames = []
    for index in range(2):
        Image.fromarray(bent).save(folder / f"{index}.png")
        pose = torch.eye(4)
        pose[2, 3] = 3.0 + index
        frames.append({"file_path": f"images/{index}.png", "transform_matrix": pose.tolist()})
    document = {"fl_x": focal, "fl_y": focal, "w": size, "h": size, "up": "y", "frames": frames, **keys}
    (tmp_path / "transforms.json").write_text(json.dumps(document))
    found = read_pictures(tmp_path)
    matrix = found.cameras.intrinsics[0].double()
    seen = ((pixels * focal + size / 2) - matrix[:2, 2]) / torch.stack([matrix[0, 0], matrix[1, 1]])
    expected = color(seen).reshape(size, size, 3).float()
    assert (found.images[0] - expected).abs().max() < 0.03
    assert (torch.from_numpy(bent).float() / 255 - expected).abs().max() > 0.1, "the lens bends"


def test_a_straight_lens_changes_nothing(exact, folder):
    rewrite(folder, lambda d: d.update(camera_model="OPENCV", k1=0.0, k2=0, p1=None))
    found = read_pictures(folder)
    torch.testing.assert_close(found.images, exact.images, atol=1 / 255, rtol=0)


def test_cameras_that_are_no_lens_are_refused(folder):
    rewrite(folder, lambda d: d.update(camera_model="EQUIRECTANGULAR"))
    with pytest.raises(UserError, match="camera_model EQUIRECTANGULAR are not read"):
        read_pictures(folder)
    rewrite(folder, lambda d: d.update(camera_model="OPENCV", k1="wide"))
    with pytest.raises(UserError, match="k1 holds 'wide' instead of a number"):
        read_pictures(folder)
    with pytest.raises(UserError, match="do not describe one"):
        straightened(
            torch.zeros(8, 8, 3), torch.tensor([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]]), opencv([math.inf] * 8)
        )


@pytest.mark.parametrize("said", [None, "stored", "turned"])
def test_a_picture_is_turned_as_its_exif_data_say_unless_the_size_shows_otherwise(said, exact, folder):
    def change(path, frame):
        tall = Image.open(path).crop((0, 0, SIZE // 2, SIZE))
        exif = Image.Exif()
        exif[0x0112] = 6
        tall.convert("RGB").save(path, exif=exif)
        for key in ("cx", "cy"):
            del frame[key]

    on_each(folder, change)

    def sizes(document):
        del document["w"], document["h"]
        if said == "stored":
            document.update(w=SIZE // 2, h=SIZE)
        if said == "turned":
            document.update(w=SIZE, h=SIZE // 2)

    rewrite(folder, sizes)
    expected = (SIZE, SIZE // 2) if said == "stored" else (SIZE // 2, SIZE)
    assert read_pictures(folder).images.shape[1:3] == expected
