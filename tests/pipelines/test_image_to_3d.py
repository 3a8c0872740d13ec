"""`threedgen image-to-3d`: from a picture to a scored run that resumes and moves; bad input is one line."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from threedgen.commands.main import main
from threedgen.pipelines.image_to_3d import image_recipe
from threedgen.recipes.load import read_resolved

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


@pytest.fixture(scope="module")
def three_views(picture, prior, tmp_path_factory):
    """The ball again, from behind and from above, and how deep it is."""
    run = tmp_path_factory.mktemp("runs") / "three"
    folder = tmp_path_factory.mktemp("ö further = pictures")
    rgba = np.zeros((64, 64, 4), dtype=np.uint8)
    rgba[8:56, 16:48] = (30, 40, 200, 255)
    for name in ("back=1.png", "top.png"):
        Image.fromarray(rgba).save(folder / name)
    rows, columns = np.mgrid[:80, :100] + 0.5
    bulge = np.sqrt(np.clip(25.5**2 - (rows - 40) ** 2 - (columns - 60) ** 2, 0, None)) / 25.5
    Image.fromarray(np.round(30000 + 30000 * bulge).astype(np.uint16)).save(folder / "depth.png")
    views = ["--views", f"{folder}/back=1.png@180", f"{folder}/top.png@-90.5,60"]
    command = ["image-to-3d", picture, "--prior", prior, "--out", str(run), *views, *TINY]
    assert main([*command, "--depth", str(folder / "depth.png"), "--elevation", "-5"]) == 0
    return run


def test_several_pictures_and_their_depth(three_views):
    recipe = read_resolved(three_views / "recipe.yaml")
    assert recipe.cameras.config.views == ((180.0, 0.0), (-90.5, 60.0))
    assert recipe.cameras.config.reference.elevation == recipe.guidance[0].config.reference.elevation == -5.0
    names = ["depth.png", "picture.png", "view-1.png", "view-2.png"]
    assert sorted(path.name for path in (three_views / "reference").iterdir()) == names
    assert str(three_views) not in (three_views / "recipe.yaml").read_text()
    assert recipe.guidance[1].config.views == tuple(
        str(three_views / "reference" / name) for name in names[2:]
    )
    depth = np.asarray(Image.open(three_views / "reference" / "depth.png"))
    picture = np.asarray(Image.open(three_views / "reference" / "picture.png"))
    assert depth.dtype == np.uint16
    assert depth[256, 256] > 65000
    assert (depth[picture[..., 3] == 0] == 0).mean() > 0.9
    assert abs(np.diff(depth[256, 60:450].astype(int))).max() < 6000, "nothing of what is behind mixes in"
    scores = json.loads((three_views / "report.json").read_text())["scores"]
    for prefix in ("reference", "reference_view_1", "reference_view_2"):
        assert 3 < scores[f"{prefix}_psnr"] < 60
        assert 0 <= scores[f"{prefix}_mask_iou"] <= 1
    steps = [json.loads(line) for line in (three_views / "metrics.jsonl").read_text().splitlines()]
    assert all({"guidance1/depth_correlation", "guidance1/depth_misorder"} <= step.keys() for step in steps)


def test_a_moved_run_of_several_pictures_is_complete(three_views, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(three_views, moved)
    before = json.loads((moved / "report.json").read_text())["scores"]
    (moved / "report.json").unlink()
    assert main(["resume", str(moved)]) == 0
    assert json.loads((moved / "report.json").read_text())["scores"] == before


def huge(side: int) -> bytes:
    """A whole black PNG of one bit a pixel: few bytes, side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes((side // 8 + 1) * side), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def refused(capsys, folder: Path, before: list[Path], arguments: list[str], message: str) -> None:
    """Exit code 2, one line that says `message`, and no file made."""
    assert main(["image-to-3d", *arguments]) == 2, arguments
    written = capsys.readouterr().err.strip().splitlines()
    assert message in written[-1], written
    assert written[-1].startswith("threedgen: ")
    assert len([line for line in written if line.startswith("threedgen: ")]) == 1
    assert sorted(p for p in folder.rglob("*") if p.name != "runs") == before, arguments


def test_no_picture(picture, prior, tmp_path, capsys):
    """Each as the picture, as a further view, and as a depth picture."""
    ball = np.asarray(Image.open(picture))
    whole = Path(picture).read_bytes()
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "green")]
    frames[0].save("moving.gif", save_all=True, append_images=frames[1:])
    Path("text.png").write_text("x")
    Path("empty.png").touch()
    Path("cut.png").write_bytes(whole[: len(whole) // 2])
    Path("huge.png").write_bytes(huge(20000))
    Image.new("RGB", (1, 1)).save("dot.png")
    Image.new("RGB", (64, 64), (90, 90, 90)).save("grey.png")
    Image.new("RGBA", (64, 64), (90, 90, 90, 0)).save("clear.png")
    Image.fromarray(ball[:, :50]).save("half a ball.png")  # reaches the right edge
    before = sorted(tmp_path.rglob("*"))
    for name, message in (
        ("nowhere.png", "'nowhere.png'"),
        ("text.png", "is not a PNG"),
        ("empty.png", "is empty (0 bytes)"),
        ("cut.png", "is broken or truncated"),
        ("dot.png", "has 1 x 1 pixels"),
        ("huge.png", "has far too many pixels"),
        ("moving.gif", "an animation of 2 frames"),
        (".", "is a folder"),
    ):
        refused(capsys, tmp_path, before, [name], message)
        refused(capsys, tmp_path, before, [picture, "--views", f"{name}@90"], message)
        refused(capsys, tmp_path, before, [picture, "--depth", name], message)
        refused(capsys, tmp_path, before, [picture, "--mask", name], message)
    for name, message in (("grey.png", "no object stands out"), ("clear.png", "transparent all over")):
        refused(capsys, tmp_path, before, [name], message)
        refused(capsys, tmp_path, before, [picture, "--views", f"{name}@90"], message)


def test_bad_input(picture, prior, finished, tmp_path, capsys):
    Image.new("L", (20, 80), 255).save("small.png")
    Image.new("L", (100, 80), 0).save("black.png")
    Image.new("L", (100, 80), 77).save("flat.png")
    shutil.copy(picture, "ball.png")
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in (
        ([], "PICTURE"),
        ([picture, "--mask", "small.png"], "must be of one size"),
        ([picture, "--mask", "black.png"], "black all over"),
        ([picture, "--depth", "small.png"], "must be of one size"),
        ([picture, "--depth", "flat.png"], "one depth for all of the object"),
        ([picture, "--depth", picture], "is coloured"),
        ([picture, "guidance.0.prior.name=embedded"], "needs a view-conditioned model"),
        ([picture, "guidance.0.prior.name=required"], "needs a view-conditioned model"),
        ([picture, "--text-prior", prior], "such as magic123"),
        ([picture, "--prior", " "], "--prior is empty"),
        ([picture, "--prior", "no/such/folder"], "no/such/folder"),
        ([picture, "--prior", prior, "--recipe", "dreamfusion"], "has no picture"),
        ([picture, "--prior", prior, "--recipe", "zero12"], "did you mean 'zero123'?"),
        ([picture, "--prior", prior, "cameras.reference.elevation=95"], "between -90 and 90"),
        ([picture, "--prior", prior, "--elevation", "-95"], "between -90 and 90"),
        ([picture, "--elevation", "low"], "invalid float value: 'low'"),
        ([picture, "--prior", prior, "cameras.reference.elevtion=5"], "did you mean"),
        ([picture, "--prior", prior, *TINY, "background.random=1"], "compared on white"),
        ([picture, "--prior", prior, "guidance.1.depth.order=5"], "need a depth picture"),
        (
            [picture, "--prior", prior, "guidance.1.normal_smoothness=-1"],
            "guidance.1.normal_smoothness is -1; it",
        ),
        ([picture, "--out", str(finished)], "already holds a run"),
        ([picture, "--views", "ball.png"], "is not FILE@AZIMUTH"),
        ([picture, "--views", "ball.png@"], "is not FILE@AZIMUTH"),
        ([picture, "--views", "@90"], "is not FILE@AZIMUTH"),
        ([picture, "--views", "ball.png@left"], "is not FILE@AZIMUTH"),
        ([picture, "--views", "ball.png@90,0,0"], "is not FILE@AZIMUTH"),
        ([picture, "--views", "ball.png@90", "ball.png"], "is not FILE@AZIMUTH"),
        ([picture, "--views", "ball.png@nan"], "azimuth is nan; it must be a finite number"),
        ([picture, "--views", "ball.png@90,91"], "between -90 and 90"),
        ([picture, "--prior", prior, "--views", "ball.png@0"], "two pictures show one view"),
        ([picture, "--prior", prior, "--views", "ball.png@90", "ball.png@450"], "two pictures show one view"),
    ):
        refused(capsys, tmp_path, before, arguments, message)


def test_the_recipe_alone_says_what_it_lacks(tmp_path, picture, prior, capsys):
    """As text-to-3d it has no cut-out: one line names the command that makes one."""
    for more in ([], ["--prior", prior]):
        assert main(["text-to-3d", "a ball", "--recipe", "zero123", *more]) == 2
        said = capsys.readouterr().err.splitlines()
        assert said == [
            "threedgen: recipe 'zero123' begins with a picture: threedgen image-to-3d PICTURE --recipe zero123"
        ]
    own = [f"guidance.0.reference.image={picture}", f"guidance.1.image={picture}"]
    assert main(["text-to-3d", "a ball", "--recipe", "zero123", "--prior", prior, *own]) == 2
    assert "crop it to a square" in capsys.readouterr().err  # given pictures of one's own are read
    recipe = image_recipe(tmp_path / "run", "x", prior=prior)
    assert recipe.guidance[1].config.image == str(tmp_path / "run" / "reference" / "picture.png")


def test_every_stage_is_told_of_every_picture(tmp_path, prior):
    """Also one that has the guidance of the others, and one that has its own in another order."""
    Path("staged.yaml").write_text(
        "extends: zero123\n"
        "stages:\n"
        "  - {steps: 2}\n"
        "  - steps: 2\n"
        "    guidance:\n"
        "      - {name: reference, image: 'run:reference/picture.png', rgb: 5}\n"
        "      - name: score-distillation\n"
        f"        prior: {{path: '{prior}'}}\n"
        "        reference: {image: 'run:reference/picture.png'}\n"
    )
    given = {"poses": [(90.0, 10.0)], "depth": True, "settings": ["cameras.reference.elevation=20"]}
    recipe = image_recipe(tmp_path / "run", "x", "staged.yaml", prior=prior, **given)
    assert len(recipe.all_stages) == 2
    for part, order in zip(recipe.all_stages, ((0, 1), (1, 0)), strict=True):
        turning, compared = (part.guidance[place].config for place in order)
        assert part.cameras.config.views == ((90.0, 10.0),)
        assert turning.reference.elevation == 20.0
        assert compared.views == (str(tmp_path / "run" / "reference" / "view-1.png"),)
        assert compared.depth.image == str(tmp_path / "run" / "reference" / "depth.png")
    assert recipe.all_stages[1].guidance[0].config.rgb == 5.0
