"""Runs with a compiled prior: recorded in the checkpoint and the report, and the same bits after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from threedgen.core import checkpoint
from threedgen.guidance.priors.executors import executor, inductor
from threedgen.jobs import run as job
from threedgen.jobs.run_directory import RunDirectory
from threedgen.loop.events import StepDone
from threedgen.recipes.load import load_recipe

SMALL = (
    "steps=4",
    "checkpoint.every=2",
    "cameras.batch=1",
    "cameras.resolution=16",
    "representation.count=50",
    "export.turntable.frames=1",
    "export.turntable.size=16",
    "export.mesh.resolution=16",
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def _long_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THREEDGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(executor, "SHORTEST", 4)


def recipe(*settings: str) -> Any:
    return load_recipe("sds", [*SMALL, *settings], prompt="a red cube")


def stop(event: object) -> None:
    if isinstance(event, StepDone) and event.step == 2:  # the third step; the checkpoint is of the second
        raise KeyboardInterrupt


def interrupted(*settings: str) -> RunDirectory:
    with pytest.raises(KeyboardInterrupt):
        job.start(recipe(*settings), Path("stopped"), [stop])
    return RunDirectory.open("stopped")


def tensors(run: RunDirectory) -> dict[str, torch.Tensor]:
    return checkpoint.load(run.checkpoint)[0]


def executors(run: RunDirectory) -> list[dict[str, Any]]:
    return json.loads(run.report.read_text())["executors"]


def test_a_resumed_run_equals_an_uninterrupted_one():
    whole = job.start(recipe(), Path("whole"))
    (facts,) = executors(whole)
    assert (facts["prior"], facts["executor"]) == ("embedded", "openvino")
    run = interrupted()
    assert checkpoint.load_state(run.checkpoint)["executors"] == [facts]
    assert job.resume(run) == []
    assert executors(run) == [facts]
    expected, found = tensors(whole), tensors(run)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    eager = job.start(recipe("guidance.0.prior.executor=eager"), Path("eager"))
    assert executors(eager)[0]["why"] == "the recipe asks for it"
    assert any(not torch.equal(tensors(eager)[name], value) for name, value in expected.items())


def test_a_run_that_began_without_openvino_goes_on_without_it(monkeypatch):
    with monkeypatch.context() as without:
        without.setattr(executor, "installed", lambda: False)
        run = interrupted()
    assert job.resume(run) == []
    assert [facts["executor"] for facts in executors(run)] == ["eager"]
    assert "OpenVINO is not installed" in executors(run)[0]["why"]


def test_a_run_that_loses_openvino_says_that_the_bits_may_differ(monkeypatch):
    run = interrupted()
    monkeypatch.setattr(executor, "installed", lambda: False)
    (warning,) = job.resume(run)
    assert "the prior embedded was computed by OpenVINO" in warning
    assert "continues with torch: the last bits may differ" in warning


def test_a_checkpoint_from_before_there_were_executors_is_continued_by_torch():
    run = interrupted("guidance.0.prior.executor=auto")
    found, state = checkpoint.load(run.checkpoint)
    del state["executors"], state["earlier_executors"]
    checkpoint.save(run.checkpoint, found, state)
    assert job.resume(run) == []
    assert executors(run)[0]["executor"] == "eager"


def test_a_run_with_torch_compile_is_resumed_in_the_same_way(monkeypatch):
    """The network itself stands for its compiled form."""
    monkeypatch.setattr(torch, "compile", lambda network, **settings: network)
    monkeypatch.setattr(inductor, "missing", lambda network: "")
    setting = "guidance.0.prior.executor=compile"
    whole = job.start(recipe(setting), Path("whole"))
    version = str(torch.__version__)
    facts = {
        "prior": "embedded",
        "executor": "compile",
        "version": version,
        "precision": "float32",
        "shapes": 1,
    }
    assert executors(whole) == [facts]
    run = interrupted(setting)
    assert checkpoint.load_state(run.checkpoint)["executors"] == [facts]
    assert job.resume(run) == []
    assert executors(run) == [facts]
    expected, found = tensors(whole), tensors(run)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
