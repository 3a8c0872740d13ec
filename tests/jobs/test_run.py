"""Runs: their directories are made, given up, interrupted, resumed and finished; and the assets that they leave."""

from __future__ import annotations

import errno
import json
import platform
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace

import fake_parts
import pytest
import torch

from threedgen import export
from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.core.types import GaussianCloud, RenderOutput, Signal
from threedgen.jobs import finish
from threedgen.jobs import run as job
from threedgen.jobs.listeners.previews import Previews
from threedgen.jobs.lock import LOCK, OWNER
from threedgen.jobs.run_directory import FILM, PICTURES, REFERENCE, RunDirectory, check_free, choose_path
from threedgen.loop.events import RunStarted, StepDone
from threedgen.recipes.load import load_recipe, read_resolved

pytestmark = [
    pytest.mark.filterwarnings("ignore:no exporter for Tensor"),
    pytest.mark.usefixtures("trusted_runs"),
]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.chdir(tmp_path)


class Refusing(fake_parts.Pull):
    """A guidance that refuses the first step, when the files of the run have been made."""

    def __call__(self, output, cameras, prompt, step, total, seed):
        raise UserError("this prompt cannot be judged: use another one")


def recipe(text=fake_parts.RECIPE, *settings, **keywords):
    """A recipe of fake or of real components, read from a file outside the folder of the test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(text)
        return load_recipe(path, settings, prompt="red", **keywords)


@pytest.mark.parametrize("out", [".", "empty", str(Path("new") / "below")])
def test_a_run_that_fails_in_its_first_step_leaves_no_files(out, tmp_path):
    Path("empty").mkdir()
    if out == ".":
        Path("empty").rmdir()
    before, during = sorted(tmp_path.rglob("*")), []

    def look(event):
        if isinstance(event, RunStarted):
            during.extend(path.name for path in Path(out).iterdir())

    with pytest.raises(UserError, match="this prompt cannot be judged"):
        job.start(recipe(fake_parts.RECIPE, "guidance.0.name=test_run:Refusing"), Path(out), [look])
    assert {"recipe.yaml", "previews"} <= set(during)
    assert tmp_path.is_dir()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("export.turntable.frames=0", "export.turntable.frames is 0; it must be at least 1"),
        ("export.turntable.fps=0", "export.turntable.fps is 0; it must be greater than 0"),
        ("export.turntable.size=7", "export.turntable.size is 7; it must be at least 8"),
        (
            "export.turntable.elevation=90",
            "export.turntable.elevation is 90; it must be greater than -90 and less than 90",
        ),
        ("export.moving_faces=99", "export.moving_faces is 99; it must be at least 100"),
        ("export.mesh.resolution=8", "export.mesh.resolution is 8; it must be between 16 and 512"),
        ("export.animation.radius=0", "export.animation.radius is 0; it must be greater than 0"),
        (
            "export.animation.seconds=0.01",
            "export.animation: 0.01 seconds at 24 frames per second are a single",
        ),
        ("preview.every=0", "preview.every is 0; it must be greater than 0"),
        ("checkpoint.every=-1", "checkpoint.every is -1; it must be greater than 0"),
    ],
)
def test_settings_out_of_range_are_named_with_their_path(setting, message):
    with pytest.raises(UserError) as caught:
        recipe(fake_parts.RECIPE, setting)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("out", ["empty", "new"])
@pytest.mark.parametrize("fails", ["mkdir", "write_text"])
def test_a_full_disk_while_creating_leaves_nothing(out, fails, tmp_path, monkeypatch):
    Path("empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    real = getattr(Path, fails)

    def full(self, *arguments, **options):
        if fails == "write_text" or (self.name == "previews" and self.parent.is_dir()):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, fails, full)
        with pytest.raises(UserError, match="No space left"):
            RunDirectory.create(Path(out), {"prompt": "x"})
    assert sorted(tmp_path.rglob("*")) == before
    assert RunDirectory.create(Path(out), {"prompt": "x"}).recipe.is_file()


@pytest.mark.parametrize("given", [REFERENCE, PICTURES, FILM])
def test_what_a_run_was_given_is_not_in_the_way_after_a_kill(given, tmp_path):
    """The folders are moved into a run before its recipe is written, which says that it is one."""
    (tmp_path / "made").mkdir()
    out = tmp_path / "run"
    (out / given).mkdir(parents=True)
    for name, text in ((LOCK, ""), (OWNER, json.dumps({"process": 999_999_999, "machine": platform.node()}))):
        (out / name).write_text(text)
    run = RunDirectory.create(out, {"prompt": "x"}, {given: tmp_path / "made"})
    assert (run.path / given).is_dir()
    (tmp_path / "other").mkdir()
    with pytest.raises(AssertionError):  # which would be in the way
        RunDirectory.create(tmp_path / "new", {"prompt": "x"}, {"other": tmp_path / "other"})


def test_a_run_that_appeared_in_the_meantime_is_not_touched(monkeypatch):
    out, build = Path("run"), job.build

    def slow_build(*arguments):
        RunDirectory.create(out, {"prompt": "somebody else's"})
        return build(*arguments)

    monkeypatch.setattr(job, "build", slow_build)
    with pytest.raises(UserError, match="already holds a run"):
        job.start(recipe(), out)
    assert "somebody else" in (out / "recipe.yaml").read_text()


@pytest.mark.parametrize("probe", ["is_file", "is_dir", "iterdir", "exists"])
def test_folders_that_must_not_be_read_are_reported(probe, monkeypatch):
    """In Python 3.11, Path.is_file and its like raise PermissionError."""
    locked = Path("locked")
    locked.mkdir()

    def forbidden(self, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    calls = [lambda: check_free(locked)]
    calls += [lambda: choose_path(None, "x")] if probe == "exists" else []
    for call in calls:
        with monkeypatch.context() as patch:
            patch.setattr(Path, probe, forbidden)
            with pytest.raises(UserError, match=r"^cannot write to '.*': Permission denied; choose another"):
                call()
    if probe in ("is_dir", "is_file"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, probe, forbidden)
            with pytest.raises(UserError, match="cannot read the run 'locked': Permission denied"):
                RunDirectory.open("locked")


def test_a_full_disk_is_not_reported_as_a_missing_surface(monkeypatch):
    """The run stays unfinished, with its checkpoint, and can be resumed later."""
    real = export.write

    def full(asset, path, **options):
        if path.suffix == ".glb":
            raise UserError(f"cannot write {path}: No space left on device")
        return real(asset, path, **options)

    settings = ("steps=2", "checkpoint.every=1", "representation.opacity=0.5")
    with monkeypatch.context() as patch:
        patch.setattr(export, "write", full)
        with pytest.raises(UserError, match="No space left"):
            job.start(recipe(fake_parts.REAL_RECIPE, *settings), Path("run"))
    run = RunDirectory.open("run")
    assert not run.finished
    job.resume(run)
    assert run.finished
    assert (run.path / "asset.glb").is_file()


@pytest.mark.parametrize(
    ("prior", "colors", "why"),
    [("disc", "unlit", "its prior does not say"), ("embedded", "albedo", "which is divided out")],
)
def test_the_report_says_what_the_colours_of_the_mesh_are(prior, colors, why):
    text = fake_parts.REAL_RECIPE.replace("disc", prior).replace('  - {name: "fake_parts:Pull"}\n', "")
    settings = ("steps=1", "checkpoint.every=1", "representation.opacity=0.9", "export.mesh.texture_size=64")
    run = job.start(recipe(text, *settings), Path("run"))
    report = json.loads(run.report.read_text())
    material = report["asset"]["material"]
    assert material["colors"] == colors
    assert why in material["why"]
    assert ("light" in material) == (colors == "albedo")
    assert report["scores"]["mesh_agreement_psnr"] > 18.0


def test_an_asset_without_a_surface_is_a_warning():
    settings = ("steps=1", "checkpoint.every=1", "representation.opacity=0.001")
    with pytest.warns(UserWarning, match="no Gaussian is opaque enough"):
        run = job.start(recipe(fake_parts.REAL_RECIPE, *settings), Path("run"))
    report = json.loads(run.report.read_text())
    assert "no Gaussian is opaque enough" in report["asset"]["mesh"]
    assert "watertight" not in report["scores"]
    assert not (run.path / "asset.glb").exists()


def test_a_finished_run_goes_on_with_more_steps(capsys):
    """Its files and its report are then those of all steps; the first steps are as they were."""
    run = job.start(recipe(fake_parts.RECIPE, "steps=10"), Path("run"))
    rows = run.metrics.read_text().splitlines()
    assert run.finished
    assert main(["resume", "run"]) == 0
    assert "nothing to do; --steps N gives it more steps" in capsys.readouterr().out
    assert main(["resume", "run", "--steps", "14"]) == 0
    assert run.finished
    after = run.metrics.read_text().splitlines()
    assert after[:10] == rows
    assert len(after) == 14
    assert json.loads(run.report.read_text())["steps"] == 14
    for steps in ("14", "3"):
        assert main(["resume", "run", "--steps", steps]) == 2
        assert f"--steps {steps}: 'run' has done 14 steps; name" in capsys.readouterr().err
    assert "steps: 14" in run.recipe.read_text()


def test_a_run_whose_recipe_asks_for_more_steps_is_not_finished():
    run = job.start(recipe(fake_parts.RECIPE, "steps=10"), Path("run"))
    run.recipe.write_text(run.recipe.read_text().replace("steps: 10\n", "steps: 12\n"))
    assert not run.finished
    job.resume(run)
    assert run.finished
    assert len(run.metrics.read_text().splitlines()) == 12
    (run.checkpoint / "state.json").write_text("damaged")
    assert run.finished, "what is damaged is reported by those who need it"


def test_more_steps_are_those_of_the_last_stage(capsys):
    # Shorter than an interval that is a default: the files of such a run can be read nevertheless.
    stages = "stages:\n  - {steps: 6}\n  - {steps: 4}\n"
    text = re.sub(r"(?m)^steps:.*\n", "", fake_parts.RECIPE) + stages
    run = job.start(recipe(text), Path("run"))
    assert main(["resume", "run", "--steps", "15"]) == 0
    assert len(run.metrics.read_text().splitlines()) == 15
    assert [stage.steps for stage in read_resolved(run.recipe).all_stages] == [6, 9]


def test_the_report_of_a_resumed_run_counts_the_time_of_earlier_processes():
    def stop(event):
        if isinstance(event, StepDone) and event.step == 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.start(recipe(), Path("run"), [stop])
    run = RunDirectory.open("run")
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert len(rows) == 15
    run.metrics.write_text("".join(json.dumps({**row, "seconds": 100.0}) + "\n" for row in rows))
    job.resume(run)
    seconds = json.loads(run.report.read_text())["seconds"]
    # The last checkpoint was before step 10: the five steps after it are made again and count once.
    assert 1000.0 <= seconds["distilling"] < 1100.0
    assert seconds["total"] >= seconds["distilling"]
    assert all(duration == round(duration, 3) for duration in seconds.values())


def test_ctrl_c_while_exporting_names_the_command_that_continues(monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    Path("recipe.yaml").write_text(fake_parts.RECIPE)
    monkeypatch.setattr(finish, "write_assets", interrupted)
    hint = "continue it with `threedgen resume run`"
    assert main(["text-to-3d", "x", "--recipe", "recipe.yaml", "--out", "run"]) == 130
    assert hint in capsys.readouterr().err
    assert main(["resume", "run"]) == 130
    assert hint in capsys.readouterr().err


def test_the_blur_of_an_asset_does_not_depend_on_one_draw():
    """The distance of the cameras of one step is random in 2.6 to 3.1; the blur is measured with their median."""
    scales = []
    for seed in range(8):
        one = torch.zeros(1, 3)
        cloud = GaussianCloud(one, torch.eye(4)[:1], one + 1e-6, torch.ones(1), one[:, None])
        asset = finish.asset_of(
            recipe(fake_parts.REAL_RECIPE, seed=seed, steps=200), SimpleNamespace(at=lambda time, c=cloud: c)
        )
        assert isinstance(asset, GaussianCloud)
        scales.append(float(asset.scales[0, 0]))
    assert max(scales) / min(scales) < 1.06


def test_previews_show_what_the_guidance_saw_at_their_own_steps(tmp_path):
    import imageio.v3 as iio

    wanted = []

    def picture():
        wanted.append(True)
        return torch.zeros(4, 8, 3)

    previews = Previews(Previews.Config(every=3), tmp_path, 7)
    output = RenderOutput(rgb=torch.ones(2, 4, 4, 3), alpha=torch.ones(2, 4, 4, 1))
    for step in range(7):
        state = SimpleNamespace(step=step + 1, steps_in_run=step + 1)
        signals = (Signal(torch.tensor(0.0), {}, picture), Signal(torch.tensor(0.0)))
        previews(StepDone(state, step, 7, {}, signals, output, None))  # type: ignore[arg-type]
    assert len(wanted) == 3
    files = sorted(tmp_path.glob("*.png"))
    assert [file.name for file in files] == ["step-000003.png", "step-000006.png", "step-000007.png"]
    shown = iio.imread(files[0])
    assert shown.shape == (8, 8, 3)
    assert shown[:4].min() == 255
    assert shown[4:].max() == 0
