"""Assets in one pass: a multi-view prior draws views, and a reconstructor makes Gaussians of them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from threedgen.cameras.orbit import spherical
from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.guidance.priors.adapters.zero123plus import DiffusersZero123PlusPrior
from threedgen.guidance.priors.load import EMBEDDED_PICTURE_WEIGHTS
from threedgen.guidance.priors.picture_field import load_picture_field
from threedgen.recipes.load import load_recipe
from threedgen.reconstruction.network import Reconstructor, ReconstructorArchitecture
from threedgen.reconstruction.reconstructed import on_white, ring
from threedgen.reconstruction.store import save_reconstructor
from threedgen.training.multiview_model import MultiViewModel, save_multiview_pipeline
from threedgen.training.prior_model import PriorArchitecture

ARCHITECTURE = PriorArchitecture(
    size=8, channels=(8, 16), attention=(False, True), embedding=32, text_width=16, text_layers=1
)
FAST = ["--steps", "2", "export.turntable.frames=2", "export.turntable.size=32", "export.mesh.resolution=16"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folders of a tiny multi-view prior and of a tiny reconstructor, both with random weights."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    prior = MultiViewModel(ARCHITECTURE, load_picture_field(EMBEDDED_PICTURE_WEIGHTS / "field"))
    torch.nn.init.normal_(prior.unet.conv_out.weight, std=0.02)
    save_multiview_pipeline(prior, folder / "prior", torch.float32)
    network = Reconstructor(
        ReconstructorArchitecture(size=16, channels=(8, 16), attention=(False, True), heads=8)
    )
    save_reconstructor(network, folder / "reconstructor", {})
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "ball.png"
    y, x = np.mgrid[:48, :48]
    inside = (x - 24) ** 2 + (y - 24) ** 2 < 18**2
    rgba = np.zeros((48, 48, 4), np.uint8)
    rgba[inside] = (200, 40, 40, 255)
    Image.fromarray(rgba).save(path)
    return path


def _models(folder, sampling=2):
    return [
        "--prior",
        str(folder / "prior"),
        f"representation.model={folder / 'reconstructor'}",
        f"representation.sampling={sampling}",
    ]


@pytest.mark.parametrize(
    ("recipe", "sampling"), [("hunyuan3d", 2), ("gen-3diffusion", 2), ("videomv", 5), ("six", 2)]
)
def test_a_picture_becomes_an_asset(tmp_path, models, picture, recipe, sampling):
    run = tmp_path / "run"
    views = ["--recipe", "hunyuan3d", "representation.views=6"] if recipe == "six" else ["--recipe", recipe]
    command = ["image-to-3d", str(picture), *views, "--out", str(run), "--elevation", "10"]
    assert main([*command, *_models(models, sampling), *FAST]) == 0
    assert (run / "asset.glb").is_file()
    resolved = load_recipe(run / "recipe.yaml").resolved
    assert (
        resolved["representation"]["reference"]["elevation"] == 10.0
    )  # the prior is told where it was taken
    assert resolved["representation"]["prior"]["path"] == str(models / "prior")
    assert [guide["name"] for guide in resolved["guidance"]] == ["reference"]


def test_refining_adds_score_distillation_of_so_many_steps(tmp_path, models, picture):
    run = tmp_path / "run"
    command = ["image-to-3d", str(picture), "--recipe", "hunyuan3d", "--refine", "3", "--out", str(run)]
    assert main([*command, *_models(models), *FAST[2:], "cameras.resolution=16"]) == 0
    resolved = load_recipe(run / "recipe.yaml").resolved
    assert [guide["name"] for guide in resolved["guidance"]] == ["score-distillation", "reference"]
    assert len((run / "metrics.jsonl").read_text().splitlines()) >= 1
    assert json.loads((run / "report.json").read_text())["steps"] == 3


def test_a_recipe_that_optimises_has_nothing_to_refine(tmp_path, picture, capsys):
    assert main(["image-to-3d", str(picture), "--refine", "3", "--out", str(tmp_path / "run")]) == 2
    assert "recipe 'image-to-3d' has nothing to refine" in capsys.readouterr().err


def test_a_text_becomes_a_picture_first(tmp_path, models):
    run = tmp_path / "run"
    command = ["text-to-3d", "a red ball", "--recipe", "hunyuan3d", "--out", str(run)]
    assert main([*command, *_models(models), *FAST]) == 0
    cut_out = np.asarray(Image.open(run / "reference" / "picture.png").convert("RGBA"))
    solid = cut_out[..., 3] > 128
    assert 0.3 < solid.mean() < 0.9
    red, green, blue = cut_out[solid][:, :3].mean(axis=0)
    assert red > 2 * max(green, blue)


def test_few_posed_pictures_become_an_asset_without_a_prior(tmp_path, models):
    import trimesh

    mesh = tmp_path / "box.obj"
    trimesh.creation.box().export(mesh)
    run = tmp_path / "run"
    model = f"representation.model={models / 'reconstructor'}"
    command = ["fit", str(mesh), "--views", "3", "--resolution", "24", "--feed-forward", "--out", str(run)]
    assert main([*command, model, *FAST]) == 0
    resolved = load_recipe(run / "recipe.yaml").resolved
    assert resolved["representation"]["name"] == "reconstructed"
    assert resolved["representation"]["holdout"] == 8
    assert main(["fit", str(mesh), "--feed-forward", "--representation", "mesh"]) == 2


def test_a_clip_of_an_orbit_becomes_an_asset(tmp_path, models, picture, video_pipelines):
    """The frames of a video model are views around the object, in the number that the model makes."""
    run, model = tmp_path / "run", f"representation.model={models / 'reconstructor'}"
    options = ["representation.prior.options.frames=4", "representation.sampling=2", *FAST]
    command = ["image-to-3d", str(picture), "--recipe", "videomv", "--prior", str(video_pipelines["svd"])]
    assert main([*command, "--out", str(run), model, *options]) == 0
    assert (run / "asset.glb").is_file()


def test_a_run_resumes_without_the_networks(tmp_path, models, picture):
    run = tmp_path / "run"
    command = ["image-to-3d", str(picture), "--recipe", "hunyuan3d", "--out", str(run)]
    assert main([*command, *_models(models), *FAST]) == 0
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(models), str(tmp_path / "gone")))
    assert main(["resume", str(run), "--steps", "3"]) == 0


def test_views_of_one_picture_become_an_asset(tmp_path, models, picture, pipelines, monkeypatch, capsys):
    """Zero123++ with random weights draws nothing, so what its sample decodes to is replaced: six discs on grey,
    one of which is as good as not there. The others are reconstructed, on white and with their own cameras."""
    seen = {}

    def decode(self, x):
        seen["shown"] = self._seen[0].image
        y, x_ = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
        inside = ((y - 15.5) ** 2 + (x_ - 15.5) ** 2 < 81.0)[..., None].float()
        tiles = [
            torch.tensor([0.8, 0.1 + 0.1 * index, 0.1]) * inside + 0.5 * (1.0 - inside) for index in range(6)
        ]
        tiles[4] = torch.full_like(tiles[4], 0.5)
        return torch.cat([torch.cat(tiles[row : row + 2], dim=1) for row in (0, 2, 4)])[None]

    def forward(self, given):
        seen["given"] = given
        return real(self, given)

    real = Reconstructor.forward
    monkeypatch.setattr(DiffusersZero123PlusPrior, "decode", decode)
    monkeypatch.setattr(Reconstructor, "forward", forward)
    run = tmp_path / "run"
    command = ["image-to-3d", str(picture), "--recipe", "hunyuan3d", "--prior", str(pipelines["zero123plus"])]
    model = [f"representation.model={models / 'reconstructor'}", "representation.sampling=2"]
    sizes = ["representation.prior.options.size=32"]
    assert main([*command, "--out", str(run), *model, *sizes, *FAST]) == 0
    assert "drew no object in 1 of 6 views" in capsys.readouterr().err
    assert (run / "asset.glb").is_file()
    given = seen["given"]
    assert given.estimates.shape == (1, 5, 3, 16, 16)
    assert float(given.estimates[..., 0, 0].min()) == 1.0  # white
    greens = given.estimates[0, :, 1, 8, 8] * 0.5 + 0.5
    torch.testing.assert_close(greens, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.6]), atol=0.02, rtol=0)
    azimuth, elevation, _ = spherical(given.cameras)
    torch.testing.assert_close(
        azimuth % 360.0, torch.tensor([30.0, 90.0, 150.0, 210.0, 330.0]), atol=1e-2, rtol=0
    )
    torch.testing.assert_close(elevation, torch.tensor([20.0, -10.0, 20.0, -10.0, -10.0]), atol=1e-2, rtol=0)
    torch.testing.assert_close(seen["shown"][0, 0], torch.full((3,), 0.5))  # the picture is shown on grey
    assert (
        main([*command, "--out", str(tmp_path / "other"), *model, *sizes, "representation.trajectory=along"])
        == 2
    )


def test_views_that_show_nothing_are_refused():
    grey = torch.full((2, 16, 16, 3), 0.5)
    with pytest.raises(UserError, match="drew no object in any view"):
        on_white(grey, ring(2, 0.0, 16), 0.5)
