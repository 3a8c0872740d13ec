"""`threedgen recipes NAME`: every setting with its path, value, type, range, unit and sentence."""

from __future__ import annotations

from typing import Annotated, Any

import pytest

from threedgen.commands.main import main
from threedgen.core import plugins
from threedgen.core.schedule import RangeSchedule, Schedule
from threedgen.core.settings import above, at_least, between, finite
from threedgen.recipes import layers
from threedgen.recipes.describe import Setting, _kind, config_settings, printed, recipe_settings
from threedgen.recipes.documented import descriptions
from threedgen.recipes.load import load_recipe
from threedgen.recipes.recipe import ABOUT
from threedgen.recipes.schema import schema_of
from threedgen.recipes.typed import hints, leaves
from threedgen.ssdnerf.config import load_config
from threedgen.ssdnerf.recipes import FOLDER

RECIPES = [card.name for card in layers.recipe_cards()]
TRAININGS = [card.name for card in layers.recipe_cards(FOLDER)]


def settings_of(name: str) -> list[Setting]:
    if name in TRAININGS:
        return config_settings(load_config(name))
    return recipe_settings(load_recipe(name, prompt="-"))


@pytest.mark.parametrize("name", [*RECIPES, *TRAININGS])
def test_every_setting_has_a_sentence(name: str):
    missing = [setting.path for setting in settings_of(name) if not setting.text.endswith((".", ".)"))]
    assert not missing, f"these settings of '{name}' have no sentence in a docstring: {', '.join(missing)}"


@pytest.mark.parametrize("family", ["representation", "renderer", "cameras", "guidance", "objective"])
def test_every_component_describes_its_settings(family: str):
    missing = []
    for name in plugins.BUILTIN[family]:
        schema = schema_of(plugins.find(family, name), name)
        missing += [f"{name}.{key}" for key in hints(schema) if key not in descriptions(schema)]
    assert not missing, f"these settings have no sentence in a docstring: {', '.join(missing)}"


@pytest.mark.parametrize("name", RECIPES)
def test_every_value_of_a_resolved_recipe_is_there_once(name: str):
    recipe = load_recipe(name, prompt="-")
    settings = settings_of(name)
    values = {setting.path: setting.value for setting in settings if not setting.section}
    assert len({setting.path for setting in settings}) == len(settings)
    resolved = {key: value for key, value in recipe.resolved.items() if key not in ABOUT}
    for path, value in leaves(resolved):
        # A schedule or a list is one value, whose leaves lie below its path.
        covering = [known for known in values if path == known or path.startswith(f"{known}.")]
        assert len(covering) == 1, path
        if covering[0] == path:
            assert values[path] == value, path


@pytest.mark.parametrize("name", [*RECIPES, *TRAININGS])
def test_it_is_readable_in_100_columns(name: str):
    lines = printed(settings_of(name)).splitlines()
    assert max(map(len, lines)) <= 100


def test_a_setting_has_its_path_value_unit_type_range_and_sentence():
    text = printed(settings_of("sds"))
    assert (
        "cameras.fov = 40.0 (degrees)\n"
        "    A number, greater than 0 and less than 180. Vertical field of view.\n"
    ) in text
    assert "steps = 400 (steps)\n    A whole number, at least 1. " in text
    assert (
        "\n\nbackground.color = [1.0, 1.0, 1.0]\n    A list of 3 numbers, each number between 0 and 1. "
        in text
    )
    assert (
        "\n\nrenderer.name = splatting\n    One of splatting, volume, mesh, or package.module:Class. " in text
    )
    assert "guidance.0.scale = {from: 3, to: 1.5, kind: linear, begin: 0.0, end: 1.0}\n" in text


def test_sections_come_in_order():
    paths = [setting.path for setting in settings_of("text-to-3d")]
    order = list(dict.fromkeys(path.split(".")[0] for path in paths))
    assert order == [
        "prompt", "seed", "steps", "device", "representation", "renderer", "cameras", "guidance",
        "background", "regularizers", "optimizer", "preview", "checkpoint", "export",
    ]  # fmt: skip


