"""`threedgen fit`: from a mesh or a folder to a scored run, that resumes and moves; bad input is one line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from threedgen.cameras.orbit import orbit
from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.datasets.given import read_pictures
from threedgen.datasets.multiview import PosedPictures, object_reach, write_srn, write_transforms
from threedgen.jobs.build import load_scene
from threedgen.jobs.run_directory import RunDirectory
from threedgen.jobs.scores.held_out import held_out_scores
from threedgen.pipelines.fit import fit, target_of
from threedgen.recipes.load import read_resolved

TINY = [
    "representation.count=300",
    "export.mesh.resolution=24",
    "export.turntable.frames=2",
    "export.turntable.size=32",
]
QUICK = ["representation.texture_size=16", "export.turntable.frames=1", "export.turntable.size=16"]
SMALL = ["--resolution", "32", "--views", "12", "--steps", "60"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def mesh_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("mesh") / "Half and half.ply"
    ball: Any = trimesh.creation.icosphere(subdivisions=3)
    right = ball.vertices[:, :1] > 0
    ball.visual.vertex_colors = np.where(right, [[220, 40, 30, 255]], [[30, 60, 220, 255]]).astype(np.uint8)
    ball.export(path)
    return path


@pytest.fixture(scope="module")
def finished(mesh_file, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "ball"
    assert main(["fit", str(mesh_file), "--out", str(run), *SMALL, *TINY]) == 0
    return run


def test_a_mesh_becomes_a_scored_asset(finished):
    report = json.loads((finished / "report.json").read_text())
    assert report["prompt"] == "Half and half"
    assert report["scores"]["psnr"] > 16
    assert report["scores"]["silhouette_iou"] > 0.85
    assert 0.4 < report["scores"]["ssim"] <= 1.0
    assert report["scores"]["loss"] > 0, "the report of the run is kept"
    assert len(report["asset"]["held_out_views"]) == 8
    pictures = read_pictures(finished / "pictures")
    assert pictures.images.shape == (20, 32, 32, 3)
    assert pictures.alpha.min() == 0
    for name in ("asset.ply", "asset.glb", "turntable.mp4", "contact_sheet.png"):
        assert (finished / name).stat().st_size > 0


def scores_of(folder):
    run = RunDirectory.open(folder)
    recipe = read_resolved(run.recipe)
    return held_out_scores(recipe.cameras.make(), load_scene(run, recipe), recipe.renderer.make())


def test_scores_are_of_views_that_training_never_saw(finished, tmp_path):
    run = RunDirectory.open(finished)
    recipe = read_resolved(run.recipe)
    sampler = recipe.cameras.make()
    seen = {int(i) for step in range(recipe.steps) for i in sampler(recipe.seed, step, recipe.steps).index}
    assert not seen & set(sampler.held_out.tolist())
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    report = json.loads((copy / "report.json").read_text())
    assert scores_of(copy) == {name: report["scores"][name] for name in ("psnr", "ssim", "silhouette_iou")}
    # Other pictures in those places, other scores: they are what is compared with.
    image = torch.full((32, 32, 4), 255, dtype=torch.uint8).numpy()
    import imageio.v3 as iio

    for index in sampler.held_out.tolist():
        iio.imwrite(copy / f"pictures/images/{index:06d}.png", image)
    assert scores_of(copy)["psnr"] < report["scores"]["psnr"] - 3


def test_a_moved_run_is_complete(finished, tmp_path, capsys):
    """Nothing outside the folder is needed: export, render and resume work where it lies now."""
    moved = tmp_path / "elsewhere"
    shutil.copytree(finished, moved)
    assert str(finished) not in (moved / "recipe.yaml").read_text()
    assert main(["export", str(moved), "--to", "x.ply"]) == 0
    assert Path("x.ply").read_bytes() == (finished / "asset.ply").read_bytes()
    before = json.loads((moved / "report.json").read_text())["scores"]
    (moved / "report.json").unlink()
    assert main(["resume", str(moved)]) == 0
    after = json.loads((moved / "report.json").read_text())["scores"]
    assert after == before, "a resumed fit is scored, too"
    (moved / "report.json").unlink()
    shutil.rmtree(moved / "pictures")
    capsys.readouterr()
    assert main(["resume", str(moved)]) == 2
    assert "there are no pictures at" in capsys.readouterr().err


def test_a_folder_is_fitted_without_the_folder_being_kept(finished, tmp_path, capsys):
    pictures = read_pictures(finished / "pictures")
    write_srn(tmp_path / "scene", pictures)
    assert main(["fit", "scene", "--resolution", "16", "--steps", "3", "--seed", "4", *TINY]) == 0
    assert "18 views to train on and 2 held out, 16 x 16 pixels" in capsys.readouterr().err
    run = RunDirectory.open(tmp_path / "runs/scene")
    kept = read_pictures(run.path / "pictures")
    expected = pictures.images.reshape(20, 16, 2, 16, 2, 3).mean(dim=(2, 4))
    torch.testing.assert_close(kept.images, expected, atol=2 / 255, rtol=0)
    scores = json.loads(run.report.read_text())["scores"]
    assert "silhouette_iou" not in scores, "these pictures have no alpha"
    assert scores["psnr"] > 5
    assert len(load_scene(run, read_resolved(run.recipe)).at(None)) > 100
    assert read_resolved(run.recipe).seed == 4


def test_larger_pictures_are_never_made(finished):
    assert target_of(finished / "pictures", resolution=500).pictures.images.shape[1] == 32


@pytest.mark.parametrize("name", ["triplane", "mesh"])
def test_other_representations(mesh_file, name):
    arguments = ["--resolution", "16", "--views", "4", "--steps", "2", "export.turntable.frames=1"]
    assert (
        main(["fit", str(mesh_file), "--representation", name, *arguments, "export.mesh.resolution=24"]) == 0
    )
    run = RunDirectory.open(Path("runs/half-and-half"))
    assert read_resolved(run.recipe).representation.name == name
    assert "psnr" in json.loads(run.report.read_text())["scores"]


def test_bad_input(mesh_file, finished, tmp_path, capsys):
    for name in ("a.zip", "a.blend"):
        (tmp_path / name).write_text("x")
    (tmp_path / "nothing").mkdir()
    ply = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    ply += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    (tmp_path / "range.ply").write_text(ply + "0 0 0\n1 0 0\n0 1 0\n3 0 1 77\n")
    (tmp_path / "line.obj").write_text("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n")
    mesh, folder = str(mesh_file), str(finished / "pictures")
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in (
        ([], "DATASET|MESH"),
        (["nowhere"], "there is no file or folder 'nowhere'"),
        (["nowhere.obj"], "there is no file or folder 'nowhere.obj'"),
        (["a.zip"], "is an archive: unpack it"),
        (["a.blend"], "is neither a mesh"),
        (["nothing"], "holds no posed pictures"),
        (["nothing/transforms.json"], "there is no file or folder 'nothing/transforms.json'"),
        ([mesh, "--views", "1"], "--views must be at least 2"),
        ([mesh, "--resolution", "2"], "--resolution must be at least 8"),
        ([mesh, "--light", "2"], "--light must lie between 0 and 1"),
        ([mesh, "--light", "nan"], "--light must lie between 0 and 1"),
        ([mesh, "--light", "bright"], "--light"),
        ([mesh, "--texture", "no.png"], "cannot read the texture no.png"),
        ([mesh, "--backend", "voodoo"], "argument --backend: invalid choice: 'voodoo'"),
        ([mesh, *SMALL, "--backend", "gsplat"], "the splatting backend 'gsplat' is not available"),
        ([mesh, *SMALL, "--backend", "nvdiffrast"], "unknown splatting backend 'nvdiffrast'"),
        ([mesh, *SMALL, "--representation", "splats"], "unknown representation 'splats'"),
        ([mesh, *SMALL, "--recipe", "fti"], "unknown recipe 'fti', did you mean 'fit'?"),
        ([mesh, *SMALL, "--steps", "0"], "steps is 0; it must be at least 1"),
        ([mesh, *SMALL, "background.random=1"], "compared on white"),
        ([mesh, *SMALL, "cameras.holdout=20"], "at least one must be left"),
        ([mesh, "--out", str(finished)], "already holds a run"),
        ([folder, "--views", "5"], "--views is for a mesh file"),
        ([folder, "--light", "0"], "--light is for a mesh file"),
        (["x" * 5000], "name too long"),
        (["~nosuchuser/x.ply"], "cannot look at '~nosuchuser/x.ply'"),
        ([mesh, *SMALL, "--recipe", "text-to-3d"], "recipe 'text-to-3d' has no given pictures"),
        ([mesh, *SMALL, "--recipe", "magic3d"], "recipe 'magic3d' has no given pictures"),
        (["range.ply"], "range.ply has a triangle of corners that are not there"),
        (["line.obj"], "line.obj has no area"),
    ):
        assert main(["fit", *arguments]) == 2, arguments
        written = capsys.readouterr().err.strip().splitlines()
        assert message in written[-1], written
        assert written[-1].startswith("threedgen: ")
        assert sorted(p for p in tmp_path.rglob("*") if p.name != "runs") == before, arguments


def test_a_mesh_too_thin_to_be_seen_is_refused(tmp_path):
    path = tmp_path / "needle.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 1 1e-7 0\nf 1 2 3\n")
    with pytest.raises(UserError, match=r"cannot be seen in pictures of 16 x 16"):
        target_of(path, resolution=16, views=2)


@pytest.mark.parametrize("setting", ["representation=mesh", "representation.name=mesh"])
def test_a_representation_as_a_setting_means_what_the_option_means(mesh_file, setting):
    settings = [setting, *QUICK]
    run = fit(mesh_file, resolution=16, views=4, out="set", settings=settings, steps=1, progress=False)
    representation = run.recipe.representation
    assert representation.name == "mesh"
    assert (representation.config.vertices, representation.config.color) == ("fixed", "texture")
    assert run.report["scores"]["watertight"] is True


def test_a_name_that_is_not_utf8(mesh_file, tmp_path):
    """Linux names are bytes; Python shows the odd ones as halves of characters, which no file of text can hold."""
    odd = Path(shutil.copy(mesh_file, tmp_path / f"a\udcff{mesh_file.suffix}"))
    run = fit(
        odd,
        resolution=16,
        views=4,
        out="odd",
        representation="mesh",
        settings=QUICK,
        steps=1,
        progress=False,
    )
    assert run.report["prompt"] == "a?"


def pictures_of(path, scale=1.0, shift=0.0):
    """The mesh as a data set whose object is `scale` times as large, `shift` above the origin."""
    pictures = target_of(path, resolution=32, views=4).pictures
    poses = pictures.cameras.world_from_camera.clone()
    poses[:, :3, 3] *= scale
    poses[:, 1, 3] += shift
    return replace(pictures, cameras=replace(pictures.cameras, world_from_camera=poses))


def test_an_object_that_reaches_out_of_the_unit_sphere_is_scaled_into_it(mesh_file, tmp_path):
    """As nerf-synthetic's do; our fields end at the unit box."""
    write_transforms(tmp_path / "small", pictures_of(mesh_file))
    write_transforms(tmp_path / "large", pictures_of(mesh_file, 2.0))
    small, large = target_of(tmp_path / "small"), target_of(tmp_path / "large")
    assert object_reach(small.pictures) == pytest.approx(0.9, abs=0.03)
    assert object_reach(large.pictures) == pytest.approx(0.9, abs=1e-3)
    assert "scaled" not in small.about
    assert "the object reached 1." in large.about
    # The same rays, so the same pictures of a smaller world.
    ratio = large.pictures.cameras.centers.norm(dim=1) / small.pictures.cameras.centers.norm(dim=1)
    assert ratio.std() < 1e-3
    write_srn(tmp_path / "opaque", pictures_of(mesh_file, 2.0))
    assert "scaled" not in target_of(tmp_path / "opaque").about, "these have no alpha"


