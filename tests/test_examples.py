"""The examples run as they stand."""

import importlib.util
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from threedgen import keep_priors, text_to_3d
from threedgen.cameras.orbit import orbit
from threedgen.core import plugins
from threedgen.core.errors import UserError
from threedgen.guidance.priors.load import EMBEDDED_WEIGHTS, PriorConfig, load_prior
from threedgen.jobs.build import build
from threedgen.loop.distill import distill
from threedgen.recipes.load import load_recipe

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_custom_guidance_learns_its_pictures(tmp_path):
    module = load("custom_guidance")
    before = module.main(str(tmp_path / "0.png"), steps=1)
    after = module.main(str(tmp_path / "1.png"), steps=30)
    assert after < 0.3 * before
    assert (tmp_path / "1.png").stat().st_size > 1000


def test_custom_objective_holds_its_laws_and_learns(monkeypatch):
    module = load("custom_objective")
    monkeypatch.setitem(sys.modules, "custom_objective", module)
    left = module.main(steps=25)
    assert set(left) == {"sds", "CappedSDS"}
    assert left["sds"] != left["CappedSDS"]
    assert all(share < 0.9 for share in left.values()), left


@pytest.mark.skipif(not EMBEDDED_WEIGHTS.is_dir(), reason="the embedded weights are not here")
def test_batch_of_prompts(tmp_path):
    small = {"export.mesh.resolution": 24, "export.turntable.frames": 2, "representation.count": 200}
    runs = load("batch_of_prompts").main(
        str(tmp_path), ["a red cube", "a blue cone"], steps=2, settings=small, progress=False
    )
    assert [run.report["prompt"] for run in runs] == ["a red cube", "a blue cone"]
    alone = text_to_3d("a blue cone", out=tmp_path / "alone", seed=1, steps=2, settings=small, progress=False)
    for name in ("asset.glb", "asset.ply"):
        assert (runs[1].path / name).read_bytes() == (alone.path / name).read_bytes()


@pytest.mark.skipif(not EMBEDDED_WEIGHTS.is_dir(), reason="the embedded weights are not here")
def test_priors_are_kept_as_long_as_the_block():
    with keep_priors():
        first: Any = load_prior(PriorConfig(name="embedded"))
        again: Any = load_prior(PriorConfig(name="embedded"))
        assert again.network is first.network
        assert load_prior(PriorConfig(name="disc")) is not first
    after: Any = load_prior(PriorConfig(name="embedded"))
    assert after.network is not first.network


@pytest.fixture
def plugin(monkeypatch):
    """The folder of the plug-in package on the path, as if it were installed, but for its entry point."""
    folder = EXAMPLES / "voxel_plugin"
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("threedgen_voxels", None)


def test_the_plug_in_s_own_test(plugin):
    load("voxel_plugin/test_threedgen_voxels").test_voxels()


def test_the_plug_in_in_a_recipe(plugin, tmp_path):
    """By the class's path: a ball under the disc prior comes to have the disc's colour."""
    settings = [
        "representation=threedgen_voxels:Voxels",
        "representation.resolution=16",
        "guidance.0.prior.name=disc",
        "cameras.resolution=16",
        "renderer.samples=24",
    ]
    recipe = load_recipe("text-to-3d", settings, prompt="a ball", steps=25)
    parts = build(recipe, "cpu")
    before = parts.scene.values.detach().clone()
    distill(parts.scene, parts.renderer, parts.cameras, parts.guidances, "a ball", steps=25)
    full = torch.ones(1)
    cameras = orbit(30.0 * full, 15.0 * full, 2.85 * full, 40.0, 16, 16)
    with torch.no_grad():
        shown = parts.renderer(parts.scene.at(None), cameras, torch.ones(3)).rgb[0, 8, 8]
    assert float(shown[0] - shown[2]) > 0.2, shown
    assert not torch.equal(before, parts.scene.values)


def test_the_plug_in_s_entry_point(plugin, tmp_path, monkeypatch):
    """What pip writes when it installs the package makes the short name known."""
    declared = tomllib.loads((plugin / "pyproject.toml").read_text())["project"]
    info = tmp_path / "threedgen_voxels-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {declared['name']}\nVersion: 0.1.0\n")
    lines = [
        line
        for group, points in declared["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    assert plugins.find("representation", "voxels").Config().resolution == 32
    recipe = load_recipe("text-to-3d", ["representation=voxels", "representation.resolution=8"], prompt="x")
    assert recipe.renderer.name == "volume"
    with pytest.raises(UserError, match=r"representation.resolution is 1; it must be at least 2"):
        load_recipe("text-to-3d", ["representation=voxels", "representation.resolution=1"], prompt="x")


def test_a_turned_mug_stays_red_and_on_white(tmp_path):
    pictures = load("turn_a_picture").main(str(tmp_path / "ring.png"), views=4, steps=8)
    assert (tmp_path / "ring.png").stat().st_size > 1000
    middle, corner = pictures[:, 12:20, 12:20].mean((1, 2)), pictures[:, :3, :3].mean((1, 2, 3))
    assert (middle[:, 0] > middle[:, 1:].amax(1) + 0.2).all()
    assert (corner > 0.9).all()


def test_a_generator_of_one_s_own_scenes(tmp_path):
    """Few steps: the files are there, the last checkpoint says so, and a second call trains no more."""
    module = load("train_on_your_scenes")
    files = module.main(str(tmp_path), steps=3, count=1)
    assert {"contact_sheet.png", "codes.safetensors"} <= {path.name for path in files}
    assert all(path.stat().st_size > 100 for path in files)
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    again = module.main(str(tmp_path), folder=str(tmp_path / "mugs"), steps=3, count=1)
    assert [path.name for path in again] == [path.name for path in files]
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == before
