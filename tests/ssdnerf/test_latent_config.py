"""Recipes of SSDNeRF: the numbers of the paper, and the complaints about settings that cannot be used."""

import pytest

from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.core.schedule import value_at
from threedgen.recipes.typed import plain
from threedgen.ssdnerf.config import FOLDER, Config, config_of, load_config

# The published settings of SRN cars (SSDNeRF, Chen, Gu et al. 2023, and its code). A batch is of all processes: 8
# objects on each of 2. The objects of SRN fill a box of half the size of that of the paper, which divides the
# places of their cameras by 0.5. Densities per unit of length are then twice those of the paper.
CARS = {
    "steps": 1_000_000,
    "batch": 16,
    "warmup": 500,
    "rays": 4096,
    "code_rates": 1.0,
    "codes.channels": 6,
    "codes.resolution": 128,
    "codes.learning_rate": 5e-3,
    "codes.regularizer": 3e-3,
    "decoder.hidden": 64,
    "decoder.learning_rate": 1e-3,
    "diffusion.widths": (128, 256, 256, 512, 512),
    "diffusion.attention": (False, False, True, True, True),
    "diffusion.layers": 2,
    "diffusion.dropout": 0.0,
    "diffusion.schedule": "linear",
    "diffusion.weight": 4.0,
    "diffusion.power": 0.5,
    "diffusion.momentum": 1e-3,
    "diffusion.learning_rate": 1e-4,
    "diffusion.fold": 1,
    "diffusion.kind": "plain",
    "rendering.samples": 256,
    "rendering.extent": 0.5,
    "rendering.weight": 20.0,
    "rendering.cells": 64,
    "rendering.decay": 0.9,
    "rendering.threshold": 0.2,
}
CHAIRS = CARS | {"diffusion.power": 0.25}
TABLES = CARS | {
    "rendering.extent": 1.0,
    "rendering.threshold": 0.1,
    "codes.learning_rate": 3e-3,
    "decoder.learning_rate": 6e-4,
    "diffusion.learning_rate": 6e-5,
}
VIEWS = {"steps": 80_000, "codes.learning_rate": 1e-2, "diffusion.dropout": 0.1}  # for reconstruction
PAPER = {
    "ssdnerf-srn-cars": CARS,
    "ssdnerf-srn-chairs": CHAIRS,
    "ssdnerf-abo-tables": TABLES,
    "ssdnerf-srn-cars-reconstruction": CARS | VIEWS,
    "ssdnerf-srn-chairs-reconstruction": CHAIRS | VIEWS,
}


def value(config: Config, path: str) -> object:
    found = config
    for key in path.split("."):
        found = getattr(found, key)
    return found


@pytest.mark.parametrize("recipe", PAPER)
def test_recipes_have_the_papers_numbers(recipe):
    config = load_config(recipe)
    found = {path: value(config, path) for path in PAPER[recipe]}
    assert found == PAPER[recipe]


