"""Runs that will come to nothing: they say so, once and early, and stop if they are asked to."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import fake_parts
import pytest
import torch

from threedgen.commands.main import main
from threedgen.core.types import RenderOutput, Signal
from threedgen.jobs import run as job
from threedgen.jobs.listeners.notes import read
from threedgen.jobs.listeners.verdicts import Hopeless, Verdict, Verdicts
from threedgen.jobs.run_directory import RunDirectory
from threedgen.loop.events import GradientsReady, StepDone, StepRolledBack
from threedgen.loop.state import RunState
from threedgen.recipes.load import load_recipe

NOTHING: Any = None
BLACK = "nothing but black"


class Pushed(fake_parts.Pull):
    """A guidance that gives no parameter a gradient in the first steps."""

    def __call__(self, output, cameras, prompt, step, total, seed):
        signal = super().__call__(output, cameras, prompt, step, total, seed)
        return Signal(signal.loss * (step >= 30), {})


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.chdir(tmp_path)


def views(color: float, alpha: float) -> RenderOutput:
    """Views of one colour with one opacity, before a white background."""
    rgb = torch.full((2, 8, 8, 3), color * alpha + 1.0 - alpha)
    return RenderOutput(rgb=rgb, alpha=torch.full((2, 8, 8, 1), alpha))


GOOD = views(0.5, 1.0)


def verdicts(
    outputs: list[RenderOutput], total: int, prompt: str = "a cube", gradient: float = 1.0, rolled: int = -1
) -> list[tuple[str, int]]:
    """Reason and step of the verdicts of a stage of `total` steps that shows `outputs`."""
    scene = torch.nn.Linear(1, 1)
    for parameter in scene.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    listener = Verdicts(prompt)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step, output in enumerate(outputs):
            state = RunState(scene, NOTHING, 0, step=step + 1)
            listener(GradientsReady(state, step, total, torch.zeros(())))
            listener(StepDone(state, step, total, {}, (), output, NOTHING))
            if step == rolled:
                listener(StepRolledBack(state, step, 0, "NaN"))
    given = [one.message for one in caught]
    assert all(isinstance(one, Verdict) for one in given)
    return [(one.reason, one.step) for one in given if isinstance(one, Verdict)]


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (views(0.5, 0.01), "empty"),
        (views(0.01, 1.0), "black"),
        (views(1.0, 1.0), "saturated"),
        (views(0.5, 0.5), None),
        (GOOD, None),
        (views(0.03, 1.0), None),
        (RenderOutput(rgb=torch.ones(1, 8, 8, 4), alpha=torch.ones(1, 8, 8, 1)), None),  # latents
    ],
)
def test_a_verdict_comes_once_after_a_fifth_of_the_steps(output, reason):
    given = [] if reason is None else [(reason, 20)]
    assert verdicts([output] * 100, 100) == given
    assert verdicts([output] * 19, 100) == []
    assert verdicts([output] * 18 + [GOOD] * 2 + [output] * 18, 100) == []
    assert verdicts([output] * 30, 100, rolled=15)[:1] == []
    assert verdicts([output] * 19, 19) == []  # too short to tell


def test_a_prompt_may_ask_for_black():
    assert verdicts([views(0.0, 1.0)] * 100, 100, "A Black cube") == [("saturated", 20)][:0]


def test_no_gradient():
    assert verdicts([GOOD] * 100, 100, gradient=0.0) == [("no gradient", 20)]
    assert verdicts([GOOD] * 400, 400, gradient=0.0) == [("no gradient", 80)]


def hopeless_recipe():
    Path("recipe.yaml").write_text(fake_parts.RECIPE)
    return load_recipe("recipe.yaml", ["guidance.0.name=test_verdicts:Pushed"], prompt="a cube")


@pytest.mark.usefixtures("trusted_runs")
@pytest.mark.filterwarnings("ignore:no exporter for Tensor")
@pytest.mark.filterwarnings("ignore:this run looks hopeless")
def test_a_hopeless_run_stops_says_why_and_goes_on_when_it_is_resumed(capsys):
    run = RunDirectory(Path("run"))
    with pytest.raises(
        Hopeless, match=r"stopped after step 10 of 40: no gradient \(run/report.html says why\)"
    ):
        job.start(hopeless_recipe(), run.path, stop_when_hopeless=True)
    report = json.loads(run.report.read_text())
    assert report["stopped_after"] == 10
    (verdict,) = report["verdicts"]
    assert (verdict["reason"], verdict["step"]) == ("no gradient", 10)
    assert verdict["text"] in report["warnings"]
    assert "The run was stopped after 10 steps" in run.page.read_text()
    assert not run.finished
    assert main(["compare", "run", "run2"]) == 2  # a run that is not there
    assert main(["resume", "run", "--trust"]) == 0
    assert run.finished
    report = json.loads(run.report.read_text())
    assert "stopped_after" not in report
    assert report["verdicts"][0] == verdict  # what the earlier process said is not forgotten
    assert [one["step"] for one in report["verdicts"]] == [10, 20]  # a fifth of the steps since the resume


@pytest.mark.usefixtures("trusted_runs")
@pytest.mark.filterwarnings("ignore:no exporter for Tensor")
def test_without_the_option_a_verdict_is_a_warning():
    with pytest.warns(Verdict, match="hopeless after step 10 of 40"):
        run = job.start(hopeless_recipe(), Path("run"))
    assert run.finished
    assert [note.get("step") for note in read(run.notes)] == [10, None]


def test_notes_of_a_process_that_was_killed_are_read(tmp_path):
    path = tmp_path / "notes.jsonl"
    assert read(path) == []
    path.write_text('{"text": "one"}\n{"text": "one"}\n["text"]\n{"text": 3}\n{"tex')
    assert read(path) == [{"text": "one"}]
