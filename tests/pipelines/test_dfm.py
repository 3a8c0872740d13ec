"""One of the things that a picture may show: whole runs of the recipe dfm with a tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from dfm_scenes import tiny_field
from PIL import Image

from threedgen.cameras.orbit import orbit
from threedgen.cameras.reference import ReferencePose
from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.dfm import scene_sample
from threedgen.dfm.sampling import sampled_scenes, shown
from threedgen.dfm.scene_sample import Config, SceneSample, radiance_field
from threedgen.dfm.store import save_scene_field
from threedgen.recipes.load import load_recipe
from threedgen.renderers.volume import VolumeRenderer

FAST = ["--steps", "2", "export.turntable.frames=2", "export.turntable.size=32", "export.mesh.resolution=16"]
FAST += ["export.mesh.texture_size=0", "export.mesh.outline=0", "export.settle=0", "cameras.resolution=32"]


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_sample, "_VOXELS", 24)
    monkeypatch.setattr(scene_sample, "_PIXELS", 48)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dfm") / "model"
    save_scene_field(tiny_field(), folder, {})
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "ball.png"
    y, x = np.mgrid[:48, :48]
    rgba = np.zeros((48, 48, 4), np.uint8)
    rgba[(x - 24) ** 2 + (y - 24) ** 2 < 18**2] = (200, 40, 40, 255)
    Image.fromarray(rgba).save(path)
    return path


def command(model: Path, picture: Path, run: Path, *settings: str) -> list[str]:
    words = ["image-to-3d", str(picture), "--recipe", "dfm", "--out", str(run), "--elevation", "10"]
    own = [f"representation.model={model}", "representation.sampling=2", "representation.count=300"]
    return [*words, *own, *FAST, *settings]


def test_a_picture_becomes_the_sample_of_a_seed(tmp_path: Path, model: Path, picture: Path) -> None:
    """The sheet shows four seeds; with the second of them as --seed, its back is the first on the sheet. The run is
    resumed without the model, and the sheet stays."""
    runs = [tmp_path / "first", tmp_path / "second"]
    assert main([*command(model, picture, runs[0]), "--seed", "5"]) == 0
    for name in ("asset.glb", "asset.ply", "contact_sheet.png"):
        assert (runs[0] / name).is_file()
    resolved = load_recipe(runs[0] / "recipe.yaml").resolved
    assert resolved["representation"]["reference"]["elevation"] == 10.0
    assert [guide["name"] for guide in resolved["guidance"]] == ["reference"]

    recipe = runs[0] / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(model), str(tmp_path / "gone")))
    before = (runs[0] / "backs.png").read_bytes()
    assert main(["resume", str(runs[0]), "--steps", "3"]) == 0
    assert (runs[0] / "backs.png").read_bytes() == before

    config = Config(
        image=str(runs[0] / "reference" / "picture.png"),
        reference=ReferencePose(elevation=10.0),
        model=str(model),
        sampling=2,
        count=300,
    )
    sheets = [SceneSample(config, seed).sheets["backs"] for seed in (5, 6)]
    sheet = np.asarray(Image.open(runs[0] / "backs.png"))
    np.testing.assert_array_equal(sheet, np.concatenate(sheets[0], axis=1))
    np.testing.assert_allclose(sheets[0][1].astype(int), sheets[1][0], atol=1)
    assert np.abs(sheets[0][0].astype(int)[20:] - sheets[0][1][20:]).max() > 5
    assert not SceneSample.blank(config).sheets


def test_what_is_missing_is_said(
    tmp_path: Path, model: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["image-to-3d", str(picture), "--recipe", "dfm", "--out", str(run)]) == 2
    assert "representation.model is empty" in capsys.readouterr().err
    assert not run.exists()
    with pytest.raises(UserError, match="image is empty"):
        SceneSample(Config(model=str(model)))
    empty = tiny_field()
    empty.outer.bias[3] = -50.0
    save_scene_field(empty, tmp_path / "empty", {})
    assert main(command(tmp_path / "empty", picture, run, "--seed", "7")) == 2
    assert "the sample of seed 7 shows nothing that is solid" in capsys.readouterr().err
    assert not run.exists()


def test_the_asset_stands_where_the_sample_is_seen() -> None:
    """A field that was decoded from a picture, in the world of the asset: the camera of the run sees what the model
    shows from the same turn."""
    field = tiny_field()
    given = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(2)) * 2.0 - 1.0
    scenes = sampled_scenes(field, given, torch.tensor([10.0, 2.85]), [0], 2)
    views = torch.tensor([[40.0, 10.0, 2.85], [180.0, 30.0, 2.85]])
    expected = shown(field, scenes, views, 24)[0]
    picture_at = 25.0  # the azimuth of the picture in the world of the asset
    world = radiance_field(field, scenes, picture_at)
    cameras = orbit(views[:, 0] + picture_at, views[:, 1], views[:, 2], 40.0, 24, 24)
    with torch.no_grad():
        seen = VolumeRenderer(VolumeRenderer.Config(jitter=False))(world, cameras, torch.zeros(3))
    assert expected[..., 3].max() > 0.5
    assert (seen.rgb - expected[..., :3]).abs().mean() < 0.02
    assert (seen.alpha - expected[..., 3:]).abs().mean() < 0.03
