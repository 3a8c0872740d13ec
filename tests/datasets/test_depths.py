"""Depths of captures: the layouts of their files, their unit, the gauge, lenses, and files that cannot be used."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captures import from_above, gauge, moved_poses, plain_bowl, seen_with_depths, write_opengl
from PIL import Image
from torch import Tensor

from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.datasets.given import read_pictures
from threedgen.datasets.lenses import opencv, straightened
from threedgen.datasets.multiview import PosedPictures, write_transforms
from threedgen.pipelines.fit import target_of

COUNT, SIZE = 4, 32


@pytest.fixture(scope="module")
def exact() -> PosedPictures:
    return seen_with_depths(plain_bowl(), from_above(COUNT, SIZE))


@pytest.fixture
def folder(exact, tmp_path) -> Path:
    """The pictures without depths."""
    write_transforms(tmp_path / "scan", replace(exact, depths=None))
    return tmp_path / "scan"


def add_depths(folder: Path, depths: Tensor, kind: str = "png", key: str = "depth_file_path", **more: Any):
    """Files of the depths beside the pictures, named by each frame; png has thousandths, as 16-bit levels."""
    file = folder / "transforms.json"
    document = json.loads(file.read_text())
    (folder / "deep").mkdir(exist_ok=True)
    for index, (frame, depth) in enumerate(zip(document["frames"], depths.numpy(), strict=True)):
        name = f"deep/{index}.{kind}"
        levels = np.nan_to_num(1000.0 * depth)
        if kind == "png":
            Image.fromarray(levels.round().astype(np.uint16)).save(folder / name)
        elif kind == "npy":
            np.save(folder / name, levels)
        else:
            np.savez_compressed(folder / name, depth=levels[..., None])
        frame[key] = name
    file.write_text(json.dumps(document | more))


def depths_of(folder: Path) -> Tensor:
    found = read_pictures(folder, depths=True).depths
    assert found is not None
    return found


LAYOUTS = {
    "nerfstudio": {},
    "array": {"kind": "npy"},
    "archive": {"kind": "npz"},
    "unit": {"depth_unit_scale_factor": 2e-3},
    "scaled by nerfstudio": {"applied_scale": 0.5},
    "instant-ngp": {"key": "depth_path", "integer_depth_scale": 1e-3},
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.filterwarnings("error")
def test_depths_are_read_in_the_unit_of_the_cameras(layout, exact, folder):
    add_depths(folder, exact.depths, **LAYOUTS[layout])
    expected = exact.depths * {"unit": 2.0, "scaled by nerfstudio": 0.5}.get(layout, 1.0)
    torch.testing.assert_close(depths_of(folder), expected, atol=2e-3, rtol=0, equal_nan=True)
    assert read_pictures(folder).depths is None, "who does not want them does not read them"


def test_depths_of_the_published_halves_of_a_set_are_read(exact, folder):
    add_depths(folder, exact.depths)
    document = json.loads((folder / "transforms.json").read_text())
    for name, part in (("train", slice(0, 3)), ("test", slice(3, 4))):
        half = document | {"frames": document["frames"][part]}
        (folder / f"transforms_{name}.json").write_text(json.dumps(half))
    (folder / "transforms.json").unlink()
    torch.testing.assert_close(depths_of(folder), exact.depths, atol=1e-3, rtol=0, equal_nan=True)


def test_depths_of_instant_ngp_without_a_unit_are_named_as_not_read(exact, folder):
    add_depths(folder, exact.depths, key="depth_path")
    with pytest.warns(UserWarning, match="does not read its keys depth_path$"):
        assert read_pictures(folder, depths=True).depths is None


def test_what_is_not_known_stays_so(exact, folder):
    """0, below 0, NaN, infinity, frames without a file, and what the picture cuts away."""
    depths = torch.full_like(exact.depths, 2.0)
    solid = exact.alpha[..., 0] > 0.5
    rows, columns = solid[0].nonzero(as_tuple=True)
    for place, value in enumerate((0.0, -1.0, math.nan, math.inf)):
        depths[0, rows[place], columns[place]] = value
    add_depths(folder, torch.zeros_like(depths), "npy")
    for index in range(2):
        np.save(folder / f"deep/{index}.npy", depths[index].numpy() * 1000.0)
    document = json.loads((folder / "transforms.json").read_text())
    document["frames"][2]["depth_file_path"] = None
    del document["frames"][3]["depth_file_path"]
    (folder / "transforms.json").write_text(json.dumps(document))
    found = depths_of(folder)
    assert torch.equal(found[1].isfinite(), solid[1])
    assert int(found[0].isfinite().sum()) == int(solid[0].sum()) - 4
    assert not found[2:].isfinite().any()
    assert set(found[found.isfinite()].tolist()) == {2.0}


def test_sensors_with_fewer_pixels_and_other_sizes_never_mix_depths(folder):
    steps = torch.randint(0, 2, (COUNT, SIZE // 2, SIZE // 2), generator=torch.Generator().manual_seed(0))
    coarse = (2.5 + 0.5 * steps).float()
    add_depths(folder, coarse)
    found = depths_of(folder)
    fine = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
    known = found.isfinite()
    torch.testing.assert_close(found[known], fine[known], atol=1e-6, rtol=0)
    smaller = target_of(folder, resolution=12).pictures.depths
    assert smaller is not None
    assert smaller.shape == (COUNT, 12, 12)
    ratio = smaller[smaller.isfinite()] / smaller[smaller.isfinite()].min()
    assert set((10.0 * ratio).round(decimals=3).tolist()) == {10.0, 12.0}, (
        "two depths, in the scale of the object"
    )


def test_depths_follow_the_capture_into_the_world_of_the_asset(exact, tmp_path):
    """In a world that is turned, 3.7 times as large and elsewhere: what they show lies on the bowl again."""
    matrix = gauge(3)
    write_transforms(tmp_path, replace(exact, depths=None))
    write_opengl(tmp_path, exact, moved_poses(exact, matrix))
    add_depths(tmp_path, exact.depths * 3.7)
    target = target_of(tmp_path)
    assert "the depths of 4 of the 4 are used; they show" in target.about
    back = target.pictures.origin.capture_from_world
    assert back is not None
    there = torch.linalg.inv(matrix) @ back
    points = target.points[0].double() @ there[:3, :3].T + there[:3, 3]
    reach = points.norm(dim=1)
    bowl = (reach > 0.85 * 0.88 - 0.02) & (reach < 0.85 + 0.01)
    red = target.points[1][:, 1] < 0.4
    assert len(points) > 500
    assert float((bowl | red).double().mean()) > 0.95
    assert int(red.sum()) > 5


def test_points_of_a_cloud_go_first_and_held_out_depths_show_none(exact, folder):
    add_depths(folder, exact.depths, test_filenames=["images/000001.png"])
    target = target_of(folder)
    known = torch.isfinite(exact.depths).sum((1, 2))
    assert len(target.points[0]) == int(known.sum() - known[1])
    from threedgen.datasets.point_files import write_points

    write_points(folder / "cloud.ply", torch.rand(7, 3) - 0.5, torch.rand(7, 3))
    document = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").write_text(json.dumps(document | {"ply_file_path": "cloud.ply"}))
    target = target_of(folder)
    assert len(target.points[0]) == 7
    assert "are used; its cloud has 7 points" in target.about


def test_depths_go_through_a_lens_with_their_picture():
    """A slanted plane before a wall, seen by a lens: depths where the pinhole sees them, and none in between."""
    size, focal = 96, 80.0
    lens = opencv([-0.2, 0.05, 0.003, -0.002, 0.0, 0.0, 0.0, 0.0])

    def depth(rays: Tensor) -> Tensor:
        plane = 2.0 / (1.0 + 0.3 * rays[:, 0] - 0.2 * rays[:, 1])
        return torch.where(rays[:, 0] < 0.1, plane, 9.0)

    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    pixels = (torch.stack([columns, rows], dim=-1).reshape(-1, 2).double() + 0.5 - size / 2) / focal
    ideal = pixels.clone()
    for _ in range(200):  # the inverse of a lens by iteration
        ideal = ideal + (pixels - lens(ideal))
    bent = depth(ideal).reshape(size, size).float()
    matrix = torch.tensor([[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]])
    _, straight, found = straightened(bent[..., None].expand(-1, -1, 3), matrix, lens, bent)
    assert found is not None
    rays = (pixels * focal + size / 2 - straight[:2, 2]) / torch.stack([straight[0, 0], straight[1, 1]])
    expected = depth(rays).reshape(size, size).float()
    assert set(found.flatten().tolist()) <= set(bent.flatten().tolist())
    off, before = (found - expected).abs(), (bent - expected).abs()
    assert float((off < 0.03).float().mean()) > 0.98, "all but pixels at the edge, to half a pixel"
    assert float(before[before < 1.0].max()) > 0.1 > 3.0 * float(off[off < 1.0].max()), "the lens bends"


def test_a_run_keeps_its_depths(exact, tmp_path):
    write_transforms(tmp_path, exact)
    torch.testing.assert_close(depths_of(tmp_path), exact.depths, atol=0, rtol=0, equal_nan=True)


def broken(name: str, folder: Path) -> str:
    """Makes the depths of the second picture unusable in one way; returns what must be said of it."""
    png = folder / "deep/1.png"
    file = folder / "transforms.json"
    document = json.loads(file.read_text())
    said = f"the picture '{png}' is broken or truncated"
    if name == "truncated":
        png.write_bytes(png.read_bytes()[:90])
    elif name == "coloured":
        Image.new("RGB", (SIZE, SIZE)).save(png)
        said = f"'{png}' is not grey"
    elif name == "wrongly sized":
        Image.fromarray(np.ones((SIZE, SIZE // 2), np.uint16)).save(png)
        said = f"the depths '{png}' have 16 x 32 pixels and their picture 32 x 32"
    elif name == "missing":
        png.unlink()
        said = f"the depth file {png} is missing"
    elif name == "8 bits":
        Image.new("L", (SIZE, SIZE), 90).save(png)
        said = f"'{png}' has 8 bits: a depth picture has one number for each pixel, of 16 bits"
    elif name == "jpeg":
        png = png.with_suffix(".jpg")
        Image.new("L", (SIZE, SIZE), 90).save(png)
        document["frames"][1]["depth_file_path"] = f"deep/{png.name}"
        said = f"the depths '{png}' are in a file of another kind than is read"
    elif name in ("feet", "a third"):
        document["depth_unit_scale_factor"] = 3e-3 if name == "feet" else 1e-3 / 3.0
        said = "is outside of the object, so their unit is not that of the cameras"
    elif name in ("unit 0", "unit in words"):
        document["depth_unit_scale_factor"] = 0 if name == "unit 0" else "mm"
        said = (
            "depth_unit_scale_factor makes it 0" if name == "unit 0" else "depth_unit_scale_factor holds 'mm'"
        )
    elif name == "metres":
        document["depth_unit_scale_factor"] = 1.0
        said = "times the distances of its cameras"
    else:
        array = folder / f"deep/1.{'npz' if name == 'no archive' else 'npy'}"
        added = ""
        content = {"text": b"1 2 3", "no archive": b"PK\3\4" + bytes(40), "pickled": pickle.dumps([1, 2])}
        array.write_bytes(content.get(name, b""))
        if name == "cut short":
            np.save(array, np.ones((SIZE, SIZE), np.float32))
            array.write_bytes(array.read_bytes()[:-100])
        if name == "objects":
            np.save(array, np.array([[1, None]], dtype=object), allow_pickle=True)
            added = " (it holds Python objects)"
        if name == "three numbers a pixel":
            np.save(array, np.ones((SIZE, SIZE, 3), np.float32))
        document["frames"][1]["depth_file_path"] = f"deep/{array.name}"
        said = f"cannot read the depths '{array}'{added}"
    file.write_text(json.dumps(document))
    return said


@pytest.mark.parametrize(
    "name",
    [
        *("8 bits", "jpeg", "feet", "a third"),
        *("truncated", "coloured", "wrongly sized", "missing", "unit 0", "unit in words", "metres"),
        *("text", "no archive", "pickled", "objects", "cut short", "three numbers a pixel", "empty"),
    ],
)
def test_depths_that_cannot_be_used_are_refused_in_one_line(name, exact, folder, tmp_path, capsys):
    add_depths(folder, exact.depths)
    said = broken(name, folder)
    assert main(["fit", str(folder), "--out", str(tmp_path / "run")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1]
    assert len(lines) == 1
    assert not (tmp_path / "run").exists()


def test_a_list_that_is_too_large_is_not_unpacked(exact, folder, monkeypatch):
    monkeypatch.setattr("threedgen.datasets.depths.MOST_PIXELS", 50)
    add_depths(folder, exact.depths, "npz")
    with pytest.raises(UserError, match="it is too large"):
        depths_of(folder)


def test_the_line_says_how_many_are_held_out_and_that_no_depth_is_known(exact, folder, tmp_path, capsys):
    add_depths(folder, torch.zeros_like(exact.depths))
    command = ["fit", str(folder), "--out", str(tmp_path / "run"), "--steps", "1", "cameras.holdout=2"]
    assert main([*command, "export.mesh.resolution=16", "export.turntable.frames=2"]) == 0
    said = capsys.readouterr().err
    assert "2 views to train on and 2 held out" in said
    assert "none of its depths is known" in said


def test_depths_of_views_that_the_user_holds_out_show_no_points(exact, folder):
    add_depths(folder, exact.depths)
    known = torch.isfinite(exact.depths).sum((1, 2))
    points = [len(target_of(folder, holdout=count).points[0]) for count in (0, 2)]
    assert points == [int(known.sum()), int(known[0] + known[2])]
