"""`threedgen fit` on captures: any gauge, masks, backgrounds, splits, and the way back on export."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from captures import gauge, moved_poses, red_car, write_colmap, write_opengl

from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.core.settings import SettingError
from threedgen.datasets.given import held_out
from threedgen.datasets.multiview import PosedPictures, write_srn, write_transforms
from threedgen.datasets.point_files import write_points
from threedgen.datasets.transforms_file import kept_place
from threedgen.jobs.build import load_scene
from threedgen.jobs.run_directory import RunDirectory
from threedgen.pipelines.capture import starting_points
from threedgen.pipelines.fit import target_of
from threedgen.recipes.load import read_resolved
from threedgen.representations.gaussians import Gaussians

COUNT, SIZE = 12, 32
TINY = [
    *("--steps", "30", "--resolution", "32", "representation.count=300", "export.mesh.resolution=24"),
    *("export.turntable.frames=1", "export.turntable.size=16", "export.mesh.texture_size=0"),
]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def exact() -> PosedPictures:
    return red_car(COUNT, SIZE)


@pytest.fixture(scope="module")
def slanted(exact, tmp_path_factory):
    """A transforms.json in a world that is turned, large and far away; and the way there."""
    matrix, folder = gauge(3), tmp_path_factory.mktemp("data") / "slanted"
    write_transforms(folder, exact)
    write_opengl(folder, exact, moved_poses(exact, matrix))
    return folder, matrix


@pytest.fixture(scope="module")
def fitted(slanted, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "slanted"
    assert main(["fit", str(slanted[0]), "--out", str(run), *TINY]) == 0
    return run


def positions(path) -> np.ndarray:
    cloud: Any = trimesh.load(path)
    return np.asarray(cloud.vertices)


def on_noise(pictures: PosedPictures) -> PosedPictures:
    """Opaque pictures with a busy background."""
    noise = torch.rand(pictures.images.shape, generator=torch.Generator().manual_seed(0))
    images = pictures.images - (1.0 - pictures.alpha) * (1.0 - noise)
    return replace(pictures, images=images.clamp(0.0, 1.0), alpha=torch.ones_like(pictures.alpha))


def test_a_transforms_file_in_any_gauge_is_turned_centred_and_scaled(exact, slanted):
    folder, matrix = slanted
    target = target_of(folder, resolution=32)
    assert "was centred on" in target.about
    assert "its background is cut by masks or transparency" in target.about
    cameras = target.pictures.cameras
    torch.testing.assert_close(
        -cameras.world_from_camera[:, 1, 1], -exact.cameras.world_from_camera[:, 1, 1], atol=1e-3, rtol=0
    )
    assert 2.0 < float(cameras.centers.norm(dim=1).mean()) < 4.5
    back = target.pictures.origin.capture_from_world
    assert back is not None
    there = cameras.centers.double() @ back[:3, :3].T + back[:3, 3]
    torch.testing.assert_close(there, moved_poses(exact, matrix)[:, :3, 3], atol=1e-3, rtol=1e-4)


def test_a_run_goes_back_to_the_place_of_its_capture(fitted, slanted, capsys):
    _, matrix = slanted
    report = json.loads((fitted / "report.json").read_text())
    assert report["scores"]["psnr"] > 13, "the object is seen, not a blob elsewhere"
    for name in ("here.ply", "here.glb"):
        assert main(["export", str(fitted), "--to", name, "--in-place"]) == 0
    cloud = load_scene(RunDirectory.open(fitted), read_resolved(fitted / "recipe.yaml")).at(None)
    back = kept_place(fitted / "pictures")
    assert back is not None
    expected = (cloud.means.double() @ back[:3, :3].T + back[:3, 3]).detach().numpy()
    assert np.abs(positions("here.ply") - expected).max() < 1e-3 * float(matrix[:3, 3].norm())
    mesh: Any = trimesh.load("here.glb", force="mesh")
    assert np.linalg.norm(mesh.bounds.mean(axis=0) - matrix[:3, 3].numpy()) < 3.7, "where the car stands"
    capsys.readouterr()
    assert main(["export", str(fitted), "--to", "x.ply", "--in-place", "--up", "z"]) == 2
    assert "leave out --up" in capsys.readouterr().err


def test_scores_against_the_capture_are_those_of_the_held_out_views(fitted, slanted, tmp_path, capsys):
    """The true cameras are in the world of the capture; those that were trained on are said."""
    held = json.loads((fitted / "report.json").read_text())["scores"]["psnr"]
    assert main(["eval", str(fitted), "--truth", str(slanted[0]), "--out", "all"]) == 0
    shown = capsys.readouterr()
    assert "11 of the 12 views are among those that the run was trained on" in shown.out + shown.err
    shutil.copytree(slanted[0], tmp_path / "apart")
    file = tmp_path / "apart/transforms.json"
    document = json.loads(file.read_text())
    document["test_filenames"] = [document["frames"][6]["file_path"]]
    file.write_text(json.dumps(document))
    assert main(["eval", str(fitted), "--truth", "apart", "--out", "one"]) == 0
    shown = capsys.readouterr()
    assert "trained on" not in shown.out + shown.err
    (view,) = csv.DictReader(Path("one/views.csv").read_text().splitlines())
    assert float(view["psnr"]) == pytest.approx(held, abs=0.3)


def test_a_run_of_a_mesh_has_no_other_place(tmp_path, capsys):
    trimesh.creation.box().export("box.ply")
    arguments = ["--views", "4", "--resolution", "16", "--steps", "1", "representation.count=200"]
    assert main(["fit", "box.ply", "--out", "run", *arguments, *TINY[-3:]]) == 0
    capsys.readouterr()
    assert main(["export", "run", "--to", "x.ply", "--in-place"]) == 2
    assert "was not fitted to a capture" in capsys.readouterr().err


def test_tests_that_are_published_are_held_out(exact, tmp_path):
    write_transforms(tmp_path / "lego", exact)
    document = json.loads((tmp_path / "lego/transforms.json").read_text())
    for name, part in (("train", slice(0, 9)), ("test", slice(9, 12))):
        document_of = document | {"frames": document["frames"][part]}
        (tmp_path / f"lego/transforms_{name}.json").write_text(json.dumps(document_of))
    (tmp_path / "lego/transforms.json").unlink()
    target = target_of(tmp_path / "lego")
    assert target.holdout == 3
    assert "9 views to train on and 3 held out" in target.about
    apart = held_out(12, 3)
    assert [target.pictures.names[index] for index in apart.tolist()] == [
        f"0000{n:02d}.png" for n in (9, 10, 11)
    ]


def test_backgrounds(exact, tmp_path):
    pytest.importorskip("pycolmap")
    noisy = on_noise(exact)
    matrix = gauge(4, 0.5)
    points = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.1, 0.2], [6.0, 0.0, 0.0]]).double()
    points = points @ matrix[:3, :3].T + matrix[:3, 3]
    masked = replace(noisy, alpha=exact.alpha)
    write_colmap(tmp_path / "scan", masked, moved_poses(exact, matrix), points=points, masks=True)
    cut = target_of(tmp_path / "scan", resolution=32)
    assert "cut by masks" in cut.about
    assert len(cut.points[0]) == 2, "the point that is far away is not of the object"
    assert len(cut.scenery[0]) == 0
    kept = target_of(tmp_path / "scan", resolution=32, background="keep")
    assert float(kept.pictures.alpha.min()) == 1.0
    assert len(kept.points[0]) == 3
    far = starting_points(kept, 80)[0].norm(dim=1)
    assert len(far) == 3 + 10, "of a few Gaussians, few begin in the background"
    assert float(far.max()) > float(kept.pictures.cameras.centers.norm(dim=1).max())
    shutil.rmtree(tmp_path / "scan" / "masks")
    assert "its background is kept, because it has no masks" in target_of(tmp_path / "scan").about
    with pytest.raises(UserError, match="neither masks nor transparency"):
        target_of(tmp_path / "scan", background="cut")
    low, high = points[:2].amin(0) - 0.2, points[:2].amax(0) + 0.2
    boxed = target_of(tmp_path / "scan", box=[*low.tolist(), *high.tolist()])
    assert boxed.box is not None
    assert "cut by the box" in boxed.about
    with pytest.raises(UserError, match="lower corner before the upper"):
        target_of(tmp_path / "scan", box=[*high.tolist(), *low.tolist()])


def test_a_box_leaves_the_rest_out_of_the_asset(exact, tmp_path):
    pytest.importorskip("pycolmap")
    write_colmap(tmp_path / "scan", on_noise(exact), exact.cameras.world_from_camera.double())
    box = ["--box", "-0.7", "-0.7", "-0.7", "0.7", "0.7", "0.7"]
    assert main(["fit", "scan", "--out", "run", *box, *TINY, "--steps", "3"]) == 0
    scene = load_scene(RunDirectory.open(tmp_path / "run"), read_resolved(tmp_path / "run/recipe.yaml")).at(
        None
    )
    assert main(["export", "run", "--to", "all.ply", "box=null"]) == 0
    kept = positions(tmp_path / "run/asset.ply")
    assert 0 < len(kept) < len(scene)
    assert len(positions(tmp_path / "all.ply")) == len(scene)


def test_pictures_of_nothing_are_refused(exact, tmp_path):
    write_srn(tmp_path / "white", replace(exact, images=torch.ones_like(exact.images)))
    with pytest.raises(UserError, match="show nothing but background"):
        target_of(tmp_path / "white")


def test_gaussians_start_at_points_and_fill_up_the_ball(tmp_path):
    places = torch.tensor([[0.1, 0.2, 0.3], [-0.5, 0.0, 0.5], [4.0, 0.0, 0.0]])
    write_points(tmp_path / "points.ply", places, torch.tensor([[1.0, 0.0, 0.0]]).expand(3, 3))
    config = Gaussians.Config(count=10, init="points", points=str(tmp_path / "points.ply"))
    scene = Gaussians(config)
    assert len(scene) == 10
    nearest = torch.cdist(places, scene.means.detach()).min(dim=1)
    assert float(nearest.values.max()) < 1e-6
    assert float(scene.at().sh[nearest.indices, 0, 0].detach().min()) > 1.0, "red, as the points are"
    assert float(scene.means.detach().norm(dim=1).sort().values[-2]) < 0.75 + 1e-6
    assert len(Gaussians(replace(config, count=2))) == 2
    with pytest.raises(SettingError, match="names no file although init is points"):
        Gaussians.Config(init="points")
