"""One writer a folder: a second command is refused in one line, and a killed one leaves nothing in the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import fake_parts
import pytest

from threedgen.commands.main import main
from threedgen.core.atomic import replacing
from threedgen.core.errors import UserError
from threedgen.jobs import lock
from threedgen.jobs.run import resume, start
from threedgen.jobs.run_directory import RunDirectory
from threedgen.loop.events import StepDone
from threedgen.recipes.load import load_recipe

pytestmark = pytest.mark.filterwarnings("ignore:no exporter for Tensor")

HOLDER = """
import sys
from pathlib import Path
from threedgen.core.atomic import replacing, replacing_folder
from threedgen.jobs.lock import holding
folder = Path(sys.argv[1])
with holding(folder, str), replacing(folder / "deep" / "x.png"), replacing_folder(folder / "pipeline") as partial:
    (partial / "model_index.json").touch()
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(fake_parts.RECIPE)
    monkeypatch.setenv("THREEDGEN_TRUST_RUNS", "1")  # the recipe names classes of the tests


def held(folder: str) -> subprocess.Popen:
    """Another process that holds the folder and is in the middle of two files."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def stopped_run(out: str = "run") -> RunDirectory:
    """A run that was refused after its first checkpoint."""
    settings = ["guidance.0.refuse_at=15"]
    with pytest.raises(UserError, match="refuses step 15"):
        start(load_recipe("recipe.yaml", settings, prompt="red"), Path(out))
    return RunDirectory.open(out)


def left_in(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).rglob(".threedgen-*"))


def test_the_second_command_is_refused_until_the_first_is_killed(capsys):
    run = stopped_run()
    before = sorted(path.name for path in run.path.rglob("*"))
    other = held("run")
    try:
        assert main(["resume", "run"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"'run' is in use: process {other.pid} on " in said
        assert len(left_in("run")) == 4  # lock, owner and two temporaries
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    seen: list[str] = []
    with pytest.raises(UserError, match="refuses step 15"):
        resume(run, [lambda event: seen.extend(left_in("run")) if isinstance(event, StepDone) else None])
    assert set(seen) == set(lock.FILES)
    assert left_in("run") == []
    assert sorted(path.name for path in run.path.rglob("*")) == sorted([*before, "deep"])


@pytest.mark.parametrize(
    "command",
    [
        ["text-to-3d", "red", "--recipe", "recipe.yaml", "--out", "held"],
        ["compose", "scene.yaml", "--out", "held"],
        ["train", "prior", "--out", "held", "--steps", "1", "--bank-views", "1"],
        ["train", "ssdnerf", "shape-world:car", "--out", "held", "--objects", "1", "--size", "8"],
        ["train", "nerfdiff", "shape-world:car", "--objects", "1", "--size", "16", "--out", "held"],
    ],
)
def test_every_command_that_writes_a_folder_holds_it(command, capsys, monkeypatch):
    Path("scene.yaml").write_text("seconds: 1\nassets: [{name: ball, prompt: a ball}]")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    with lock.holding(Path("held"), str):
        assert main(command) == 2
        assert "threedgen: 'held' is in use" in capsys.readouterr().err.splitlines()[-1]
        assert sorted(path.name for path in Path("held").iterdir()) == sorted(lock.FILES)
    assert not Path("held").exists()


def test_what_another_machine_holds_is_named_and_not_taken_over():
    Path("run").mkdir()
    owner = Path("run", lock.OWNER)
    owner.write_text(json.dumps({"process": 7, "machine": "elsewhere"}))
    with pytest.raises(UserError, match=r"process 7 on elsewhere, .* remove run/\.threedgen-owner"):
        lock.holding(Path("run"), str).__enter__()
    assert [path.name for path in Path("run").iterdir()] == [lock.OWNER]
    owner.unlink()
    with lock.holding(Path("run"), str):
        pass


@pytest.mark.parametrize("text", ["", "[" * 9000, '{"process": "7"}'])
def test_a_damaged_owner_does_not_stand_in_the_way(text):
    Path("run").mkdir()
    Path("run", lock.OWNER).write_text(text)
    with lock.holding(Path("run"), str):
        pass
    assert list(Path("run").iterdir()) == []


def test_temporaries_of_processes_that_run_and_of_other_holders_stay():
    own, alive = Path("run/.threedgen-999999999-x.glb"), Path(f"run/.threedgen-{os.getppid()}-x.glb")
    nested, users = Path("run/nested/.threedgen-999999999-x"), Path("run/.threedgen-notes")
    nested.parent.mkdir(parents=True)
    Path("run/nested", lock.LOCK).touch()
    for path in (own, alive, nested, users):
        path.touch()
    with lock.holding(Path("run"), str), replacing("run/x.glb") as temporary:
        temporary.touch()
    assert not own.exists()
    assert alive.exists()
    assert nested.exists()
    assert users.exists()


def test_what_is_held_apart_is_neither_searched_nor_swept():
    own, theirs = Path("out/.threedgen-999999999-x.csv"), Path("out/runs/one/.threedgen-999999999-x.glb")
    theirs.parent.mkdir(parents=True)
    own.touch()
    theirs.touch()
    Path("out/runs/one/link").symlink_to("nowhere")
    with lock.holding(Path("out"), str, "runs"):
        assert not own.exists()
        assert theirs.exists()
    with pytest.raises(UserError, match="is a link"), lock.holding(Path("out"), str):
        pass
    Path("out/runs").rename("elsewhere")
    Path("out/runs").symlink_to("elsewhere")
    with pytest.raises(UserError, match="is a link"), lock.holding(Path("out"), str, "runs"):
        pass


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_folder_with_links_or_pipes_is_not_written(kind, capsys):
    run = stopped_run()
    outside = Path("outside")
    outside.mkdir()
    for name in ("keep.txt", "tensors-0.safetensors", "state.json.partial", ".threedgen-999999999-x"):
        (outside / name).write_text("mine")
    before = {path: path.read_text() for path in outside.iterdir()}
    for number, place in enumerate((run.path / "previews", run.checkpoint, run.metrics)):
        place.rename(f"aside-{number}")
        if kind == "link":
            place.symlink_to(outside.absolute() if number < 2 else (outside / "keep.txt").absolute())
        else:
            os.mkfifo(place)
        assert main(["resume", "run"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"'{place}' is a {'link' if kind == 'link' else 'named pipe'}" in said
        assert not any((run.path / name).exists() for name in lock.FILES)
        place.unlink()
        Path(f"aside-{number}").rename(place)
    assert {path: path.read_text() for path in outside.iterdir()} == before
    with pytest.raises(UserError, match="refuses step 15"):
        resume(run)


def test_an_unexpected_error_says_where_the_run_stands_and_how_it_goes_on():
    def fails(event):
        if isinstance(event, StepDone) and event.state.step == 15:
            raise ZeroDivisionError("a mistake of ours")

    recipe = load_recipe("recipe.yaml", prompt="red")
    with pytest.raises(ZeroDivisionError) as caught:
        start(recipe, Path("run"), [fails])
    note = "the checkpoint of 'run' is intact, after step 10: go on with `threedgen resume run`"
    assert caught.value.__notes__ == [f"threedgen: {note}"]
    resume(RunDirectory.open("run"))
    assert RunDirectory.open("run").finished
