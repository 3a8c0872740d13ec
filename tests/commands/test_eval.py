"""`threedgen eval` on runs, pictures and models: the three files, and bad input in one line."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
import trimesh
from eval_parts import Knowing, MeanColour, seen
from torch import Tensor

from threedgen.commands.main import main
from threedgen.core.pictures import resize
from threedgen.datasets.given import read_pictures
from threedgen.datasets.multiview import write_srn, write_transforms
from threedgen.datasets.objects import open_objects


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("THREEDGEN_LPIPS", raising=False)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Two objects in the published layout: 128 x 128, rgb/, pose/, intrinsics.txt."""
    folder = tmp_path_factory.mktemp("srn")
    for name, color in (("1a2b", "red"), ("3c4d", "blue")):
        write_srn(folder / name, seen(6, 128, color))
    return folder


@pytest.fixture
def _mean_colours(monkeypatch):
    """For tests of which pictures are compared, not by what."""
    monkeypatch.setattr("threedgen.evaluation.scorer.load_features", lambda name: MeanColour())


def evaluated(*arguments: object) -> dict[str, Any]:
    """eval.json of a command that succeeds, in `out`."""
    assert main(["eval", *map(str, arguments), "--out", "out"]) == 0
    return json.loads(Path("out/eval.json").read_text())


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as stream:
        return list(csv.DictReader(stream))


