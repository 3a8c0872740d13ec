"""text-to-4d from the command to the files, with a video prior that nobody trained, and what it complains of."""

import json

import pytest
import torch
from splatting_scenes import random_cloud

from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.datasets.splat_files import SplatParameters
from threedgen.export.splat import write_splats
from threedgen.guidance.priors import load
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.load import EMBEDDED_WEIGHTS, load_folder
from threedgen.jobs.build import load_scene
from threedgen.jobs.listeners import stillness
from threedgen.jobs.run_directory import RunDirectory
from threedgen.pipelines.text_to_4d import MotionWish, motion_recipe, prepare
from threedgen.recipes.load import read_resolved
from threedgen.training.video_model import VideoArchitecture, VideoModel, save_video_pipeline

TINY = VideoArchitecture(
    size=16, channels=(8, 16), attention=(False, True), embedding=32, text_width=16, text_layers=1, frames=4
)
QUICK = [
    *("export.mesh.resolution=32", "export.moving_faces=500", "export.turntable.size=32"),
    *("export.turntable.frames=4", "cameras.frames=4", "cameras.resolution=16", "cameras.batch=1"),
]


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    torch.manual_seed(0)
    model = VideoModel(TINY)
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.1)
    folder = tmp_path_factory.mktemp("prior") / "video"
    save_video_pipeline(model, folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def asset(tmp_path_factory):
    path = tmp_path_factory.mktemp("asset") / "asset.ply"
    write_splats(path, SplatParameters.from_cloud(random_cloud(200, degree=0)))
    return path


@pytest.fixture(scope="module")
def run(prior, asset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    command = ["text-to-4d", "a cube bouncing", "--asset", str(asset), "--video-prior", str(prior)]
    assert main([*command, "--out", str(out), "--steps", "4", "--seconds", "1", "--fps", "5", *QUICK]) == 0
    return out


def test_a_run_leaves_an_animation_beside_the_files_of_a_still_one(run):
    names = {path.name for path in run.iterdir()}
    assert names >= {"anim.glb", "anim.mp4", "asset.glb", "asset.ply", "turntable.mp4", "report.json"}
    report = json.loads((run / "report.json").read_text())
    assert report["prompt"] == "a cube bouncing"
    assert report["asset"]["motion"] > 0.0
    scores = report["scores"]
    assert set(scores) >= {"motion", "local", "jerk", "loop", "change", "flicker", "identity"}
    assert 0.0 < scores["motion"] < 1.0
    assert 0.0 < scores["change"] < 1.0
    assert 0.5 < scores["identity"] <= 1.0
    recipe = read_resolved(run / "recipe.yaml")
    assert recipe.fixed["export"].config.animation.fps == 5.0


def test_its_scene_is_loaded_and_moves(run, asset):
    opened = RunDirectory.open(run)
    scene = load_scene(opened, read_resolved(opened.recipe))
    torch.testing.assert_close(scene.rest.means, random_cloud(200, degree=0).means)
    far = (scene.moved(torch.tensor([0.0, 0.7])) - scene.means).detach().norm(dim=2).mean(1)
    assert float(far[0]) == 0.0
    assert float(far[1]) > 1e-4


def test_its_animation_has_the_same_bits_when_it_is_made_of_the_checkpoint(run, tmp_path):
    """As that of a run that was killed and resumed: the Gaussians of a .ply lay in another order in memory."""
    assert main(["export", str(run), "--to", str(tmp_path / "again.glb")]) == 0
    assert (tmp_path / "again.glb").read_bytes() == (run / "anim.glb").read_bytes()


def test_its_motion_is_measured_again_by_eval(run, tmp_path, capsys):
    assert main(["eval", str(run), "--out", str(tmp_path)]) == 0
    said, reported = (
        json.loads((tmp_path / "eval.json").read_text()),
        json.loads((run / "report.json").read_text()),
    )
    for name in ("motion", "local", "jerk", "loop", "change", "flicker", "identity"):
        assert said["scores"][name] == pytest.approx(reported["scores"][name], abs=1e-3)
    assert said["networks"]["identity"] == "embedded"
    table = capsys.readouterr().out.splitlines()[0].split("|")
    columns = [cell.strip() for cell in table]
    assert columns[4:-1] == [
        "consistency dB (share)",
        "motion",
        "local",
        "jerk",
        "loop",
        "change",
        "flicker",
        "identity (embedded)",
    ]


def test_a_motion_that_does_not_come_is_said_while_there_is_time(prior, asset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stillness, "_FEWEST", 1)
    held = ["representation.learning_rate=1e-9", "representation.trajectory.learning_rate=1e-9"]
    command = ["text-to-4d", "a cube bouncing", "--asset", str(asset), "--video-prior", str(prior)]
    assert main([*command, "--out", str(tmp_path / "run"), "--steps", "3", *held, *QUICK]) == 0
    said = capsys.readouterr().err
    assert said.count("warning: nothing has moved after 1 of 3 steps of 'a cube bouncing'") == 1
    assert said.index("nothing has moved") < said.index("writing splats")


def test_levels_of_detail_of_what_moves_are_refused(run, tmp_path, capsys):
    assert main(["export", str(run), "--to", str(tmp_path / "again.glb"), "--lods", "1"]) == 2
    assert "levels of detail are for what stands still" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["again.glb", "again.mp4", "again.gif", "again.webp", "again.html", "still.ply"]
)
def test_animations_are_exported_again(run, name, tmp_path):
    assert main(["export", str(run), "--to", str(tmp_path / name), "animation.fps=4"]) == 0
    assert (tmp_path / name).stat().st_size > 100
    if name == "again.gif":
        from PIL import Image

        with Image.open(tmp_path / name) as picture:
            assert getattr(picture, "n_frames", 1) == 4


def test_the_first_stage_is_told_what_it_is_and_the_second_what_it_does(prior):
    recipe = motion_recipe("text-to-4d", MotionWish("a blue cube bouncing", video_prior=str(prior)))
    still, moving = recipe.all_stages
    assert still.guidance[0].config.prompt == "a blue cube"
    assert still.guidance[0].config.prior.name == "embedded"
    assert still.guidance[0].config.prior.path == ""
    assert moving.guidance[0].config.prompt == ""
    assert moving.guidance[0].config.prior.path == str(prior)
    assert recipe.prompt == "a blue cube bouncing"
    assert MotionWish("A red, shiny mug Opening!").still == "A red, shiny mug"


def test_a_video_prior_from_its_folder_answers_clips(prior):
    loaded = load_folder(prior)
    assert loaded.frames == 4
    images = torch.rand(8, 32, 32, 3)
    x = loaded.encode(images)
    assert x.shape == (2, 12, 16, 16)
    back = loaded.decode(x)
    assert back.shape == (8, 16, 16, 3)
    pooled = images.permute(0, 3, 1, 2)
    torch.testing.assert_close(
        back, torch.nn.functional.avg_pool2d(pooled, 2).permute(0, 2, 3, 1), atol=1e-5, rtol=0
    )
    times = torch.tensor([[0.0, 0.3, 0.6, 0.9], [0.1, 0.2, 0.3, 0.4]])
    t = torch.tensor([0.5, 0.5])
    answers = [
        loaded.predict(x, t, Condition(("a cube spinning",) * 2, times=moments)).x0
        for moments in (times, times.flip(0))
    ]
    assert answers[0].shape == x.shape
    assert not torch.allclose(answers[0], answers[1])
    with pytest.raises(UserError, match="needs the times of its frames"):
        loaded.predict(x, t, Condition(("a cube",) * 2))
    with pytest.raises(UserError, match="clips of 4 frames, not 7 pictures"):
        loaded.encode(images[:7])


def test_an_installation_without_the_video_prior_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(load, "EMBEDDED_VIDEO_WEIGHTS", tmp_path / "missing")
    assert main(["text-to-4d", "a cube bouncing", "--out", str(tmp_path / "run")]) == 2
    assert "missing: reinstall threedgen" in capsys.readouterr().err
    with pytest.raises(UserError, match="reinstall threedgen"):
        load.load_prior(load.PriorConfig(name="embedded-video"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a blue cube"], "names no motion: say one of spinning, bouncing"),
        (["bouncing"], "does not name an object"),
        ([" "], "the prompt is empty"),
        (["a cube bouncing", "--fps", "0"], "--fps: must be a number greater than 0, got '0'"),
        (["a cube bouncing", "--seconds", "0"], "--seconds: must be a number greater than 0, got '0'"),
        (["a cube bouncing", "--seconds", "-1"], "--seconds: must be a number greater than 0, got '-1'"),
        (["a cube bouncing", "--fps", "nan"], "--fps: must be a number greater than 0, got 'nan'"),
        (["a cube bouncing", "--seconds", "0.01"], "are a single frame"),
        (["a cube bouncing", "--asset", "nowhere"], "there is no asset 'nowhere'"),
        (["a cube bouncing", "--video-prior", "nowhere"], "there is no folder 'nowhere': name a folder that"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["text-to-4d", *arguments, "--out", "run"]) == 2
    found = capsys.readouterr().err.strip()
    assert said in found
    assert found.count("threedgen:") == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_without_gaussians_is_no_asset(tmp_path, prior, capsys):
    options = ["--asset", str(tmp_path), "--video-prior", str(prior)]
    assert main(["text-to-4d", "a cube bouncing", *options]) == 2
    assert "holds no asset.ply" in capsys.readouterr().err


def test_a_prior_of_still_pictures_is_no_video_prior(tmp_path, capsys):
    options = ["--video-prior", str(EMBEDDED_WEIGHTS), "--out", str(tmp_path / "run")]
    assert main(["text-to-4d", "a cube bouncing", *options]) == 2
    assert "is not a video prior" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stages.1.cameras.name=orbit"], "a video prior sees clips"),
        (["--recipe", "text-to-3d"], "nothing moves"),
        (["--seconds", "1e6"], "more than 5000 frames"),
    ],
)
def test_what_could_not_move_is_said_before_anything_is_made(arguments, said, tmp_path, capsys):
    assert main(["text-to-4d", "a blue cube bouncing", "--out", str(tmp_path / "run"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_user_is_told_where_the_asset_was_put(asset, tmp_path):
    own = prepare("a cube bouncing", asset=asset, out=tmp_path / "run").about
    assert own == (
        "asset.ply: 200 Gaussians, up is -y in the file; it is a file of threedgen, so they stay where they are",
    )
    foreign = tmp_path / "scan.ply"
    foreign.write_bytes(asset.read_bytes().replace(b"comment threedgen\n", b""))
    (about,) = prepare("a cube bouncing", asset=foreign, out=tmp_path / "run").about
    assert about.endswith("centred and scaled into a ball of radius 0.9")
