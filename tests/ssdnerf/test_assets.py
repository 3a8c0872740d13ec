"""The files of samples and reconstructions, and how given views are read."""

import json
import math
from pathlib import Path

import pytest
import torch
from latent_scenes import some_model
from PIL import Image

from threedgen.cameras.orbit import orbit
from threedgen.datasets.multiview import PosedPictures
from threedgen.ssdnerf import watch as watching
from threedgen.ssdnerf.assets import (
    given_views,
    reconstruction_folder,
    write_objects,
    write_reconstruction,
)
from threedgen.ssdnerf.config import Finetuning, Guiding
from threedgen.ssdnerf.model import LatentModel, Viewpoint
from threedgen.ssdnerf.reconstruction import Reconstruction
from threedgen.ssdnerf.sampling import sample_codes

SHORT = Reconstruction(Guiding(steps=1), Finetuning(outer=0))


@pytest.fixture(scope="module")
def model() -> LatentModel:
    made = some_model()
    made.viewpoint = Viewpoint(size=16)
    return made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes empty files in place of meshes, for tests of which files there are."""

    def write(field: object, path: Path, note: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")

    monkeypatch.setattr("threedgen.export.write", write)


def empty_model() -> LatentModel:
    """A model of empty objects."""
    made = some_model()
    made.viewpoint = Viewpoint(size=16)
    torch.nn.init.zeros_(made.decoder.density.weight)
    torch.nn.init.constant_(made.decoder.density.bias, -20.0)
    return made


def written(model: LatentModel, folder: Path, names: list[str], seed: int = 0) -> list[str]:
    """Writes samples with these names, and returns the names of the empty ones."""
    codes = sample_codes(model, range(len(names)), seed, steps=2)
    return write_objects(model, codes, names, folder, {"seed": seed})[1]


def assets(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.glb"))


def views() -> PosedPictures:
    full = torch.ones(1)
    cameras = orbit(0.0 * full, 25.0 * full, 2.85 * full, 40.0, 16, 16)
    return PosedPictures(torch.ones(1, 16, 16, 3), torch.ones(1, 16, 16, 1), cameras)


@pytest.mark.usefixtures("quick")
def test_a_folder_holds_the_samples_of_one_call(model, tmp_path):
    """They belong to the contact sheet and the codes beside them, and files that are no samples stay."""
    others = ["seed.glb", "seed0.glb", "seed0-mine.glb", "my-seed0-0000.glb", "asset.glb"]
    written(model, tmp_path, [f"seed0-{number:04d}" for number in range(2)])
    assert assets(tmp_path) == ["seed0-0000.glb", "seed0-0001.glb"]
    for name in others:
        (tmp_path / name).write_bytes(b"")
    written(model, tmp_path, ["seed-3-0001-to-0002-0000"], seed=-3)
    assert assets(tmp_path) == sorted(["seed-3-0001-to-0002-0000.glb", *others])
    written(model, tmp_path, ["seed0-0000"])
    assert assets(tmp_path) == sorted(["seed0-0000.glb", *others])


def test_what_has_no_surface_has_no_asset_of_an_earlier_call(model, tmp_path):
    names = ["seed0-0000", "mine"]
    assert written(model, tmp_path, names) == []
    assert assets(tmp_path) == ["mine.glb", "seed0-0000.glb"]
    assert written(empty_model(), tmp_path, names) == names
    assert assets(tmp_path) == []
    write_reconstruction(model, views(), SHORT, 0, tmp_path, ["front.png"])
    assert assets(tmp_path) == ["asset.glb"]
    assert write_reconstruction(empty_model(), views(), SHORT, 0, tmp_path, ["front.png"])[1] == ["asset"]
    assert assets(tmp_path) == []


@pytest.mark.usefixtures("quick")
def test_reconstructions_of_other_pictures_have_another_folder(model, tmp_path, monkeypatch):
    """If file names are the same, the first reconstruction has the name, others have numbers, and each keeps its
    folder."""
    run = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    asked = {
        "front": ["a/front.png@0,20", "a/back.png"],
        "front-2": ["b/front.png"],
        "front-3": ["b/front.png", "b/back.png"],
        "at@home": [str(tmp_path / "at@home.png")],
    }
    Path("at@home.png").write_bytes(b"")
    for name, texts in asked.items():
        folder = reconstruction_folder(run, texts)
        assert folder == run / "reconstructions" / name
        write_reconstruction(model, views(), SHORT, 0, folder, texts)
    for name, texts in asked.items():
        assert reconstruction_folder(run, texts).name == name
    assert reconstruction_folder(run, ["a/front.png@90", "a/back.png@270"]).name == "front"
    monkeypatch.chdir("/")
    assert reconstruction_folder(run, [f"{tmp_path}/b/front.png"]).name == "front-2"
    assert reconstruction_folder(run, ["b/front.png"]).name == "front-4"  # another place
    report = run / "reconstructions" / "front" / "report.json"
    assert json.loads(report.read_text())["views"] == asked["front"]
    report.write_text("broken")  # no report says which pictures it is of
    assert reconstruction_folder(run, [str(tmp_path / "a/front.png"), "x.png"]).name == "front-4"


@pytest.mark.usefixtures("quick")
def test_contact_sheets_show_large_pictures_reduced(model, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "LARGEST", 8)
    written(model, tmp_path, ["seed0-0000"])
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.size == (6 * 8, 8)
    write_reconstruction(model, views(), SHORT, 0, tmp_path, ["front.png"])
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.size == (6 * 8, 3 * 8)


@pytest.mark.parametrize(("height", "width"), [(20, 40), (40, 20), (32, 32)])
@pytest.mark.parametrize("posed", [False, True])
def test_given_views_have_the_field_of_view_over_the_longer_side(tmp_path, height, width, posed):
    """It is that of the training pictures: the same focal length for the same longer side."""
    viewpoint = Viewpoint(fov=50.0)
    picture, pose = tmp_path / "front.png", tmp_path / "pose.txt"
    Image.new("RGB", (width, height), "white").save(picture)
    pose.write_text(" ".join(str(float(value)) for value in torch.eye(4).flatten()))
    cameras = given_views([f"{picture}@{pose}" if posed else str(picture)], viewpoint).cameras
    assert (cameras.height, cameras.width) == (height, width)
    focal = 0.5 * max(height, width) / math.tan(math.radians(25.0))
    assert float(cameras.intrinsics[0, 0, 0]) == pytest.approx(focal)
    assert float(cameras.intrinsics[0, 1, 1]) == pytest.approx(focal)
