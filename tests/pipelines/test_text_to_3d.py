"""The main promise: a prompt and the weights that ship become an object of that shape and colour, in files."""

import json
from typing import Any

import pytest
import torch

from threedgen.cameras.orbit import orbit
from threedgen.core.memory import peak_memory
from threedgen.core.pictures import silhouette_iou
from threedgen.datasets import world
from threedgen.jobs.asset import asset_of
from threedgen.jobs.build import load_scene
from threedgen.jobs.run import start
from threedgen.recipes.load import load_recipe
from threedgen.renderers.splatting import SplattingRenderer

STEPS = 250


def views():
    full = torch.ones(4)
    return orbit(torch.arange(4) * 90.0 + 30.0, 15.0 * full, 2.85 * full, 40.0, 64, 64)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    recipe, before = load_recipe("text-to-3d", prompt="an orange cone", steps=STEPS), peak_memory() or 0
    return recipe, before, start(recipe, tmp_path_factory.mktemp("runs") / "cone")


def test_the_asset_is_an_orange_cone(finished):
    recipe, _, run = finished
    asset: Any = asset_of(recipe, load_scene(run, recipe))
    with torch.no_grad():
        output = SplattingRenderer(SplattingRenderer.Config())(asset, views(), torch.ones(3))
    _, truth = world.render(world.canonical("cone", "orange"), views())
    _, ball = world.render(world.canonical("sphere", "orange"), views())
    iou = float(silhouette_iou(output.alpha, truth).mean())
    assert iou > 0.8
    assert iou > float(silhouette_iou(output.alpha, ball).mean()) + 0.1
    red, green, blue = output.rgb[output.alpha[..., 0] > 0.9].mean(dim=0).tolist()
    assert red > green + 0.15
    assert green > blue + 0.15


def test_the_run_leaves_every_file(finished):
    _, before, run = finished
    names = {path.name for path in run.path.iterdir()}
    assert names >= {
        *("asset.glb", "asset.ply", "turntable.mp4", "contact_sheet.png", "report.json", "recipe.yaml"),
        *("metrics.jsonl", "previews", "checkpoint"),
    }
    report = json.loads(run.report.read_text())
    assert report["prompt"] == "an orange cone"
    assert report["scores"]["watertight"] is True
    # The peak is that of the process, which may have run other tests before.
    assert before <= report["peak_memory_bytes"] < max(2.5e9, before + 1e9)