def test_inner_steps_and_rates_change_where_the_papers_do():
    config = load_config("ssdnerf-srn-cars")
    inner = [value_at(config.inner, step, config.steps) for step in (0, 1999, 2000, 99_999, 100_000, 999_999)]
    assert inner == [16, 16, 4, 4, 2, 2]
    short = load_config("ssdnerf-srn-cars-reconstruction")
    assert [value_at(short.inner, step, short.steps) for step in (1999, 2000, 79_999)] == [16, 4, 4]
    for schedule in (config.rates, config.fidelity):
        steps = (0, 499_999, 500_000, 999_999)
        assert [value_at(schedule, step, config.steps) for step in steps] == [1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads_and_is_what_its_file_says_again(path):
    config = load_config(path.stem)
    assert plain(config) == plain(config_of(plain(config)))
    assert plain(config) == plain(load_config(path))


def test_settings_are_laid_over_a_recipe():
    config = load_config("ssdnerf-tiny", ["batch=3", "diffusion.weight=0", "inner={0: 8, 0.5: 1}"], steps=77)
    assert (config.steps, config.batch, config.diffusion.weight) == (77, 3, 0.0)
    assert [value_at(config.inner, step, 77) for step in (0, 76)] == [8, 1]
    assert config.codes == load_config("ssdnerf-tiny").codes


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("bacth=4", "unknown key 'bacth', did you mean 'batch'?"),
        ("difusion.weight=4", "did you mean 'diffusion'?"),
        ("diffusion.wieght=4", "unknown key 'diffusion.wieght', did you mean 'diffusion.weight'?"),
        ("codes.chanels=4", "did you mean 'codes.channels'?"),
        ("ray=4", "did you mean 'rays'?"),
        ("batch=four", "'batch' must be a whole number"),
        ("batch=1.5", "'batch' must be a whole number"),
        ("batch=0", "batch is 0; it must be at least 1"),
        ("steps=-1", "steps is -1"),
        ("warmup=0", "warmup is 0"),
        ("views=-1", "views is -1"),
        ("ema=1", "ema is 1; it must be at least 0 and less than 1"),
        ("reset=1", "reset is 1; it must be at least 0 and less than 1"),
        ("precision=fp16", "'precision' cannot be 'fp16'"),
        ("inner={0.5: 4}", "milestones need a value from the start"),
        ("inner=-1", "inner is -1; it must be at least 0"),
        ("inner={0: 4, 0.5: -2}", "inner holds -2; every number of it must be at least 0"),
        ("rates=-1", "rates is -1; it must be at least 0"),
        ("code_rates=-1", "code_rates is -1; it must be at least 0"),
        ("rays=.inf", "rays is inf; it must be at least 1"),
        ("guiding.gain=.inf", "guiding.gain is inf"),
        ("guiding.rays=0", "guiding.rays is 0"),
        ("fidelity={from: 1, to: -1}", "fidelity holds -1"),
        ("rates={form: 1}", "unknown key 'form' in a schedule"),
        ("codes.channels=0", "codes.channels is 0"),
        ("codes.learning_rate=0", "codes.learning_rate is 0"),
        ("codes.learning_rate=.nan", "codes.learning_rate is nan"),
        ("codes.learning_rate=.inf", "codes.learning_rate is inf"),
        ("codes.regularizer=-1", "codes.regularizer is -1"),
        ("codes.resolution=30", "it must be a multiple of 8"),
        ("decoder.hidden=-4", "decoder.hidden is -4"),
        ("decoder.directions=3", "'decoder.directions' must be true or false"),
        ("diffusion.weight=-1", "diffusion.weight is -1"),
        ("diffusion.fold=0", "diffusion.fold is 0"),
        ("diffusion.dropout=1", "diffusion.dropout is 1; it must be at least 0 and less than 1"),
        ("diffusion.drop=-0.1", "diffusion.drop is -0.1"),
        ("diffusion.kind=plane", "did you mean 'plain'?"),
        ("diffusion.schedule=sqrt", "use one of linear, cosine"),
        (
            "diffusion.widths=[96, 128]",
            "diffusion.attention has 3 values; it must hold true or false for each",
        ),
        ("diffusion.widths=[]", "diffusion.widths is empty"),
        (
            "diffusion.widths=[96, 128, 164]",
            "diffusion.widths is [96, 128, 164]; every width must be a multiple of 8",
        ),
        ("diffusion.widths=96", "'diffusion.widths' must be a list"),
        ("diffusion.head=48", "diffusion.head is 48; it must divide"),
        ("rays=0", "rays is 0; it must be at least 1"),
        ("rendering.samples=0", "rendering.samples is 0"),
        ("rendering.samples=5000", "rendering.samples is 5000; it must be between 1 and 4096"),
        ("rendering.cells=600", "rendering.cells is 600; it must be between 1 and 512"),
        ("rendering.decay=1", "rendering.decay is 1"),
        ("rendering.threshold=0", "rendering.threshold is 0"),
        ("batch", "'batch' is not a setting: write key=value"),
        ("diffusion=4", "'diffusion' must be a section"),
    ],
)
def test_odd_settings_are_named(setting, said):
    with pytest.raises(UserError) as caught:
        load_config("ssdnerf-tiny", [setting])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["stage-wise", "matryoshka"])
def test_coarse_codes_too_fit_the_levels(kind):
    settings = ["codes.resolution=24", "diffusion.widths=[32, 32]", "diffusion.attention=[false, true]"]
    assert load_config("ssdnerf-tiny", settings).codes.resolution == 24
    with pytest.raises(UserError, match="must be a multiple of 8"):
        load_config("ssdnerf-tiny", [*settings, "codes.resolution=20", f"diffusion.kind={kind}"])


def test_an_unknown_recipe_is_named_with_the_nearest_one():
    with pytest.raises(UserError, match=r"unknown recipe 'ssdnerf-tinny', did you mean 'ssdnerf-tiny'\?"):
        load_config("ssdnerf-tinny")


def test_a_recipe_of_ones_own_extends_a_built_in_one(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: ssdnerf-tiny\ndescription: mine\nbatch: 5\ncodes: {channels: 3}\n")
    config = load_config(path)
    tiny = load_config("ssdnerf-tiny")
    assert (config.batch, config.codes.channels, config.codes.resolution) == (5, 3, tiny.codes.resolution)
    path.write_text("codes: [1, 2]\n")
    with pytest.raises(UserError, match="codes"):
        load_config(path)


def test_the_command_says_it_in_one_line(tmp_path, capsys):
    command = ["train", "ssdnerf", "shape-world:car", "bacth=3", "--out", str(tmp_path)]
    assert main(command) == 2
    said = capsys.readouterr().err.strip()
    assert said.splitlines() == [said]
    assert "did you mean 'batch'" in said
