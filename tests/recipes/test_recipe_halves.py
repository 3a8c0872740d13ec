"""The two halves of a recipe: one for the embedded prior, and `with_prior` for a real one."""

from __future__ import annotations

import pytest

from threedgen.core.errors import UserError
from threedgen.recipes.load import load_recipe

BASE = """
extends: text-to-3d
steps: 7
guidance: [{name: score-distillation, scale: 2}]
with_prior:
  steps: 70
  cameras: {resolution: 96}
  guidance: [{name: score-distillation, scale: 20, prior: {name: required}}]
"""


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def load(path, prior=None, *overrides):
    return load_recipe(path, overrides, prompt="x", prior=prior)


@pytest.mark.parametrize("prior", [None, "embedded"])
def test_the_embedded_prior_takes_the_first_half(base, prior):
    recipe = load(base, prior)
    assert (recipe.steps, recipe.guidance[0].config.scale) == (7, 2)
    assert recipe.guidance[0].config.prior.name == "embedded"
    assert "with_prior" not in recipe.resolved


def test_a_real_prior_takes_both(base):
    recipe = load(base, "models/sd")
    assert (recipe.steps, recipe.guidance[0].config.scale) == (70, 20)
    assert recipe.guidance[0].config.prior.path == "models/sd"
    assert recipe.cameras.config.resolution == 96
    assert "with_prior" not in recipe.resolved


def test_the_command_line_has_the_last_word(base):
    assert load(base, "models/sd", "steps=5", "guidance.0.scale=9").steps == 5


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("extends: base.yaml\nguidance: [{name: score-distillation, prior: {path: models/sd}}]\n", []),
        ("extends: base.yaml\n", ["guidance.0.prior.path=models/sd"]),
    ],
)
def test_a_model_named_in_the_recipe_or_a_setting_takes_both_halves(base, tmp_path, text, overrides):
    child = tmp_path / "child.yaml"
    child.write_text(text)
    recipe = load(child, None, *overrides)
    assert (recipe.steps, recipe.guidance[0].config.prior.path) == (70, "models/sd")
    assert load(child, "embedded").steps == 7


def test_the_option_keeps_how_a_prior_is_loaded(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: text-to-3d\nguidance:\n  - name: score-distillation\n"
        "    prior: {name: required, dtype: bfloat16, lora: style.safetensors, memory: 8}\n"
    )
    prior = load(path, "models/sd").guidance[0].config.prior
    assert (prior.path, prior.dtype, prior.lora, prior.memory) == (
        "models/sd",
        "bfloat16",
        "style.safetensors",
        8,
    )


def test_a_recipe_s_own_values_win_over_the_half_of_the_recipe_that_it_extends(base, tmp_path):
    child = tmp_path / "child.yaml"
    child.write_text("extends: base.yaml\nsteps: 9\n")
    recipe = load(child, "models/sd")
    assert recipe.steps == 9
    assert recipe.guidance[0].config.scale == 20
    child.write_text("extends: base.yaml\nsteps: 9\nwith_prior: {steps: 90}\n")
    assert load(child, "models/sd").steps == 90
    assert load(child).steps == 9


@pytest.mark.parametrize(
    ("half", "message"),
    [
        ("{cameras: {resolutoin: 3}}", "did you mean 'cameras.resolution'"),
        ("{steps: -1}", "must be at least 1"),
        ("[1]", "'with_prior' must be a section"),
        ("{steeps: 3}", "did you mean 'steps'"),
    ],
)
def test_a_mistake_in_the_other_half_is_reported_without_a_model(tmp_path, half, message):
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: text-to-3d\nwith_prior: {half}\n")
    with pytest.raises(UserError) as caught:
        load(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("short", "whole"), [("text-to-3d", "sds"), ("image-to-3d", "zero123")], ids=["text", "picture"]
)
def test_with_a_real_prior_the_default_recipes_are_those_of_papers(short: str, whole: str):
    """The few large steps of the embedded fields are not for a real model."""

    def numbers(name: str) -> dict[str, object]:
        resolved = load_recipe(name, prompt="x", real_prior=True).resolved
        return {
            key: value
            for key, value in resolved.items()
            if key not in ("description", "needs", "memory", "paper")
        }

    assert numbers(short) == numbers(whole)
