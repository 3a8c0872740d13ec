"""Recipes: layers, overrides, the schema from the chosen components, and one clear line for each mistake."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Annotated, Literal

import fake_parts
import pytest
import torch
import yaml

from threedgen.core.errors import UserError
from threedgen.core.schedule import Ramp, RangeSchedule, Schedule
from threedgen.core.settings import SettingError, at_least
from threedgen.recipes import layers
from threedgen.recipes.load import load_recipe, read_resolved
from threedgen.recipes.typed import noun


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))


@pytest.fixture
def write(tmp_path):
    def write(text, name="recipe.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def fake(write):
    return write(fake_parts.RECIPE, "fake.yaml")


def load(path, *overrides, **settings):
    return load_recipe(path, overrides, **{"prompt": "a red cube", **settings})


@pytest.mark.parametrize("name", [card.name for card in layers.recipe_cards()])
def test_built_in_recipes_load_and_their_resolved_form_loads_the_same(name, tmp_path):
    recipe = load(name, base=tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(dict(recipe.resolved), sort_keys=False))
    again = read_resolved(path)
    assert again.resolved == recipe.resolved
    assert again.guidance == recipe.guidance
    card = next(card for card in layers.recipe_cards() if card.name == name)
    assert card.description, "a recipe describes itself in one line"
    assert card.needs, "a recipe says which prior it needs"
    assert card.memory, "a recipe says how much memory it takes"


@pytest.mark.parametrize("name", sorted(path.stem for path in layers.BUILTIN_FOLDER.glob("*.yaml")))
def test_built_in_recipes_load_with_few_steps(name):
    """What a recipe itself says to happen every so many steps must fit into a short run as well."""
    recipe = load(name, steps=5)
    assert recipe.steps == sum(stage.steps for stage in recipe.all_stages) == 5
    assert all(stage.steps >= 1 for stage in recipe.all_stages)


def test_extends_a_built_in_name_and_a_file_beside_it(write, tmp_path):
    write("extends: text-to-3d\nsteps: 77\ncameras: {fov: 30}\n", "base.yaml")
    recipe = load(write("extends: base.yaml\ncameras: {batch: 8}\n"))
    assert recipe.steps == 77
    camera = recipe.cameras.config
    assert (camera.batch, camera.fov) == (8, 30.0)
    (tmp_path / "below").mkdir()
    assert load(write("extends: ../base.yaml\n", "below/child.yaml")).steps == 77


def test_a_changed_name_replaces_its_section(write):
    recipe = load(write('extends: text-to-3d\nrepresentation: {name: "fake_parts:Points"}\n'))
    assert recipe.resolved["representation"]["count"] == 4, "the other component's count must not leak in"
    recipe = load("text-to-3d", "representation.label=x", "representation.name=fake_parts:Points")
    assert recipe.resolved["representation"]["label"] == "x"


def test_a_schedule_is_replaced_whole_in_a_layer_and_edited_by_an_override(write):
    path = write("extends: text-to-3d\nregularizers: {alpha: {0: 0.0, 0.5: 2.0}}\n")
    assert load(path).resolved["regularizers"]["alpha"] == {0.0: 0.0, 0.5: 2.0}
    recipe = load("text-to-3d", "regularizers.alpha={from: 0, to: 1}", "regularizers.alpha.to=3")
    assert recipe.fixed["regularizers"].config.alpha == Ramp(0, 3)


def test_overrides_keep_text_as_it_is(fake):
    for text in ("007", "no", "1e3", "a: b", "${x}", "null", "[1]", "a = b"):
        assert load("text-to-3d", f"prompt={text}").prompt == text
        assert load(fake, f"representation.label={text}").resolved["representation"]["label"] == text


def test_text_survives_the_resolved_file(tmp_path):
    prompt = "007 ${oc.env:HOME} no: 'é' \\${x}"
    recipe = load("text-to-3d", prompt=prompt)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(dict(recipe.resolved), allow_unicode=True), encoding="utf-8")
    assert read_resolved(path).prompt == prompt


def test_overrides_reach_into_lists():
    recipe = load(
        "text-to-3d", "guidance.0.scale=5", "guidance.0.prior.path=/x", "guidance.0.weight={from: 1, to: 2}"
    )
    assert recipe.guidance[0].config.scale == 5
    assert recipe.guidance[0].config.prior.path == "/x"
    assert recipe.guidance[0].weight == Ramp(1, 2)


def test_prior_setting(fake):
    assert load("text-to-3d", prior="folder/x").resolved["guidance"][0]["prior"]["path"] == "folder/x"
    path = load("dreamfusion-if", prior="embedded").resolved["guidance"][0]["prior"]
    assert (path["name"], path["path"]) == ("embedded", "")
    with pytest.raises(UserError, match="no guidance of this recipe has a prior"):
        load(fake, prior="x")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["representation.cuont=5"],
            "unknown key 'representation.cuont', did you mean 'representation.count'?",
        ),
        (["representation.density.beginn=0.1"], "did you mean 'representation.density.begin'?"),
        (["guidance.0.scalle=5"], "unknown key 'guidance.0.scalle', did you mean 'guidance.0.scale'?"),
        (["guidance.scale=5"], "'guidance' is a list, write guidance.0"),
        (["guidance.3.scale=5"], "'guidance' is a list, write guidance.0"),
        (["steeps=5"], "unknown key 'steeps', did you mean 'steps'?"),
        (["steps=many"], "'steps' must be a whole number, got 'many'"),
        (["steps=1.5"], "'steps' must be a whole number, got 1.5"),
        (["steps=0"], "steps is 0; it must be at least 1"),
        (["seed=-1"], "seed is -1; it must be between 0 and 9223372036854775807"),
        (["device=tpu"], "'device' cannot be 'tpu', did you mean 'cpu'? use one of auto, cpu, cuda"),
        (["cameras.fov=wide"], "'cameras.fov' must be a number, got 'wide'"),
        (["cameras.radius=[1]"], "'cameras.radius' needs 2 values"),
        (["cameras.radius=3"], "'cameras.radius' must be a list of 2 numbers, got 3"),
        (["background=3"], "'background' must be a section"),
        (["representation.init=bal"], "'representation.init' cannot be 'bal', did you mean 'ball'?"),
        (["representation.density=yes"], "must be a section"),
        (["representation.name=gaussian"], "did you mean 'gaussians'"),
        (["guidance.0.t={from: [0.3, 0.9], too: [0.1, 0.2]}"], "guidance.0.t: unknown key 'too'"),
        (["guidance.0.t=[0.9, 0.1]"], "guidance.0.t must be a range"),
        (
            ["guidance.0.weight={from: 0, to: 1, begin: 1.0}"],
            "guidance.0.weight: the schedule cannot take effect",
        ),
        (["regularizers.alpha={from: 0, to: 1, begin: 0.7, end: 0.2}"], "begins at 0.7 but ends at 0.2"),
        (
            ["cameras.resolution={0: 32, 1.5: 64}"],
            "cameras.resolution: the milestone at 1.5 cannot take effect",
        ),
        (["checkpoint.every=5000"], "'checkpoint.every' is every 5000 steps but the run has"),
        (["guidance=[]"], "has no guidance"),
        (["guidance=[{scale: 3}]"], "'guidance.0' needs a name"),
        (["noequals"], "'noequals' is not a setting: write key=value"),
        (["guidance.0.scale=[1"], "is not valid YAML"),
        (["guidance.0.scale=" + "[" * 2000 + "1" + "]" * 2000], "[[[...' is not valid YAML"),
        (["prompt="], "the prompt is empty"),
    ],
)
def test_one_clear_line_for_each_mistake(overrides, message):
    with pytest.raises(UserError) as caught:
        load("text-to-3d", *overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: text-to-3d\nrepresentation: {cuont: 3}\n", "did you mean 'representation.count'?"),
        ("extends: text-to-3e\n", "unknown recipe 'text-to-3e', did you mean 'text-to-3d'?"),
        ("extends: other.yaml\n", "there is no recipe file"),
        ("extends: recipe.yaml\n", "in a circle: recipe.yaml -> recipe.yaml"),
        ("extends: [a, b]\n", "'extends' must be the name"),
        ("steps: 3\n", "does not set 'representation'"),
        ("extends: text-to-3d\nprompt: 007\nsteps: [1]\n", "must be a whole number"),
        ("extends: text-to-3d\nrepresentation: {mesh: 5, init: ball}\n", "put it in quotes"),
        ("a: [1\n", "is not a readable recipe"),
        ("a: " + "[" * 2000 + "1" + "]" * 2000, "is not a readable recipe"),
        ("a: 1\na: 2\n", "is not a readable recipe"),
        ("- 1\n", "expected keys and values"),
        ("extends: text-to-3d\nsteps: ${nothing}\n", "is not a readable recipe"),
        ("a0: x\n" + "".join(f"a{i + 1}: ${{a{i}}}${{a{i}}}\n" for i in range(25)), "50 references ${...}"),
    ],
)
def test_mistakes_in_files(write, text, message):
    with pytest.raises(UserError) as caught:
        load(write(text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_references_within_a_recipe_are_resolved(write):
    recipe = load(write("extends: text-to-3d\ncameras: {fov: 40}\nseed: ${cameras.fov}\nsteps: ${seed}\n"))
    assert (recipe.seed, recipe.steps) == (40, 40)


def test_a_longer_circle_is_named(write):
    write("extends: b.yaml\n", "a.yaml")
    write("extends: a.yaml\n", "b.yaml")
    with pytest.raises(UserError, match=r"a.yaml -> b.yaml -> a.yaml"):
        load(write("extends: a.yaml\n"))


def test_missing_recipe_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'text-to-3d'"):
        load("text-to-3dd")


STAGED = ["stages=[{steps: 5}, {steps: 5, cameras: {batch: 2}}]"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cameras.fov=200"], "cameras.fov is 200; it must be greater than 0 and less than 180"),
        (["cameras.radius=[0, 3]"], "cameras.radius holds 0; every number of it must be greater than 0"),
        (["cameras.radius=[3, 2]"], "cameras.radius is [3, 2]; it must be [low, high] in this order"),
        (["background.random=-1"], "background.random is -1; it must be between 0 and 1"),
        (["optimizer.betas=[0.9, 1]"], "optimizer.betas holds 1; every number"),
        (["cameras.resolution={from: 64, to: 0}"], "cameras.resolution holds 0; every number"),
        ([*STAGED, "stages.1.cameras.batch=0"], "stages.1.cameras.batch is 0; it must be at least 1"),
        ([*STAGED, "cameras.batch=0"], "stages.0.cameras.batch is 0; it must be at least 1"),
        ([*STAGED, "stages.1.optimizer.scale=0"], "stages.1.optimizer.scale is 0; it must be greater than 0"),
        ([*STAGED, "stages.1.steps=0"], "stages.1.steps is 0; it must be at least 1"),
    ],
)
def test_a_setting_out_of_bounds_is_named_with_its_full_path_once(overrides, message):
    with pytest.raises(SettingError) as caught:
        load("text-to-3d", *overrides)
    assert str(caught.value).startswith(message)
    assert str(caught.value).count(caught.value.name) == 1


def test_a_nested_setting_out_of_bounds_is_named_with_its_full_path_once():
    with pytest.raises(SettingError) as caught:
        load("zero123", "cameras.reference.elevation=95")
    assert str(caught.value) == "cameras.reference.elevation is 95; it must be between -90 and 90"


def test_a_complaint_about_several_settings_is_prefixed_with_their_section():
    with pytest.raises(UserError, match=r"^cameras: two pictures show one view"):
        load("zero123", "cameras.views=[[0, 0]]")


def test_a_config_survives_pickle_and_deepcopy():
    for choice in load("text-to-4d").choices():
        assert pickle.loads(pickle.dumps(choice.config)) == choice.config
        assert copy.deepcopy(choice.config) == choice.config


def test_a_deepcopy_of_a_built_scene_has_the_same_state_of_its_own():
    scene = load("text-to-3d", "representation.count=20").representation.make(3)
    twin = copy.deepcopy(scene)
    assert type(twin) is type(scene)
    assert twin.config == scene.config
    state, copied = scene.state_dict(), twin.state_dict()
    assert state.keys() == copied.keys()
    assert all(torch.equal(state[name], copied[name]) for name in state)
    with torch.no_grad():
        twin.means += 1.0
    assert not torch.equal(scene.means, twin.means)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Annotated[int, at_least(1)], "a whole number"),
        (float | None, "a number or null"),
        (Schedule | None, "a number or a schedule or null"),
        (RangeSchedule, "a range [low, high] or a schedule of ranges"),
        (tuple[float, float], "a list of 2 numbers"),
        (tuple[tuple[float, float], ...], "a list of lists of 2 numbers"),
        (tuple[str, float], "a list"),
        (list[dict], "a list"),
        (Literal["a", "b"], "one of a, b"),
        (dict[str, float], "a section with keys"),
    ],
)
def test_types_in_words(hint, words):
    assert noun(hint) == words