def test_nested_settings_and_those_of_the_objective_are_there():
    values = {setting.path: setting.value for setting in settings_of("luciddreamer")}
    assert values["guidance.0.prior.name"] == "embedded"
    assert values["guidance.0.objective"] == "ism"
    assert values["guidance.0.options.max_steps"] == 5
    assert values["representation.density.max_count"] == 12000
    kinds = {setting.path: setting.kind for setting in settings_of("sdi")}
    assert kinds["guidance.0.objective"].startswith("one of sds, recon, ")
    given = {setting.path: setting.value for setting in settings_of("sdi")}
    assert given["guidance.0.options.eta"] == 0.3


def test_stages_have_their_own_settings_and_share_those_of_the_whole_run():
    paths = [setting.path for setting in settings_of("text-to-4d")]
    for path in ("stages.0.steps", "stages.1.steps", "stages.1.cameras.frames", "stages.0.background.random"):
        assert paths.count(path) == 1, path
    assert paths.count("prompt") == paths.count("checkpoint.every") == 1
    assert "steps" not in paths
    assert not [path for path in paths if path.startswith("stages.") and ".export" in path]


@pytest.mark.parametrize("name", ["dreamfusion-if", "4d-fy"])
def test_a_recipe_that_needs_a_real_prior_is_printed(name: str, capsys: Any):
    assert main(["recipes", name]) == 0
    assert "prior.name = required\n" in capsys.readouterr().out


def test_the_command_prints_what_a_recipe_says_about_itself(capsys: Any):
    assert main(["recipes", "dreamfusion"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("dreamfusion: a NeRF (triplane) by score distillation, then a mesh\n    paper: ")
    assert "\n    values: without --prior; " in text
    assert "\nrepresentation.name = triplane\n" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_command_lists_the_recipes_without_a_name(capsys: Any):
    assert main(["recipes"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{text}" for name in [*RECIPES, *TRAININGS])


def test_the_command_takes_files_of_both_kinds(capsys: Any, tmp_path: Any):
    (tmp_path / "mine.yaml").write_text("extends: text-to-3d\nsteps: 77\ndescription: my own\n")
    (tmp_path / "child.yaml").write_text("extends: base.yaml\nviews: 3\n")
    (tmp_path / "base.yaml").write_text("extends: ssdnerf-tiny\n")
    assert main(["recipes", str(tmp_path / "mine.yaml")]) == 0
    text = capsys.readouterr().out
    assert text.startswith("mine: my own\n")
    assert "\nsteps = 77 (steps)\n" in text
    assert main(["recipes", str(tmp_path / "child.yaml")]) == 0
    text = capsys.readouterr().out
    assert "train ssdnerf DATASET --recipe" in text
    assert "\nviews = 3\n" in text
    assert "\ncodes.channels = 4\n" in text


@pytest.mark.parametrize(
    ("source", "message"),
    [("text-to-3e", "did you mean 'text-to-3d'"), ("nothing.yaml", "there is no recipe file")],
)
def test_an_unknown_recipe_is_one_line(source: str, message: str, capsys: Any):
    assert main(["recipes", source]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "a whole number"),
        (Annotated[int, at_least(1)], "a whole number, at least 1"),
        (Annotated[float, finite], "a number"),
        (Annotated[float | None, above(0.0)], "a number, greater than 0, or null"),
        (Annotated[Schedule, at_least(0.0)], "a number or a schedule, each number at least 0"),
        (Annotated[Schedule | None, finite], "a number or a schedule or null"),
        (
            Annotated[RangeSchedule, between(0, 1)],
            "a range [low, high] or a schedule of ranges, each number between 0 and 1",
        ),
        (Annotated[tuple[float, float], above(0.0)], "a list of 2 numbers, each number greater than 0"),
    ],
)
def test_types_and_ranges_in_words(hint: Any, words: str):
    assert _kind(hint) == words
