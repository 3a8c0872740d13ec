"""Damaged files of a run: each is one line that says what is wrong, wherever the run is opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from threedgen.commands.main import main
from threedgen.core import checkpoint
from threedgen.core.errors import UserError
from threedgen.jobs.listeners import metrics
from threedgen.jobs.run import start
from threedgen.pipelines.result import load_run
from threedgen.recipes.load import load_recipe, read_resolved

STEPS = 4
SETTINGS = (
    f"steps={STEPS}",
    "guidance.0.prior.name=disc",
    "representation.count=30",
    "regularizers.solidity=0",  # with which Gaussians would be added and removed
    "cameras.batch=1",
    "cameras.resolution=8",
    "export.mesh.resolution=16",
    "export.turntable.frames=1",
    "export.turntable.size=16",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run that has everything but its report, so that it can be resumed."""
    path = tmp_path_factory.mktemp("made") / "run"
    start(load_recipe("text-to-3d", SETTINGS, prompt="a red cube"), path)
    (path / "report.json").unlink()
    return path


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, "run")
    return Path("run")


def edit_state(run, **changes):
    path = run / "checkpoint" / "state.json"
    document = json.loads(path.read_text())
    document["state"] |= changes
    document["state"] = {key: value for key, value in document["state"].items() if value is not ...}
    path.write_text(json.dumps(document))


def edit_tensors(run, change):
    tensors, state = checkpoint.load(run / "checkpoint")
    change(tensors)
    checkpoint.save(run / "checkpoint", tensors, state)


def refused(command, capsys):
    """The one line with which a command refuses."""
    assert main(command) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("threedgen: ")]
    assert len(lines) == 1
    return lines[0]


EXPORT = ["export", "run", "--to", "x.ply"]
RESUME = ["resume", "run"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "cannot read run/recipe.yaml"),
        (b"seed: 2001-99-99\n", "month must be in"),
        (b"- 1\n", "is not a recipe"),
        (b"seed: !!int ''\n", "leave tags out"),
        (b"a: &a [*a]\n", "inside itself"),
        (b"a: " + b"[" * 5000 + b"]" * 5000, "lie inside each other"),
        (b"prompt: " + b"x" * 2**20, "and at most 1048576 can belong to it"),
        (
            b"a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
            b"c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
            b"e: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n",
            "more than 100000 values",
        ),
        (b"seed: 1" + b"0" * 400, "too large"),
        (b"cameras: {fov: 1" + b"0" * 5000 + b"}", "4300 digits"),
    ],
)
def test_a_recipe_that_cannot_be_read(content, message, run, capsys):
    (run / "recipe.yaml").write_bytes(content)
    for command in (EXPORT, RESUME, ["render", "run", "--to", "x.gif"], ["eval", "run"]):
        assert message in refused(command, capsys)


def test_a_recipe_and_a_scene_of_the_user_have_the_same_limits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    deep = "a: " + "[" * 5000 + "]" * 5000
    Path("mine.yaml").write_text(deep)
    assert "lie inside each other" in refused(["text-to-3d", "x", "--recipe", "mine.yaml"], capsys)
    assert "lie inside each other" in refused(["compose", "mine.yaml"], capsys)
    assert "is not valid YAML" in refused(["text-to-3d", "x", f"guidance.0.options={deep[3:]}"], capsys)
    assert "a number of 401 digits" in refused(["text-to-3d", "x", "cameras.fov=1" + "0" * 400], capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": 7}, "it is in stage 8, and the recipe has 1"),
        ({"stage": -1}, "must be at least 0"),
        ({"step": -5}, "must be at least 0"),
        ({"step": STEPS + 1}, f"it is at step 5, and the recipe has {STEPS}"),
        ({"step": True}, "'step' must be a whole number"),
        ({"seed": "zero"}, "'seed' must be a whole number"),
        ({"threads": [1]}, "'threads' must be a whole number"),
        ({"executors": [{"executor": "openvino"}]}, "does not say how a prior was computed"),
        ({"executors": {"executor": "eager"}}, "'executors' must be a list"),
        ({"rollback": 1}, "did you mean 'rollbacks'?"),
        ({"step": ...}, "its step is missing"),
    ],
)
def test_a_state_that_makes_no_sense(changes, message, run, capsys):
    edit_state(run, **changes)
    assert message in refused(RESUME, capsys)
    if "step" not in changes or changes["step"] is not ...:
        assert message in refused(EXPORT, capsys)


