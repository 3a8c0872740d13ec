"""text-to-4d with a film, the published recipes, and text-to-4d with a large video model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from splatting_scenes import random_cloud

from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.datasets.splat_files import SplatParameters
from threedgen.export.splat import write_splats
from threedgen.pipelines.text_to_4d import MotionWish, motion_recipe
from threedgen.recipes.load import read_resolved

QUICK = [
    *("export.mesh.resolution=24", "export.moving_faces=300", "export.turntable.size=32"),
    "export.turntable.frames=2",
]
FILM = ["cameras.resolution=24", "cameras.batch=1", "guidance.0.frames=1"]


@pytest.fixture(scope="module")
def asset(tmp_path_factory):
    path = tmp_path_factory.mktemp("asset") / "asset.ply"
    write_splats(path, SplatParameters.from_cloud(random_cloud(100, degree=0)))
    return str(path)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A disc that moves to the right, with transparency: a folder of three pictures, wider than high."""
    folder = tmp_path_factory.mktemp("film")
    rows, columns = np.mgrid[:41, :81] + 0.5
    for number in range(3):
        cover = np.clip(12.5 - np.hypot(rows - 20, columns - 20 - 15 * number), 0, 1)
        rgba = np.dstack([np.full((41, 81), 200), *[np.full((41, 81), 40)] * 2, 255 * cover]).round()
        Image.fromarray(rgba.astype(np.uint8)).save(folder / f"{number}.png")
    return str(folder)


def text_to_4d(prompt: str, out: Path, *options: str, steps: int = 2) -> int:
    timing = ["--fps", "5"]
    return main(["text-to-4d", prompt, "--out", str(out), "--steps", str(steps), *timing, *QUICK, *options])


