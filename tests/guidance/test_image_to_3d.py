"""`threedgen image-to-3d`: from a picture to a scored run that resumes and moves; bad input is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from threedgen.cli import main
from threedgen.config import read_resolved
from threedgen.image_to_3d import image_recipe

TINY = [
    "--steps=3",
    "cameras.batch=2",
    "cameras.resolution=32",
    "representation.count=200",
    "export.mesh.resolution=24",
    "export.turntable.frames=2",
    "export.turntable.size=32",
]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def prior(pipelines):
    return str(pipelines["zero123"])


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A red ball on white, opaque, in a folder and a file with spaces and letters beyond ASCII."""
    rows, columns = np.mgrid[:80, :100] + 0.5
    cover = np.clip(25.5 - np.hypot(rows - 40, columns - 60), 0, 1)[..., None]
    path = tmp_path_factory.mktemp("my pictures") / "Rötlicher Ball.png"
    Image.fromarray(np.round(255 * (1 - cover) + cover * (200, 40, 30)).astype(np.uint8)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def finished(picture, prior, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "ball"
    command = ["image-to-3d", picture, "--prior", prior, "--out", str(run), *TINY]
    assert main([*command, "cameras.reference.elevation=20"]) == 0
    return run


def test_a_picture_becomes_a_scored_asset(finished):
    report = json.loads((finished / "report.json").read_text())
    assert report["prompt"] == "Rötlicher Ball"
    assert 5 < report["scores"]["reference_psnr"] < 60
    assert 0 <= report["scores"]["reference_mask_iou"] <= 1
    cut = np.asarray(Image.open(finished / "reference" / "picture.png"))
    assert cut.shape == (512, 512, 4)
    assert cut[256, 256].tolist() == [200, 40, 30, 255]
    assert 0.55 < (cut[..., 3] > 127).mean() < 0.68, "a disc of 0.9 of the frame covers 64 percent"
    for name in ("asset.ply", "turntable.mp4", "contact_sheet.png"):
        assert (finished / name).stat().st_size > 0


def test_the_prior_is_told_where_the_picture_was_seen_from(finished):
    recipe = read_resolved(finished / "recipe.yaml")
    assert recipe.cameras.config.reference.elevation == 20.0
    assert recipe.guidance[0].config.reference.elevation == 20.0


def test_a_moved_run_is_complete(finished, prior, tmp_path, capsys):
    moved = tmp_path / "elsewhere"
    shutil.copytree(finished, moved)
    assert str(finished) not in (moved / "recipe.yaml").read_text()
    assert main(["export", str(moved), "--to", "x.ply"]) == 0
    assert Path("x.ply").read_bytes() == (finished / "asset.ply").read_bytes()
    assert main(["render", str(moved), "--to", "x.gif", "frames=2", "size=32"]) == 0
    before = json.loads((moved / "report.json").read_text())["scores"]
    (moved / "report.json").unlink()
    assert main(["resume", str(moved)]) == 0
    assert json.loads((moved / "report.json").read_text())["scores"] == before


def test_bad_input(picture, prior, finished, tmp_path, capsys):
    Image.new("RGB", (64, 64), (90, 90, 90)).save("grey.png")
    Image.new("RGBA", (64, 64), (90, 90, 90, 0)).save("clear.png")
    Image.new("L", (20, 80), 255).save("mask.png")
    Path("text.png").write_text("x")
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in (
        ([], "PICTURE"),
        (["nowhere.png"], "there is no picture 'nowhere.png'"),
        (["text.png"], "is not a PNG"),
        (["grey.png"], "no object stands out"),
        (["clear.png"], "transparent all over"),
        ([picture, "--mask", "mask.png"], "must be of one size"),
        ([picture], "needs a view-conditioned model: --prior FOLDER"),
        ([picture, "--prior", "embedded"], "needs a view-conditioned model: --prior FOLDER"),
        ([picture, "--prior", "no/such/folder"], "no/such/folder"),
        ([picture, "--prior", prior, "--recipe", "dreamfusion"], "looks at no picture"),
        ([picture, "--prior", prior, "--recipe", "zero12"], "did you mean 'zero123'?"),
        ([picture, "--prior", prior, "cameras.reference.elevation=95"], "between -90 and 90"),
        ([picture, "--prior", prior, "cameras.reference.elevtion=5"], "did you mean"),
        ([picture, "--prior", prior, *TINY, "background.random=1"], "compared on white"),
        ([picture, "--out", str(finished)], "already holds a run"),
    ):
        assert main(["image-to-3d", *arguments]) == 2, arguments
        written = capsys.readouterr().err.strip().splitlines()
        assert message in written[-1], written
        assert written[-1].startswith("threedgen: ")
        assert sorted(p for p in tmp_path.rglob("*") if p.name != "runs") == before, arguments


def test_the_recipe_alone_says_what_it_lacks(tmp_path, picture, prior, capsys):
    """As text-to-3d it has no cut-out: one line names the command that makes one."""
    assert main(["text-to-3d", "a ball", "--recipe", "zero123", "--prior", prior]) == 2
    assert "reference.image 'run:reference/picture.png' cannot be read" in capsys.readouterr().err
    recipe = image_recipe(tmp_path / "run", "x", prior=prior)
    assert recipe.guidance[1].config.image == str(tmp_path / "run" / "reference" / "picture.png")
