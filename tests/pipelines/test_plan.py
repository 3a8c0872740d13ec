"""A plan: what a command would do, without doing it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from threedgen.commands.main import main
from threedgen.core import cache, memory
from threedgen.core.errors import UserError
from threedgen.guidance.priors import hub
from threedgen.pipelines.planning import calibration
from threedgen.pipelines.planning.calibration import Calibration, calibrate, known
from threedgen.pipelines.planning.models import models_of
from threedgen.recipes.load import load_recipe

GB = 10**9
SMALL = ["representation.count=60", "cameras.resolution=16", "export.mesh.resolution=16"]
SD: Any = {"unet/diffusion.safetensors": 2 * GB, "vae/model.safetensors": GB // 2, "model_index.json": 500}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THREEDGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def asked(monkeypatch):
    """The words of the commands that a calibration would run; each is said to take 2 s and 0.05 s a step."""
    words: list[list[str]] = []

    def measured(command):
        words.append(list(command))
        found = Calibration((0.05,), {"loading the prior": 1.5, "distilling": 0.5}, 600 * 10**6, 0)
        return found, [{"executor": "eager", "why": "a run of fewer than 100 steps"}] * len(executors)

    executors: list[int] = []
    monkeypatch.setattr(calibration, "_measured", measured)
    return SimpleNamespace(words=words, executors=executors)


def planned(capsys, *words: str) -> str:
    assert main(["plan", *words]) == 0
    return capsys.readouterr().out


def test_a_plan_says_what_a_run_would_do_and_leaves_nothing(asked, capsys):
    text = planned(capsys, "text-to-3d", "a cat", *SMALL, "--steps", "200", "--seed", "3")
    for part in (
        "recipe      text-to-3d: 3D Gaussians",
        "'a cat', seed 3, 200 steps on cpu",
        "representation.count: 60 in place of 3000",
        "parameters  840",
        "means: 180, rate 0.006",
        "model       embedded-things: here",
        "memory      about 0.60 GB at the peak",
        "what is optimised: 0.01 MB",
        "time        about 12.0 s",
        "distilling: 10.5 s",
    ):
        assert part in text
    assert "warning" not in text
    assert asked.words[0][-4:] == ["--seed", "3", "--steps", "25"]
    assert not Path("runs").exists()
    planned(capsys, "text-to-3d", "a dog", *SMALL, "--steps", "400", "--seed", "3")
    assert len(asked.words) == 1  # another prompt and more steps are known from the first
    planned(capsys, "text-to-3d", "a cat", "representation.count=70", "--steps", "200")
    assert len(asked.words) == 2


def test_a_network_that_the_whole_run_compiles_is_compiled_in_the_short_one(asked, capsys):
    asked.executors.append(1)
    planned(capsys, "text-to-3d", "a red cube", "--recipe", "sds", "--steps", "400")
    first, second = asked.words
    assert not any("executor" in word for word in first)
    assert "guidance.0.prior.executor=openvino" in second


def test_what_is_wrong_is_said(asked, capsys, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**8)
    text = planned(capsys, "text-to-3d", "a zorgblat cat", *SMALL, "--steps", "20")
    assert "warning     it needs 0.6 GB and 0.1 GB are free: lower cameras.batch (4)" in text
    assert "warning     This prior has not learnt 'zorgblat'" in text
    huge = planned(capsys, "text-to-3d", "a cat", "representation.count=1000000000000000")
    assert "parameters  not known: out of memory" in huge
    assert "lower representation.count" in huge


def test_an_interval_that_never_comes_is_said(asked, capsys, monkeypatch):
    from threedgen.pipelines.planning import plan

    monkeypatch.setattr(plan, "never_happening", lambda recipe, place: [(f"{place}x.every", 70.0)])
    text = planned(capsys, "text-to-3d", "a cat", *SMALL, "--steps", "20")
    assert "warning     'x.every' is every 70 steps of 20: it never happens" in text


def test_a_model_that_has_to_be_fetched_is_asked_for_its_size_alone(capsys, monkeypatch):
    monkeypatch.setattr(hub, "kept", lambda *_: None)
    monkeypatch.setattr(hub, "to_fetch", lambda *_: SD)
    words = ["text-to-3d", "a cat", "--prior", "owner/name"]
    text = planned(capsys, *words)
    assert "model       owner/name: 2.50 GB have to be fetched" in text
    assert "owner/name, unet: 2.00 GB" in text
    assert "time        not known: a model has to be fetched first" in text

    def no_answer(*_):
        raise UserError("no network reaches the hub")

    monkeypatch.setattr(hub, "to_fetch", no_answer)
    assert "what has to be fetched is not known: no network reaches the hub" in planned(capsys, *words)


def test_the_hub_is_not_asked_where_that_is_forbidden(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids to ask the hub for its size"):
        hub.to_fetch("owner/name")
    recipe = load_recipe("text-to-3d", prompt="a cat", prior="owner/name")
    (model,) = models_of(recipe, "cpu")
    assert model.fetch is None


def test_a_calibration_that_fails_leaves_the_time_unknown(capsys, monkeypatch):
    monkeypatch.setattr(calibration, "_LONGEST", 0.0)
    text = planned(capsys, "text-to-3d", "a cat", *SMALL)
    assert "time        not known: the command takes longer than 0 s even with few steps" in text
    text = planned(capsys, "--no-calibration", "text-to-3d", "a cat", *SMALL)
    assert "time        not known: no run like this was measured on this machine" in text
    assert "memory      the recipe says 0.7 GB" in text


def test_a_damaged_calibration_is_made_again(asked):
    recipe = load_recipe("text-to-3d", SMALL, prompt="a cat")
    assert known(recipe, "cpu") is None
    found = calibrate(recipe, "cpu", ["text-to-3d", "a cat"])
    assert known(recipe, "cpu") == found
    folder = cache.user_folder("calibrations")
    assert folder is not None
    (file,) = folder.iterdir()
    for text in ("{", "[]", json.dumps({"steps": [0.1, 0.1], "once": {}, "peak": 1, "gpu_peak": 0})):
        file.write_text(text)
        assert known(recipe, "cpu") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: command"),
        (["things"], "argument command: invalid choice: 'things'"),
        (["text-to-3d"], "the following arguments are required: PROMPT"),
        (["text-to-3d", "a cat", "--recipe", "sdz"], "unknown recipe 'sdz'"),
        (["text-to-3d", "a cat", "stepz=3"], "unknown key 'stepz'"),
    ],
)
def test_what_the_command_would_refuse_the_plan_refuses(words, message, capsys):
    assert main(["plan", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_real_calibration_measures_each_phase():
    words = ["text-to-3d", "a cat", *SMALL, "export.turntable.frames=1", "export.settle=0"]
    recipe = load_recipe("text-to-3d", words[2:], prompt="a cat", steps=40)
    found = calibrate(recipe, "cpu", words)
    assert len(found.steps) == 1
    assert found.steps[0] > 0.0
    assert found.peak > 10**8
    seconds = found.seconds(recipe)
    assert seconds["distilling"] > 40 * found.steps[0] * 0.99
    assert {"loading the prior", "extracting the mesh"} <= set(seconds)