def test_cameras_that_look_past_the_origin_are_moved_to_it(mesh_file, tmp_path):
    write_srn(tmp_path / "away", pictures_of(mesh_file, shift=5.0))
    target = target_of(tmp_path / "away")
    assert "the capture was centred on (" in target.about
    assert float(target.pictures.cameras.centers.mean(0).norm()) < 0.5


def test_up_of_a_data_set(finished, mesh_file):
    folder = finished / "pictures"
    y, z = (target_of(folder, up=up).pictures.cameras.centers for up in ("y", "z"))
    torch.testing.assert_close(z, torch.stack([y[:, 0], y[:, 2], -y[:, 1]], dim=1))
    assert torch.equal(target_of(folder).pictures.cameras.centers, y)
    for source, up, message in (
        (folder, "x", "--up must be y or z"),
        (mesh_file, "z", "--up is for a data set"),
    ):
        with pytest.raises(UserError, match=message):
            target_of(source, up=up)


def test_pictures_that_would_be_too_narrow_are_refused(tmp_path):
    cameras = orbit(torch.tensor([0.0, 90.0]), torch.zeros(2), torch.full((2,), 3.0), 40.0, 100, 9)
    shades = torch.linspace(0.0, 1.0, 100)[None, :, None, None].expand(2, 100, 9, 3)
    write_srn(tmp_path / "tall", PosedPictures(shades, torch.ones(2, 100, 9, 1), cameras))
    assert target_of(tmp_path / "tall").pictures.images.shape[2] == 9
    with pytest.raises(UserError, match="4 pixels wide at --resolution 50"):
        target_of(tmp_path / "tall", resolution=50)
