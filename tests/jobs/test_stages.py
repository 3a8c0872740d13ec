"""Recipes with stages: how they are read, what is handed over, and resuming after a kill in any stage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import fake_parts
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from threedgen.core import checkpoint, plugins
from threedgen.core.errors import UserError
from threedgen.jobs.run import resume, start
from threedgen.recipes import layers, stages
from threedgen.recipes.checks import check_recipe
from threedgen.recipes.load import load_recipe, read_resolved

pytestmark = [
    pytest.mark.filterwarnings("ignore:no exporter for Tensor"),
    pytest.mark.usefixtures("trusted_runs"),
]

STAGED = (
    fake_parts.RECIPE
    + """
stages:
  - {steps: 12}
  - {steps: 8, cameras: {batch: 3}, representation: {name: "fake_parts:Points", nested: {rate: 0.05}}}
"""
)


@pytest.fixture(autouse=True)
def _fake_parts(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.chdir(tmp_path)


def load(text=STAGED, *overrides, **keywords):
    path = Path("recipe.yaml")
    path.write_text(text)
    return load_recipe(path, overrides, **{"prompt": "red", **keywords})


def test_a_stage_is_the_recipe_with_its_own_sections_merged_over_it():
    recipe = load(STAGED, "stages.1.cameras.resolution=8", "cameras.radius=[2, 2]")
    first, second = recipe.all_stages
    assert (first.steps, second.steps, recipe.steps) == (12, 8, 20)
    assert (first.cameras.config.batch, second.cameras.config.batch) == (2, 3)
    assert (first.cameras.config.resolution, second.cameras.config.resolution) == (4, 8)
    assert first.cameras.config.radius == second.cameras.config.radius == (2.0, 2.0)
    assert second.representation.config.nested.rate == 0.05


def test_the_resolved_recipe_reads_back_as_itself(tmp_path):
    import yaml

    recipe = load()
    path = tmp_path / "resolved.yaml"
    path.write_text(yaml.safe_dump(dict(recipe.resolved)))
    again = read_resolved(path, ["export.turntable.frames=3"])
    assert again.all_stages[0].resolved["cameras"] == recipe.all_stages[0].resolved["cameras"]
    assert again.fixed["export"].config.turntable.frames == 3
    assert again.steps == 20


def test_a_setting_on_the_command_line_holds_for_every_stage():
    recipe = load(STAGED, "cameras.batch=5")
    assert [stage.cameras.config.batch for stage in recipe.all_stages] == [5, 5]
    assert [stage.steps for stage in load(STAGED, "steps=10").all_stages] == [6, 4]
    with pytest.raises(UserError, match=r"'.*cameras.batch' must be a whole number"):
        load(STAGED, "cameras.batch=x")


def test_the_representation_on_the_command_line_is_that_of_the_first_stage():
    assert rates(STAGED, "representation.nested.rate=0.2") == [0.2, 0.05]
    assert rates(STAGED, "stages.1.representation.nested.rate=0.2") == [0.1, 0.2]
    recipe = load(STAGED, "representation=triplane", "renderer=auto", "representation.channels=3")
    assert [stage.representation.name for stage in recipe.all_stages] == ["triplane", "fake_parts:Points"]
    assert recipe.all_stages[0].representation.config.channels == 3
    same = fake_parts.RECIPE + "stages: [{steps: 12}, {steps: 8}]\n"
    assert rates(same, "representation.nested.rate=0.2") == [0.2, 0.2], (
        "a stage without its own representation has that of the recipe"
    )


def rates(text, *overrides):
    return [stage.representation.config.nested.rate for stage in load(text, *overrides).all_stages]


@pytest.mark.parametrize("prior", [None, "folder"])
@pytest.mark.parametrize("recipe", [card.name for card in layers.recipe_cards() if card.name != "fit"])
def test_any_representation_can_be_chosen_in_any_recipe(recipe, prior):
    if recipe == "dfm":  # its one network is representation.model
        prior = None
    if "required" in (layers.BUILTIN_FOLDER / f"{recipe}.yaml").read_text().split("with_prior")[0]:
        prior = prior or "folder"
    for name in plugins.BUILTIN["representation"]:
        chosen = load_recipe(recipe, [f"representation={name}"], prompt="x", prior=prior)
        assert chosen.all_stages[0].representation.name == name
        check_recipe(chosen)


@pytest.mark.parametrize("name", plugins.BUILTIN["representation"])
def test_a_renderer_of_another_primitive_is_refused(name):
    choose = {
        renderer: [f"representation={name}", f"renderer={renderer}"]
        for renderer in plugins.BUILTIN["renderer"]
    }
    own = plugins.find("representation", name).renderer
    for renderer, settings in choose.items():
        recipe = load_recipe("text-to-3d", settings, prompt="x")
        if renderer == own:
            check_recipe(recipe)
        else:
            with pytest.raises(
                UserError, match=f"the renderer '{renderer}' draws a .*set renderer.name=auto"
            ):
                check_recipe(recipe)


@pytest.mark.parametrize(("first", "second"), [("triplane", "mesh"), ("gaussians", "tetrahedra")])
def test_another_first_stage_can_be_chosen(first, second, tmp_path):
    small = {
        "triplane": ["resolution=8", "channels=2", "hidden=4", "occupancy.resolution=8"],
        "gaussians": ["count=300", "init=sphere", "opacity=0.99"],
    }
    text = fake_parts.REAL_RECIPE.replace("renderer: {name: splatting}", "").replace("steps: 40", "")
    guidance = text.index("  - {name: score-distillation"), text.index('  - {name: "fake_parts:Pull"}')
    text = (
        text[: guidance[0]]
        + text[guidance[1] :]
        + f"""
