"""The Python API: what the commands do, as functions; what a run gives back."""

from __future__ import annotations

import functools
import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

import threedgen
from threedgen import UserError, fit, image_to_3d, load_run, text_to_3d, text_to_4d
from threedgen.commands.main import main
from threedgen.loop.events import StepDone
from threedgen.pipelines.text_to_3d import prepare

ROOT = Path(__file__).parents[2]
SMALL = {
    "guidance.0.prior.name": "disc",
    "representation.count": 60,
    "cameras.batch": 2,
    "cameras.resolution": 16,
    "export.mesh.resolution": 24,
    "export.settle": 0,
    "export.turntable.frames": 3,
    "export.turntable.size": 32,
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "disc"
    return text_to_3d("a disc", out=out, seed=3, steps=4, settings=SMALL, progress=False)


def test_a_function_makes_what_its_command_makes(run, tmp_path):
    settings = [f"{key}={value}" for key, value in SMALL.items()]
    command = ["text-to-3d", "a disc", "--seed", "3", "--steps", "4", "--out", str(tmp_path / "run")]
    assert main([*command, *settings]) == 0
    for name in ("asset.ply", "asset.glb", "recipe.yaml"):
        assert (tmp_path / "run" / name).read_bytes() == (run.path / name).read_bytes()


def test_a_run_gives_its_files_and_its_scene(run):
    assert run.finished
    assert run.report["prompt"] == "a disc"
    assert run.report["seconds"]["total"] == round(run.report["seconds"]["total"], 3)
    assert run.recipe.seed == 3
    assert len(run.splats()) == len(run.scene.means) == run.report["asset"]["gaussians"]
    assert run.scene is run.scene
    assert repr(run) == f"Run('{run.path}', finished)"
    assert run._repr_png_() == (run.path / "contact_sheet.png").read_bytes()


def test_the_mesh_is_the_one_in_the_file(run):
    mesh = run.mesh()
    assert isinstance(mesh, trimesh.Trimesh)
    there: Any = trimesh.load(run.path / "asset.glb", force="mesh", process=False)
    np.testing.assert_allclose(mesh.vertices, there.vertices, atol=1e-6)
    np.testing.assert_array_equal(mesh.faces, there.faces)
    ours: Any = mesh.visual.material  # type: ignore[union-attr]
    theirs = there.visual.material.baseColorTexture
    np.testing.assert_array_equal(np.asarray(ours.image.convert("RGB")), np.asarray(theirs.convert("RGB")))


@pytest.mark.parametrize("kind", [str, Path])
def test_it_exports_and_renders_to_text_and_paths(run, kind, tmp_path):
    path = run.export(kind(tmp_path / "x.obj"), {"mesh.faces": 200})
    assert path == tmp_path / "x.obj"
    assert path.stat().st_size > 0
    frames = run.render(kind(tmp_path / "frames"), {"frames": 2})
    assert len(list(frames.glob("*.png"))) == 2
    with pytest.raises(UserError, match=r"use one of .glb"):
        run.export(kind(tmp_path / "x.fbx"))


def test_a_turntable_shows_the_mesh_and_on_request_what_was_optimised(run, tmp_path):
    """The same views as on the contact sheet: the mesh above, the Gaussians below."""
    mesh, own = (
        np.asarray(Image.open(run.render(tmp_path / name, {"frames": 8}, show=show) / "frame_00001.png"))
        for name, show in (("mesh", None), ("own", "optimised"))
    )
    sheet, size = np.asarray(Image.open(run.path / "contact_sheet.png")), len(mesh)
    np.testing.assert_array_equal(mesh, sheet[:size, size : 2 * size])
    np.testing.assert_array_equal(own, sheet[2 * size : 3 * size, size : 2 * size])
    assert not np.array_equal(mesh, own)


def test_a_run_without_a_mesh_is_shown_as_optimised(run, tmp_path):
    def frames(folder, name, **options):
        path = load_run(folder).render(tmp_path / name, {"frames": 1}, **options)
        return (path / "frame_00000.png").read_bytes()

    expected = frames(run.path, "expected", show="optimised")
    assert frames(run.path, "mesh", show="mesh") != expected
    for missing in ("report.json", "asset.glb"):  # a mesh of a run that goes on may be of an earlier state
        copy = tmp_path / missing.replace(".", "-")
        shutil.copytree(run.path, copy)
        (copy / missing).unlink()
        assert frames(copy, f"{copy.name}-frames") == expected
    with pytest.raises(UserError, match=r"there is no mesh to show, because .*asset\.glb is missing"):
        frames(copy, "refused", show="mesh")
    (copy / "asset.glb").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"cannot read .*asset\.glb"):
        frames(copy, "refused")


