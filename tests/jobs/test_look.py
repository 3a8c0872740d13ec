"""What a recipe says about the light in the colours of its asset."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from threedgen.core.errors import UserError
from threedgen.core.material import Light
from threedgen.datasets.world import FIXED_LIGHT
from threedgen.guidance.priors import load
from threedgen.guidance.priors.folder.light import read_light, write_light
from threedgen.guidance.priors.load import PriorConfig, light_of
from threedgen.jobs.look import look_of
from threedgen.recipes.load import load_recipe


@pytest.mark.parametrize("name", ["embedded", "embedded-things", "embedded-video"])
def test_shipped_priors_of_the_world_say_its_light(name):
    assert light_of(PriorConfig(name=name)) == FIXED_LIGHT


@pytest.mark.parametrize("name", ["embedded-view", "embedded-picture", "disc", "a_module:Prior"])
def test_priors_that_saw_other_lights_say_none(name):
    assert light_of(PriorConfig(name=name)) is None


def test_a_folder_says_its_light_whatever_its_name_is(tmp_path: Path):
    assert light_of(PriorConfig(path=str(tmp_path))) is None
    light = Light(0.5, 0.4, (0.0, 1.0, 0.25))
    write_light(tmp_path, light)
    assert light_of(PriorConfig(path=str(tmp_path))) == light == read_light(tmp_path)
    assert light_of(PriorConfig(path="owner/no-such-folder")) is None


@pytest.mark.parametrize(
    "text", ['{"ambient": 0, "diffuse": 1, "toward": [0, 1, 0]}', '{"ambient": 1}', "[]", "{"]
)
def test_a_damaged_light_is_one_line(tmp_path: Path, text: str):
    (tmp_path / "light.json").write_text(text)
    with pytest.raises(UserError, match="light"):
        read_light(tmp_path)


@pytest.mark.parametrize("name", ["sds", "text-to-3d", "text-to-4d"])
def test_a_text_is_shown_in_the_light_of_the_embedded_priors(name):
    look = look_of(load_recipe(name, [], prompt="a golden cube"))
    assert look.light == FIXED_LIGHT
    assert look.text == "a golden cube"


def test_a_real_model_and_given_pictures_have_no_known_light(tmp_path: Path):
    shutil.copytree(load.EMBEDDED_WEIGHTS, tmp_path / "real", ignore=shutil.ignore_patterns("light.json"))
    real = look_of(load_recipe("sds", [], prompt="a cube", prior=str(tmp_path / "real")))
    assert real.light is None
    assert real.why == "its prior does not say in which light it shows things"
    picture = look_of(load_recipe("image-to-3d", ["guidance.1.image=a.png"], prompt="a cube"))
    assert picture.light is None
    assert picture.why == "it was made from pictures, whose light is not known"
    moved = look_of(
        load_recipe("text-to-4d", ["stages.1.representation.asset=a.ply"], prompt="a cube spinning")
    )
    assert moved.why == "its colours come from a file, which does not say in which light they are"
    fitted = look_of(load_recipe("fit", ["cameras.path=there"], prompt="spot"))
    assert fitted.light is None