stages:
  - {{steps: 1}}
  - {{steps: 1, representation: {{name: {second}}}}}
"""
    )
    settings = [f"representation={first}", *(f"representation.{item}" for item in small[first])]
    recipe = load(
        text, *settings, *(["stages.1.representation.resolution=12"] if second == "tetrahedra" else [])
    )
    run = start(recipe, tmp_path / "run")
    assert checkpoint.load_state(run.checkpoint)["stage"] == 1
    assert (run.path / "asset.glb").is_file()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["stages.1.representation=triplane", "stages.1.renderer=auto"],
            "'stages.1.representation': 'triplane' cannot continue an earlier stage .* mesh and tetrahedra can",
        ),
        (
            [
                "stages.0.representation=tetrahedra",
                "stages.0.renderer=auto",
                "stages.1.representation.label=x",
            ],
            "starts from Tensor, not from the TriMesh of the stage before",
        ),
        (
            ["stages.1.representation=mesh", "stages.1.renderer=volume"],
            "the renderer 'volume' draws a RadianceField, but 'mesh' gives a TriMesh",
        ),
        (
            ["stages.1.cameras.fov=200"],
            "stages.1.cameras.fov is 200; it must be greater than 0 and less than 180",
        ),
    ],
)
def test_mistakes_in_a_later_stage_are_reported_before_the_first_step(
    overrides, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(fake_parts.Pull, "__call__", lambda *_: pytest.fail("a step was made"))
    with pytest.raises(UserError, match=message):
        start(load(STAGED, *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.1.camera.batch=3"], "did you mean 'cameras'"),
        (["stages.1.cameras.bach=3"], "did you mean 'cameras.batch'"),
        (["stages.2.steps=3"], "write stages.0 or stages.1"),
        (["stages.0.seed=3"], "'stages.0.seed' is about the whole run"),
        (["stages=3"], "'stages' must be a list"),
        (["stages.0.steps=0"], "stages.0.steps is 0; it must be at least 1"),
    ],
)
def test_one_clear_line_for_each_mistake(overrides, message):
    with pytest.raises(UserError) as caught:
        load(STAGED, *overrides)
    assert message in str(caught.value)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=5), st.integers(1, 2000))
def test_the_steps_of_the_whole_run_are_divided_between_the_stages(shares, total):
    values = {"stages": [{"steps": share} for share in shares]}
    if total < len(shares):
        with pytest.raises(UserError, match="each needs at least 1"):
            stages.with_steps(values, total)
        return
    counts = [stage["steps"] for stage in stages.with_steps(values, total)["stages"]]
    assert sum(counts) == total
    assert min(counts) >= 1
    if total == sum(shares):
        assert counts == shares


def test_a_prior_is_named_for_every_stage():
    text = "extends: text-to-3d\nstages:\n  - {steps: 1}\n  - {steps: 1, guidance: [{name: score-distillation}]}\n"
    for stage in load(text, prior="folder").all_stages:
        assert stage.guidance[0].config.prior.path == "folder"


def test_the_second_stage_continues_the_first_and_steps_are_counted_through(tmp_path):
    started = []

    class Keep(fake_parts.Points):
        @classmethod
        def from_asset(cls, config, seed, asset):
            started.append(asset)
            return super().from_asset(config, seed, asset)

    fake_parts.Keep = Keep  # type: ignore[attr-defined]
    Keep.__module__ = "fake_parts"
    text = STAGED.replace(
        '8, cameras: {batch: 3}, representation: {name: "fake_parts:Points"',
        '8, representation: {name: "fake_parts:Keep"',
    )
    run = start(load(text), tmp_path / "run")
    assert len(started) == 1
    assert not started[0].requires_grad
    assert len(started[0]) == 5, "one row grew in the first stage"
    rows = [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()]
    assert rows == list(range(20))
    assert checkpoint.load_state(run.checkpoint)["stage"] == 1
    assert sorted(file.stem for file in run.previews.iterdir())[-1] == "step-000020"


def test_an_asset_that_cannot_be_handed_over_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(fake_parts.Points, "starts_from", (int,))
    with pytest.raises(UserError, match="starts from int, not from the Tensor"):
        start(load(), tmp_path / "run")


@pytest.mark.parametrize("kill", [("stages.0.guidance.0.kill_at", 7), ("stages.1.guidance.0.kill_at", 5)])
def test_killed_in_either_stage_and_resumed_is_the_same_run(kill, tmp_path):
    text = STAGED.replace("- {steps: 12", '- {guidance: [{name: "fake_parts:Pull"}], steps: 12').replace(
        "- {steps: 8,", '- {guidance: [{name: "fake_parts:Pull"}], steps: 8,'
    )
    text = text.replace("checkpoint: {every: 10}", "checkpoint: {every: 3}")
    whole = start(load(text), tmp_path / "whole")
    recipe, out = Path("killed.yaml"), tmp_path / "killed"
    recipe.write_text(text)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "FAKE_KILL": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "threedgen",
        "text-to-3d",
        "red",
        "--recipe",
        str(recipe),
        "--out",
        str(out),
    ]
    ended = subprocess.run(
        [*command, f"{kill[0]}={kill[1]}"], env=environment, capture_output=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    resolved = out / "recipe.yaml"
    resolved.write_text(resolved.read_text().replace(f"kill_at: {kill[1]}", "kill_at: -1"))
    from threedgen.jobs.run_directory import RunDirectory

    resume(RunDirectory.open(out))
    expected, tensors = (checkpoint.load(folder / "checkpoint")[0] for folder in (whole.path, out))
    assert expected.keys() == tensors.keys()
    assert all(torch.equal(expected[name], tensors[name]) for name in expected)