@pytest.mark.parametrize(
    "content", ["[" * 200000 + "]" * 200000, "{}", "1", '{"format": 1}', '{"a":1e999', "\x00"]
)
def test_a_state_that_is_none(content, run, capsys):
    (run / "checkpoint" / "state.json").write_text(content)
    for command in (EXPORT, RESUME):
        assert "is damaged or not a checkpoint" in refused(command, capsys)


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, value):
    return lambda tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("scene.sh"), "sh is missing"),
        (put("scene.beta", torch.zeros(2)), "beta is unknown"),
        (put("scene.quats", torch.zeros(30, 3)), "quats is [30, 3]"),
        (put("scene.means", torch.zeros(())), "scene does not fit"),
        (put("scene.opacity_logits", torch.zeros(30, dtype=torch.int64)), "of torch.int64"),
    ],
)
def test_tensors_of_another_version(change, message, run, capsys):
    edit_tensors(run, change)
    for command in (EXPORT, RESUME):
        line = refused(command, capsys)
        assert message in line
        assert "cannot use the checkpoint run/checkpoint" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("optimizer.means.0.exp_avg", torch.zeros(1, 3)), "but its parameter is [30, 3]"),
        (put("optimizer.means.0.exp_avg_sq", torch.zeros(30, 3, dtype=torch.int64)), "of torch.int64"),
        (put("optimizer.means.0.step", torch.zeros(30)), "means.0.step is [30]"),
        (drop("optimizer.means.0.exp_avg"), "exp_avg is missing"),
        (put("optimizer.means.0.max_exp_avg", torch.zeros(30, 3)), "max_exp_avg is unknown"),
        (put("optimizer.steps_taken", torch.tensor([1, 2])), "does not fit this run"),
        (put("optimizer.steps_taken", torch.tensor(-1)), "does not fit this run"),
    ],
)
def test_moments_that_do_not_fit(change, message, run, capsys):
    edit_tensors(run, change)
    assert message in refused(RESUME, capsys)
    assert main(EXPORT) == 0, "an export needs no moments"


def test_a_checkpoint_folder_that_may_not_be_read(run, capsys, monkeypatch):
    def is_file(self):
        if self.name == "state.json":
            raise PermissionError(13, "Permission denied")
        return real(self)

    real = Path.is_file
    monkeypatch.setattr(Path, "is_file", is_file)
    for command in (EXPORT, RESUME):
        assert "cannot read run/checkpoint/state.json: Permission denied" in refused(command, capsys)


def test_metrics_are_repaired_and_the_run_goes_on(run, capsys):
    path = run / "metrics.jsonl"
    good = path.read_bytes().splitlines(keepends=True)
    bad = [
        b"\xff\xfe\n",
        b"[1]\n",
        b'{"loss": 1.0}\n',
        b'{"step": "one"}\n',
        b'{"step": 1, "seconds": [2]}\n',
    ]
    bad.append(b"[" * 200000 + b"\n")
    path.write_bytes(b"".join([good[0], *bad, *good[1:]]) + b'{"step": 4, "lo')
    assert main(RESUME) == 0
    warning = [line for line in capsys.readouterr().err.splitlines() if "metrics.jsonl" in line]
    assert warning == ["warning: run/metrics.jsonl was damaged: 6 lines that are no rows were left out, and the "
                       "rest is kept"]  # fmt: skip
    assert path.read_bytes().splitlines(keepends=True) == good
    assert [row["step"] for row in metrics.read(path)] == list(range(STEPS))


def test_a_last_row_that_was_cut_short_is_usual(run, recwarn):
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 4, "lo')
    metrics.truncate(path, STEPS)
    assert not recwarn.list
    assert len(metrics.read(path)) == STEPS


def test_metrics_that_cannot_be_read(run, capsys):
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    assert "'run/metrics.jsonl' is a folder and not a file" in refused(RESUME, capsys)


@pytest.mark.parametrize("content", ["[1]", "[" * 200000, '{"a": 1' + "0" * 400 + "}"])
def test_a_report_that_is_none(content, run):
    (run / "report.json").write_text(content)
    with pytest.raises(UserError, match=r"report\.json"):
        _ = load_run(run).report


def test_a_recipe_of_another_version(run, capsys):
    values = yaml.safe_load((run / "recipe.yaml").read_text())
    values["representation"]["wobble"] = 1
    (run / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert "unknown key 'representation.wobble'" in refused(EXPORT, capsys)
    del values["representation"]["wobble"], values["representation"]["count"]
    (run / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert read_resolved(run / "recipe.yaml").representation.config.count > 0