def test_quality_and_levels_of_detail(run, tmp_path, capsys):
    """A setting that is given wins over the quality, in Python as on the command line."""
    path = run.export(
        tmp_path / "a.glb", {"mesh.resolution": 24, "mesh.texture_size": 64}, quality="draft", lods=2
    )
    sizes = {}
    for name in ("a.glb", "a.lod1.glb", "a.lod2.glb"):
        mesh: Any = trimesh.load(path.with_name(name), force="mesh", process=False)
        sizes[name] = len(mesh.faces), mesh.visual.material.baseColorTexture.size[0]
        assert trimesh.Trimesh(mesh.vertices, mesh.faces).is_watertight
    triangles, texels = zip(*sizes.values(), strict=True)
    assert texels == (64, 32, 16)
    assert 0 < triangles[2] <= triangles[1] // 4 <= triangles[0] // 16
    options = ["--quality", "draft", "--texture-size", "64", "--lods", "2", "mesh.resolution=24"]
    assert main(["export", str(run.path), "--to", str(tmp_path / "b.glb"), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines[:-1]] == [
        str(tmp_path / name.replace("a", "b", 1)) for name in sizes
    ]
    assert "texture of 32 x 32" in lines[1]
    assert lines[-1].startswith("colours: ")
    for name in sizes:
        assert (tmp_path / name).read_bytes() == (tmp_path / name.replace("a", "b", 1)).read_bytes()


def test_more_levels_than_there_are_is_a_warning(run, tmp_path):
    with pytest.warns(UserWarning, match="lod4.obj is not written: no mesh with so few triangles"):
        run.export(tmp_path / "a.obj", {"mesh.texture_size": 0, "mesh.faces": 3000}, lods=9)
    assert (tmp_path / "a.lod3.obj").is_file()
    assert not (tmp_path / "a.lod4.obj").exists()


@pytest.mark.parametrize("name", ["x.ply", "x.gif", "frames"])
def test_levels_of_detail_are_for_meshes(run, name, tmp_path):
    with pytest.raises(UserError, match="levels of detail are for meshes"):
        run.export(tmp_path / name, lods=1)


def test_the_quality_of_a_run(tmp_path):
    common: Any = {"quality": "draft", "settings": {"export.mesh.faces": 700}}
    mesh = prepare("a disc", out=tmp_path / "x", **common).recipe.fixed["export"].config.mesh
    assert (mesh.resolution, mesh.texture_size, mesh.faces) == (64, 256, 700)
    with pytest.raises(UserError, match="unknown quality 'best'"):
        prepare("a disc", quality="best")


def test_load_run_opens_what_commands_wrote(run):
    again = load_run(str(run.path))
    assert again.path == run.path
    torch.testing.assert_close(again.scene.means, run.scene.means, rtol=0, atol=0)
    assert again.resume(progress=False) is again
    with pytest.raises(UserError, match="there is no run 'nowhere'"):
        load_run("nowhere")


def test_settings_are_a_mapping_or_a_list(tmp_path):
    listed = [f"{key}={value}" for key, value in SMALL.items()]
    one = text_to_3d("x", out="one", steps=1, settings=listed, progress=False)
    other = text_to_3d("x", out="other", steps=1, settings=SMALL, progress=False)
    assert (one.path / "asset.ply").read_bytes() == (other.path / "asset.ply").read_bytes()
    with pytest.raises(UserError, match=r"did you mean 'cameras.batch'"):
        text_to_3d("x", settings={"cameras.batsh": 3})
    assert not Path("runs").exists()


def test_an_interrupted_run_names_its_path_and_resumes_to_the_same_bits(run, tmp_path):
    class Stop:
        def __call__(self, event):
            if isinstance(event, StepDone) and event.step == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        text_to_3d(
            "a disc",
            out=tmp_path / "run",
            seed=3,
            steps=4,
            settings={**SMALL, "checkpoint.every": 1},
            progress=False,
            listeners=[Stop()],
        )
    assert stopped.value.args == (tmp_path / "run",)
    unfinished = load_run(stopped.value.args[0])
    assert not unfinished.finished
    with pytest.raises(UserError, match="has no report"):
        _ = unfinished.report
    unfinished.resume(progress=False)
    assert (unfinished.path / "asset.ply").read_bytes() == (run.path / "asset.ply").read_bytes()


def test_a_run_in_a_thread(tmp_path):
    found = []
    thread = threading.Thread(
        target=lambda: found.append(
            text_to_3d("x", out=tmp_path / "t", steps=1, settings=SMALL, progress=False)
        )
    )
    thread.start()
    thread.join()
    assert found[0].finished


def test_the_other_tasks(tmp_path):
    ball = trimesh.creation.icosphere(2, 0.5)
    ball.export(tmp_path / "ball.ply")
    small = {key: value for key, value in SMALL.items() if "guidance" not in key}
    fitted = fit(tmp_path / "ball.ply", views=4, resolution=16, steps=2, settings=small, progress=False)
    assert fitted.report["prompt"] == "ball"
    rows, columns = np.mgrid[:64, :64]
    alpha = 255 * (np.hypot(rows - 32, columns - 32) < 20)
    picture = np.stack([200 + 0 * alpha, 40 + 0 * alpha, 40 + 0 * alpha, alpha], axis=2).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "ball.png")
    pictured = image_to_3d(tmp_path / "ball.png", steps=2, settings=small, progress=False)
    assert (pictured.path / "reference" / "picture.png").is_file()
    moved = text_to_4d(
        "a ball bouncing",
        asset=pictured.path,
        seconds=0.5,
        fps=4,
        steps=1,
        settings={
            "cameras.resolution": 16,
            "cameras.batch": 1,
            "export.turntable.size": 32,
            "export.moving_faces": 200,
        },
        progress=False,
    )
    assert (moved.path / "anim.glb").is_file()
    assert len(moved.splats()) == len(pictured.splats())


def test_the_snippet_of_the_readme_runs(monkeypatch, capsys):
    """As it stands, with fewer steps of a smaller run."""
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    quick = {key: value for key, value in SMALL.items() if "guidance" not in key}
    monkeypatch.setattr(
        threedgen, "text_to_3d", functools.partial(text_to_3d, steps=3, settings=quick), raising=False
    )
    assert len(snippet.splitlines()) <= 10
    exec(compile(snippet, "README.md", "exec"), {})
    made = {path.name for path in Path().iterdir()}
    assert {"cube.obj", "cube.gif", "runs"} <= made
    assert json.loads(Path("runs/cube/report.json").read_text())["seed"] == 0