def refused(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert main(["eval", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("threedgen: ")
    assert said.count("\n") == 1
    return said


def test_a_model_is_evaluated_on_srn_folders(scenes, monkeypatch, capsys):
    """A trained folder, asked by the published protocol, which says what it falls back to with six views."""
    from threedgen.evaluation import nerfdiff_predictors as predictors

    known = open_objects(str(scenes))
    opened: list[str] = []

    def load(folder, device="cpu"):
        opened.append(str(folder))
        return Knowing(known)

    monkeypatch.setattr(predictors, "load_predictor", load)
    Path("model").mkdir()
    Path("model/nerfdiff.json").write_text("{}")
    assert "--device is for an ssdnerf" in refused(capsys, "model", "--truth", scenes, "--device", "cpu")
    said = evaluated("model", "--truth", scenes, "--protocol", "srn")
    assert opened == ["model"]
    assert (said["objects"], said["views"], said["protocol"]) == (2, 10, "srn")
    assert said["scores"]["psnr"] == 100.0
    assert said["networks"]["features"] == "embedded"
    assert any("start from view 1" in text for text in said["warnings"])
    assert any("FID is biased: 10 samples of 296 features" in text for text in said["warnings"])
    assert "| FID (embedded) |" in capsys.readouterr().out
    rows = rows_of("out/views.csv")
    assert [(row["object"], row["view"]) for row in rows[:5]] == [("1a2b", view) for view in "02345"]
    assert "PSNR dB" in Path("out/table.md").read_text()
    monkeypatch.setattr("threedgen.evaluation.scorer.load_features", lambda name: MeanColour())
    assert evaluated("model", "--truth", scenes, "--objects", 1)["objects"] == 1
    assert not any("trained on" in text for text in said["warnings"])
    assert "--truth DATASET" in refused(capsys, "model")
    assert "--up is for" in refused(capsys, "model", "--truth", scenes, "--up", "y")
    assert "holds no objects" in refused(capsys, "model", "--truth", ".")


@pytest.mark.usefixtures("_mean_colours")
@pytest.mark.parametrize("counted", ["objects", "scenes"])
def test_objects_of_the_training_are_said(counted, scenes, monkeypatch):
    """A model that learnt from the first object of the folder, under another path of that name."""
    from threedgen.evaluation import nerfdiff_predictors as predictors

    monkeypatch.setattr(predictors, "load_predictor", lambda *_: Knowing(open_objects(str(scenes))))
    Path("model").mkdir()
    Path("cars").symlink_to(scenes)

    def warnings(dataset: str) -> list[str]:
        Path("model/nerfdiff.json").write_text(json.dumps({"dataset": dataset, counted: 1}))
        return [text for text in evaluated("model", "--truth", "cars")["warnings"] if "trained" in text]

    (text,) = warnings("cars")
    assert text.startswith("1 of the 2 objects are probably among those that the model was trained on")
    assert warnings(scenes.resolve().name)
    assert warnings("others") == warnings("shape-world:car") == warnings("") == []


@pytest.mark.usefixtures("_mean_colours")
def test_objects_of_the_training_are_told_by_their_content(scenes, monkeypatch):
    """Not by the name of the folder: in a renamed copy with other objects first, and in none of the same name."""
    from threedgen.evaluation import nerfdiff_predictors as predictors

    record = {"dataset": "cars", "objects": 2, "digests": open_objects(str(scenes)).digests()}
    assert len(set(record["digests"])) == 2
    Path("model").mkdir()
    Path("model/nerfdiff.json").write_text(json.dumps(record))
    shutil.copytree(scenes / "1a2b", "copy/z")
    write_srn(Path("copy/a"), seen(6, 128, "green"))
    write_srn(Path("cars/1a2b"), seen(6, 128, "green"))
    for truth, count in (("copy", 1), (scenes, 2), ("cars", 0)):
        known = Knowing(open_objects(str(truth)))
        monkeypatch.setattr(predictors, "load_predictor", lambda *_, known=known: known)
        said = [text for text in evaluated("model", "--truth", truth)["warnings"] if "trained" in text]
        assert [text[0] for text in said] == ([str(count)] if count else []), truth


def write_plain(folder: Path, pictures: Tensor, names: list[str], suffix: str = ".png") -> None:
    folder.mkdir(parents=True)
    for name, picture in zip(names, pictures, strict=True):
        imageio.imwrite(folder / f"{name}{suffix}", (picture * 255).round().to(torch.uint8).numpy())


@pytest.mark.usefixtures("_mean_colours")
def test_pictures_are_compared_by_name(scenes, capsys):
    truth = read_pictures(scenes / "1a2b")
    names = [f"{i:06d}" for i in range(6)]
    worse = truth.images.clone()
    worse[4] = 1.0
    write_plain(Path("mine"), worse[1:].flip(0), names[1:][::-1])
    said = evaluated("mine", "--truth", scenes / "1a2b")
    assert said["views"] == 5
    assert said["warnings"][0] == "1 true pictures have no counterpart, they are left out"
    rows = {row["view"]: float(row["psnr"]) for row in rows_of("out/views.csv")}
    assert rows.pop("000004") < 20.0
    assert all(value == 100.0 for value in rows.values())
    # The same against plain files, and against a transforms.json whose frames are in another order.
    write_plain(Path("plain"), truth.images, names)
    write_transforms(Path("posed"), truth)
    document = json.loads(Path("posed/transforms.json").read_text())
    document["frames"].reverse()
    Path("posed/transforms.json").write_text(json.dumps(document))
    for other in ("plain", "posed"):
        assert evaluated("mine", "--truth", other)["scores"]["psnr"] == pytest.approx(
            said["scores"]["psnr"], abs=0.3
        )
    assert main(["eval", "mine", "--truth", "plain"]) == 0
    assert Path("mine/eval/table.md").is_file(), "where no --out says otherwise"


@pytest.mark.usefixtures("_mean_colours")
def test_pictures_of_several_objects_are_compared_folder_by_folder(scenes, capsys):
    for name in ("1a2b", "3c4d"):
        write_plain(Path("mine") / name, read_pictures(scenes / name).images, [f"{i:06d}" for i in range(6)])
    said = evaluated("mine", "--truth", scenes)
    assert (said["objects"], said["views"], said["scores"]["psnr"]) == (2, 12, 100.0)
    assert said["scores"]["fid"] < 1e-3
    Path("mine/3c4d").rename("mine/other")
    assert "holds objects that" in refused(capsys, "mine", "--truth", scenes)


def test_wrong_pictures_are_one_line(scenes, capsys):
    truth = read_pictures(scenes / "1a2b").images
    names = [f"{i:06d}" for i in range(6)]
    write_plain(Path("names"), truth, [*names[:5], "extra"])
    said = refused(capsys, "names", "--truth", scenes / "1a2b")
    assert "'names' holds pictures that" in said
    assert "extra; names must be the same" in said
    write_plain(Path("small"), resize(truth, 64, 64), names)
    assert "pictures of 64 x 64 pixels, the true ones have 128 x 128" in refused(
        capsys, "small", "--truth", scenes / "1a2b"
    )
    write_plain(Path("mixed"), truth[:5], names[:5])
    imageio.imwrite("mixed/000005.png", np.zeros((20, 20, 3), np.uint8))
    assert "differ in size" in refused(capsys, "mixed", "--truth", scenes / "1a2b")
    write_plain(Path("twice"), truth[:1], names[:1])
    imageio.imwrite("twice/000000.jpg", np.zeros((128, 128, 3), np.uint8))
    assert "two pictures of the name 000000" in refused(capsys, "twice", "--truth", scenes / "1a2b")
    Path("broken").mkdir()
    Path("broken/000000.png").write_bytes(b"")
    assert "empty (0 bytes)" in refused(capsys, "broken", "--truth", scenes / "1a2b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--truth", "."], "there is nothing at 'nowhere'"),
        (["file.txt"], "is a file"),
        (["empty", "--truth", "."], "'empty' holds no pictures"),
        (["pictures"], "compare"),
        (["pictures", "--truth", "nowhere"], "there are no pictures at 'nowhere'"),
        (["pictures", "--truth", "file.txt"], "is not a folder of pictures"),
        (["pictures", "--truth", "pictures", "--features", "vgg"], "unknown feature network 'vgg'"),
        (["pictures", "--truth", "pictures", "--lpips", "no.safetensors"], "import lpips"),
        (["pictures", "--truth", "pictures", "--protocol", "srn"], "--protocol is for a trained model"),
        (["pictures", "--truth", "pictures", "--objects", "3"], "--objects is for a trained model"),
        (["pictures", "--truth", "pictures", "--device", "cpu"], "--device is for a trained model"),
        (["pictures", "--truth", "pictures", "--up", "z"], "--up turns the cameras"),
        (["pictures", "--truth", "pictures", "--out", "file.txt"], "is a file; choose another --out"),
        (["pictures", "--protocol", "long"], "--protocol"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    Path("file.txt").write_text("x")
    Path("empty").mkdir()
    write_plain(Path("pictures"), torch.rand(2, 20, 20, 3), ["a", "b"])
    assert message in refused(capsys, *arguments)
    assert not Path("pictures/eval").exists()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    """A coarse fit of a two-coloured ball."""
    folder = tmp_path_factory.mktemp("fit")
    ball: Any = trimesh.creation.icosphere(subdivisions=3)
    right = ball.vertices[:, :1] > 0
    ball.visual.vertex_colors = np.where(right, [[220, 40, 30, 255]], [[30, 60, 220, 255]]).astype(np.uint8)
    ball.export(folder / "ball.ply")
    tiny = ["representation.count=300", "export.mesh.resolution=24", "export.turntable.frames=1"]
    size = ["--resolution", "32", "--views", "8", "--steps", "40", "export.turntable.size=16"]
    assert main(["fit", str(folder / "ball.ply"), "--out", str(folder / "run"), *size, *tiny]) == 0
    return folder / "run"


def test_a_fitted_run_is_compared_with_what_it_held_out(fitted, capsys):
    said = evaluated(fitted)
    report = json.loads((fitted / "report.json").read_text())
    assert said["scores"]["psnr"] == pytest.approx(report["scores"]["psnr"], abs=1e-3)
    assert said["scores"]["ssim"] == pytest.approx(report["scores"]["ssim"], abs=1e-3)
    assert said["report"]["psnr"] == report["scores"]["psnr"]
    assert said["scores"]["consistency"]["psnr"] > 20.0
    assert 0.3 < said["scores"]["consistency"]["share"] <= 1.0
    views = [int(row["view"]) for row in rows_of("out/views.csv")]
    assert views == report["asset"]["held_out_views"]
    assert "its own report: " in capsys.readouterr().out


def test_a_run_is_compared_with_true_pictures_of_either_layout(fitted, capsys):
    own = read_pictures(fitted / "pictures")
    write_srn(Path("truth"), own)
    said = evaluated(fitted, "--truth", "truth")
    assert said["views"] == len(own.images)
    assert said["truth"] == "truth"
    report = json.loads((fitted / "report.json").read_text())["scores"]
    held_out = json.loads((fitted / "report.json").read_text())["asset"]["held_out_views"]
    values = {int(row["view"]): float(row["psnr"]) for row in rows_of("out/views.csv")}
    # At the size it was optimised at, the asset is drawn with that blur and no more.
    assert sum(values[view] for view in held_out) / len(held_out) == pytest.approx(report["psnr"], abs=0.02)
    # A world twice as large, as its owner has it: `fit` scaled it, and so is the truth.
    poses = own.cameras.world_from_camera.clone()
    poses[:, :3, 3] *= 2.0
    write_transforms(Path("large"), replace(own, cameras=replace(own.cameras, world_from_camera=poses)))
    scaled = evaluated(fitted, "--truth", "large")
    assert scaled["scores"]["psnr"] == pytest.approx(said["scores"]["psnr"], abs=0.2)
    poses[:3, :3, 3] *= 1.5
    write_transforms(Path("odd"), replace(own, cameras=replace(own.cameras, world_from_camera=poses)))
    assert "by how much cannot be told" in refused(capsys, fitted, "--truth", "odd")
    assert "holds no posed pictures" in refused(capsys, fitted, "--truth", ".")


def test_a_run_from_a_prompt_has_its_consistency_and_no_more(capsys):
    quick = ["steps=2", "guidance.0.prior.name=disc", "representation.count=60", "cameras.batch=1"]
    small = ["cameras.resolution=16", "export.mesh.resolution=16", "export.turntable.frames=1"]
    assert main(["text-to-3d", "a ball", "--out", "run", "export.turntable.size=16", *quick, *small]) == 0
    said = evaluated("run")
    assert said["views"] == 0
    assert set(said["scores"]) <= {"consistency"}
    assert said["networks"]["features"] is None
    shutil.rmtree("run/checkpoint")
    assert "has no checkpoint yet" in refused(capsys, "run")