@pytest.fixture(scope="module")
def run(film, asset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    told = ["--asset", asset, "--video", film, "--video-view", "30,10", *FILM]
    assert text_to_4d("a red ball", out, *told, steps=3) == 0
    return out


def test_a_run_follows_a_film_without_a_video_prior(run):
    """The prompt names no motion, so no video prior is used."""
    recipe = read_resolved(run / "recipe.yaml")
    assert [guide.name for guide in recipe.guidance] == ["single-frames", "reference-clip"]
    assert recipe.cameras.config.film.azimuth == 30.0
    assert recipe.cameras.config.film.distance == 4.9
    assert recipe.cameras.config.pictures == 3
    assert recipe.fixed["export"].config.animation.seconds == pytest.approx(2 / 5)
    report = json.loads((run / "report.json").read_text())
    assert 0.0 <= report["scores"]["film_mask_iou"] <= 1.0
    assert report["asset"]["motion"] > 0.0
    assert {"anim.glb", "anim.mp4"} <= {path.name for path in run.iterdir()}
    assert sorted(path.name for path in (run / "film").iterdir()) == [f"0000{n}.png" for n in range(3)]


def test_a_run_goes_on_elsewhere_without_the_film(run, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    assert str(run) not in (moved / "recipe.yaml").read_text()
    before = json.loads((moved / "report.json").read_text())["scores"]
    (moved / "report.json").unlink()
    shutil.rmtree(moved / "checkpoint")
    assert main(["resume", str(moved)]) == 0
    assert json.loads((moved / "report.json").read_text())["scores"] == before


def test_a_film_beside_a_video_model(film, asset, video_pipelines):
    from threedgen.datasets.films import film_of

    folder = str(video_pipelines["modelscope"])
    wish = MotionWish("a dog", Path(asset), video_prior=folder, film=film_of(film), view={"azimuth": 5.0})
    recipe = motion_recipe("text-to-4d", wish)
    assert [guide.name for guide in recipe.guidance] == ["score-distillation", "reference-clip"]
    assert recipe.cameras.name == "filmed-clips"
    assert recipe.cameras.config.frames == 16


def test_a_large_video_model_gets_settings_of_its_own(asset, pipelines, video_pipelines):
    """Scale, noise levels and resolution; single frames are judged only if --prior names a model for it."""
    folder = str(video_pipelines["modelscope"])
    wish = MotionWish("a dog running", Path(asset), video_prior=folder)
    recipe = motion_recipe("text-to-4d", wish)
    assert [guide.name for guide in recipe.guidance] == ["score-distillation"]
    assert recipe.guidance[0].config.scale is None
    assert recipe.guidance[0].config.prior.path == folder
    assert recipe.cameras.config.resolution == 256
    assert recipe.steps == 2000
    sd = str(pipelines["sd1"])
    both = motion_recipe("text-to-4d", MotionWish("a dog", Path(asset), prior=sd, video_prior=folder))
    assert [guide.config.prior.path for guide in both.guidance] == [folder, sd]
    kept = motion_recipe("text-to-4d", wish, ["guidance.0.scale=7"])
    assert kept.guidance[0].config.scale == 7


TINY = ["cameras.resolution=16", "cameras.batch=1", "cameras.frames=3", "guidance.0.prior.options.frames=3"]
STAGED = [
    *(f"stages.1.{setting}" for setting in TINY),
    *("stages.0.cameras.resolution=16", "stages.0.representation.count=60"),
]


@pytest.mark.parametrize("name", ["align-your-gaussians", "4d-fy"])
def test_recipes_of_large_models_run(name, pipelines, video_pipelines, tmp_path):
    """Both stages, each for a step or two, with models that have random weights."""
    priors = ["--prior", str(pipelines["sd1"]), "--video-prior", str(video_pipelines["modelscope"])]
    views = f"stages.0.guidance.0.prior.path={pipelines['mvdream']}"
    assert (
        text_to_4d("a dog running", tmp_path / "run", "--recipe", name, *priors, views, *STAGED, steps=4) == 0
    )
    assert (tmp_path / "run" / "anim.glb").is_file()
    recipe = read_resolved(tmp_path / "run" / "recipe.yaml")
    assert [guide.name for guide in recipe.guidance] == ["score-distillation", "single-frames"]


@pytest.mark.parametrize("real", [False, True])
def test_dreamgaussian4d_makes_the_films_first_picture_and_moves_it(real, film, pipelines, tmp_path):
    prior = ["--prior", str(pipelines["zero123"])] if real else []
    settings = [
        *("stages.0.cameras.resolution=16", "stages.0.cameras.batch=1", "stages.0.representation.count=60"),
        *("stages.1.cameras.resolution=16", "stages.1.cameras.batch=2"),
    ]
    told = ["--video", film, "--video-view", "40", *prior, *settings]
    out = tmp_path / "run"
    assert text_to_4d("a ball", out, "--recipe", "dreamgaussian4d", *told, steps=4) == 0
    still, moving = read_resolved(out / "recipe.yaml").all_stages
    assert still.cameras.config.reference.azimuth == still.guidance[0].config.reference.azimuth == 40.0
    assert still.cameras.config.reference.distance == 2.85
    assert moving.cameras.config.film.azimuth == moving.guidance[0].config.reference.azimuth == 40.0
    assert moving.cameras.config.film.distance == moving.guidance[0].config.reference.distance == 2.85
    assert (out / "reference" / "picture.png").is_file()
    assert "film_psnr" in json.loads((out / "report.json").read_text())["scores"]


def test_a_prior_that_turns_pictures_is_told_the_moments(film, pipelines, tmp_path):
    """The reference of each step is the picture of the film at the moment of its views."""
    import torch

    from threedgen.cameras.film import FilmedOrbit
    from threedgen.core.types import RenderOutput
    from threedgen.datasets.films import film_of, write_film
    from threedgen.guidance.priors.load import PriorConfig, load_prior
    from threedgen.guidance.prompting.image_conditions import ReferenceConfig
    from threedgen.guidance.reference_film import TurnedFilm

    write_film(tmp_path / "film", film_of(film))
    prior = load_prior(PriorConfig(path=str(pipelines["zero123"])))
    told = ReferenceConfig(image=str(tmp_path / "film" / "00000.png"))
    config = TurnedFilm.Config(film=str(tmp_path / "film"), view_prompts="never", reference=told)
    guide = TurnedFilm(config, prior=prior)
    asked = []
    predict = prior.predict
    prior.predict = lambda z, t, condition: (asked.append(condition), predict(z, t, condition))[1]  # type: ignore[method-assign]
    alpha = torch.zeros(1, 32, 32, 1)
    alpha[:, 10:22, 4:16] = 1.0
    columns = []
    for number, step in ((0, 0), (2, 0), (2, 1)):
        views = FilmedOrbit(FilmedOrbit.Config(batch=2, resolution=32, pictures=3))
        cameras = next(
            found
            for seed in range(step, 50)
            for found in [views(seed, step, 2)]
            if found.index is not None and int(found.index[-1]) == number
        )
        render = RenderOutput(
            1.0 - alpha.expand(len(cameras), -1, -1, 3) / 2, alpha.expand(len(cameras), -1, -1, -1)
        )
        guide(render, cameras, "", step, 2, 0)
        picture = asked[-1].reference.image
        red = (1.0 - picture[..., 1]).clamp_min(0.0)
        across = torch.arange(picture.shape[1]) + 0.5
        columns.append(float((red.sum(0) * across).sum() / red.sum()) / picture.shape[1])
        assert len(set(asked[-1].cameras.time.tolist())) == 1
    assert columns[0] == pytest.approx(10 / 32, abs=0.03), "at rest it lies where the render's object does"
    assert columns[1] > columns[0] + 0.3
    assert columns[2] == pytest.approx(columns[1], abs=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--recipe", "dreamgaussian4d"], "follows a film: give one by --video FILM"),
        (["--recipe", "align-your-gaussians"], "needs --prior FOLDER"),
        (["--recipe", "4d-fy", "--prior", "x"], "needs --video-prior FOLDER"),
        (["--video-view", "30"], "name the film with --video"),
        (["--video", "FILM", "--video-view", "up"], "is not AZIMUTH[,ELEVATION[,DISTANCE]]"),
        (["--video", "FILM", "--video-view", "0,95"], "elevation is 95; it must be between -90 and 90"),
        (["--video", "nowhere.mp4"], "there is no film 'nowhere.mp4'"),
        (
            ["--video", "FILM", "--recipe", "text-to-3d"],
            "the cameras of the last stage of this recipe make no clips",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    options, said, film, video_pipelines, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    options = [film if option == "FILM" else option for option in options]
    assert main(["text-to-4d", "a dog bouncing", *options, "--out", "run"]) == 2
    found = capsys.readouterr().err.strip().splitlines()[-1]
    assert found.startswith("threedgen:")
    assert said in found
    assert not (tmp_path / "run").exists()


def test_a_recipe_without_clips_takes_no_video_model(film, video_pipelines, tmp_path):
    from threedgen.datasets.films import film_of

    wish = MotionWish("a ball", video_prior=str(video_pipelines["modelscope"]), film=film_of(film))
    with pytest.raises(UserError, match="has a video prior: leave it out"):
        motion_recipe("dreamgaussian4d", wish)
