"""The folder of a stranger's run is data: nothing in it or beside it is run, and nothing is fetched for it."""

from __future__ import annotations

import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError

from threedgen.commands.main import main
from threedgen.composition import runs
from threedgen.composition.scene_file import read_scene
from threedgen.core import trust
from threedgen.core.errors import UserError
from threedgen.core.types import GaussianCloud
from threedgen.guidance.priors.load import PriorConfig, load_prior
from threedgen.jobs.build import continue_earlier
from threedgen.jobs.run_directory import RunDirectory
from threedgen.pipelines.result import load_run
from threedgen.pipelines.text_to_3d import text_to_3d
from threedgen.recipes.load import load_recipe, read_resolved
from threedgen.representations.dynamic_gaussians import DynamicGaussians
from threedgen.representations.extension import Config as After

MODULE = "marker_module"
# A module that leaves a file when it is imported.
SOURCE = """
import pathlib
from threedgen.cameras.orbit import OrbitSampler
from threedgen.guidance.priors.load import load_disc as prior
pathlib.Path({marker!r}).touch()

class Cameras(OrbitSampler):
    pass
"""
COMMANDS = (
    ["export", "{run}", "--to", "x.ply"],
    ["render", "{run}", "--to", "x.mp4"],
    ["eval", "{run}"],
    ["resume", "{run}"],
)


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """The file that is written when the module is imported, which lies inside the run and beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    file = tmp_path / "was-imported"
    for folder in (tmp_path, tmp_path / "run"):
        (folder / f"{MODULE}.py").write_text(SOURCE.format(marker=str(file)))
        monkeypatch.syspath_prepend(str(folder))
    yield file
    sys.modules.pop(MODULE, None)


def write(**changes):
    """A run without a checkpoint whose recipe has these changes."""
    resolved = dict(load_recipe("text-to-3d", ["guidance.0.prior.name=disc"], prompt="a cube").resolved)
    resolved.update(changes)
    Path("run").mkdir(exist_ok=True)
    Path("run/recipe.yaml").write_text(yaml.safe_dump(resolved))
    return resolved


def stages(section):
    return [{"steps": 2, "guidance": write()["guidance"], "cameras": section}, {"steps": 2}]


STRANGERS = {
    "cameras": lambda: write(cameras={"name": f"{MODULE}:Cameras"}),
    "short": lambda: write(cameras=f"{MODULE}:Cameras"),
    "renderer": lambda: write(renderer={"name": f"{MODULE}:Cameras"}),
    "guidance": lambda: write(guidance=[{"name": f"{MODULE}:Cameras"}]),
    "objective": lambda: write(guidance=[{**write()["guidance"][0], "objective": f"{MODULE}:Cameras"}]),
    "prior": lambda: write(guidance=[{**write()["guidance"][0], "prior": {"name": f"{MODULE}:prior"}}]),
    "stage": lambda: write(stages=stages({"name": f"{MODULE}:Cameras"})),
}


@pytest.mark.parametrize("place", list(STRANGERS))
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_run_that_names_a_class_is_refused_in_one_line(command, place, marker, capsys):
    STRANGERS[place]()
    assert main([part.format(run="run") for part in command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"the recipe of 'run' names the class '{MODULE}:" in line
    assert "--trust" in line
    assert trust.VARIABLE in line
    assert not marker.exists()


def test_trust_lets_it(marker, capsys, monkeypatch):
    write(cameras={"name": f"{MODULE}:Cameras"})
    assert main(["export", "run", "--to", "x.ply", "--trust"]) == 2
    assert "has no checkpoint yet" in capsys.readouterr().err
    assert marker.exists()
    with pytest.raises(UserError, match="--trust"):  # the option is for one command
        read_resolved(Path("run/recipe.yaml"))
    with pytest.raises(UserError, match="--trust"):
        _ = load_run("run").recipe
    assert load_run("run", trust=True).recipe.cameras.cls.__name__ == "Cameras"
    monkeypatch.setenv(trust.VARIABLE, "1")
    assert read_resolved(Path("run/recipe.yaml")).cameras.cls.__name__ == "Cameras"


def test_what_the_user_names_is_not_asked_about(marker):
    recipe = load_recipe("text-to-3d", [f"cameras={MODULE}:Cameras"], prompt="a cube")
    assert recipe.cameras.cls.__name__ == "Cameras"
    assert marker.exists()
    Path("mine.yaml").write_text(f"extends: text-to-3d\ncameras: {{name: '{MODULE}:Cameras'}}\n")
    assert load_recipe("mine.yaml", prompt="a cube").cameras.name == f"{MODULE}:Cameras"


def test_a_class_that_the_user_names_too_is_allowed(marker):
    write(cameras={"name": f"{MODULE}:Cameras"})
    with trust.typed([f"{MODULE}:Cameras"]):
        assert read_resolved(Path("run/recipe.yaml")).cameras.name == f"{MODULE}:Cameras"
    with trust.typed([f"{MODULE}:Other"]), pytest.raises(UserError, match="--trust"):
        read_resolved(Path("run/recipe.yaml"))


def test_a_prompt_may_look_like_a_class(marker):
    write(prompt=f"{MODULE}:Cameras", description=f"{MODULE}:Cameras")
    assert read_resolved(Path("run/recipe.yaml")).prompt == f"{MODULE}:Cameras"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cameras": {"name": "threedgen.renderers.mesh:MeshRenderer"}}, "is no cameras"),
        ({"representation": {"name": "threedgen.core.atomic:replacing"}}, "is no representation"),
        ({"cameras": {"name": "threedgen.cameras.long_gone:OrbitSampler"}}, "has no checkpoint yet"),
    ],
)
def test_names_of_threedgen_are_known_wherever_they_were(changes, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(**changes)
    assert main(["export", "run", "--to", "x.ply"]) == 2
    assert message in capsys.readouterr().err


def test_a_hub_model_of_a_run_is_not_fetched(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = []

    def snapshot_download(hub_id, local_files_only=False, **_):
        asked.append(local_files_only)
        raise LocalEntryNotFoundError("not here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    write(guidance=[{**write()["guidance"][0], "prior": {"path": "someone/model"}}])
    assert main(["resume", "run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "names the hub model 'someone/model'" in line
    assert "--trust" in line
    assert asked == [True], "only the local cache was asked"
    assert main(["resume", "run", "--trust"]) == 2
    assert "cannot be fetched" in capsys.readouterr().err
    assert asked == [True, True, False]
    with pytest.raises(UserError, match="cannot be fetched"):  # the user names it
        load_prior(PriorConfig(path="someone/model"))


class _Begins(Exception):
    """In place of the first run of a scene."""


def test_a_scene_opens_its_runs_with_the_classes_that_the_command_names(marker, monkeypatch):
    Path("scene.yaml").write_text("seconds: 1\nassets:\n  - {name: cube, prompt: a cube}\n")
    scene, setting = read_scene(Path("scene.yaml")), f"still.cameras={MODULE}:Cameras"
    making = runs.Making(settings=(setting, "still.guidance.0.prior.name=disc"))
    (recipe,) = runs.plan(scene, Path("out"), making)[1].values()
    RunDirectory.create(Path("out/assets/cube"), recipe.resolved)
    Path("out/scene.yaml").touch()

    def begin(*_):
        raise _Begins

    monkeypatch.setattr(runs, "_make", begin)
    with pytest.raises(_Begins):
        runs.compose(scene, Path("out"), making)
    with pytest.raises(UserError, match="--trust"):
        runs.compose(scene, Path("out"), runs.Making())


def test_an_earlier_motion_may_have_the_classes_of_the_later_one(marker):
    write(cameras={"name": f"{MODULE}:Cameras"})
    cloud = GaussianCloud(
        torch.zeros(1, 3), torch.ones(1, 4), torch.ones(1, 3), torch.ones(1), torch.zeros(1, 1, 3)
    )
    later = DynamicGaussians(DynamicGaussians.Config(after=After("run")), 0, cloud)
    with pytest.raises(UserError, match="--trust"):
        continue_earlier(later)
    assert not marker.exists()
    with pytest.raises(UserError, match="has no checkpoint yet"):
        continue_earlier(later, [f"{MODULE}:Cameras"])


def test_a_run_that_this_process_made_is_trusted(marker):
    tiny = {"steps": 1, "cameras": f"{MODULE}:Cameras", "cameras.resolution": 8, "cameras.batch": 1}
    tiny |= {"guidance.0.prior.name": "disc", "representation.count": 20, "export.mesh.resolution": 16}
    tiny |= {"export.turntable.frames": 1, "export.turntable.size": 16}
    made = text_to_3d("a cube", out="own", settings=tiny, progress=False)
    assert made.export("own.ply").is_file()
    with pytest.raises(UserError, match="--trust"):
        load_run("own").export("other.ply")
