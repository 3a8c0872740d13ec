"""The embedded weights: their format, and that they know colours, classes and cameras."""

import pytest
import torch

from threedgen.cameras.orbit import orbit
from threedgen.datasets import world
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.load import EMBEDDED_WEIGHTS, PriorConfig, load_prior

VIEWS = 16


@pytest.fixture(scope="module")
def prior():
    return load_prior(PriorConfig())


def cameras(turn=0.0):
    azimuth = 360.0 * torch.rand(VIEWS, generator=torch.Generator().manual_seed(0)) + turn
    full = torch.ones(VIEWS)
    return orbit(azimuth, 25.0 * full, 2.85 * full, 40.0, 64, 64)


def error(prior, shape, prompt, told=None, color="red", t=0.9):
    """Mean squared error of x0 on noised true pictures, with a prompt and cameras (or none)."""
    views = cameras()
    x = prior.encode(world.render(world.canonical(shape, color), views)[0])
    times = torch.full((VIEWS,), t)
    z = prior.add_noise(x, torch.randn(x.shape, generator=torch.Generator().manual_seed(1)), times)
    prediction = prior.predict(z, times, Condition((prompt,) * VIEWS, cameras=told))
    return float((prediction.x0 - x).square().mean())


def test_folder_is_small_safe_and_an_ordinary_pipeline():
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    files = [path for path in EMBEDDED_WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md"}
    pipeline = DiffusionPipeline.from_pretrained(EMBEDDED_WEIGHTS, local_files_only=True)
    assert type(pipeline).__name__ == "IFPipeline"
    card = (EMBEDDED_WEIGHTS / "README.md").read_text()
    assert all(f"{color} {shape}" in card for color, shape in world.HELD_OUT)


@pytest.mark.parametrize("shape", ["cube", "chair", "table", "car"])
def test_it_knows_the_azimuth(prior, shape):
    prompt = f"a red {shape}"
    true = error(prior, shape, prompt, cameras())
    assert error(prior, shape, prompt, cameras(45.0)) > 1.15 * true
    assert error(prior, shape, prompt, None) > 1.05 * true


@pytest.mark.parametrize(
    ("shape", "other"), [("cone", "cube"), ("torus", "sphere"), ("chair", "table"), ("car", "mug")]
)
def test_it_knows_the_classes_and_the_colours(prior, shape, other):
    true = error(prior, shape, f"a red {shape}", cameras())
    assert error(prior, shape, f"a red {other}", cameras()) > 1.15 * true
    assert error(prior, shape, f"a blue {shape}", cameras()) > 1.5 * true


@pytest.mark.parametrize(("color", "shape"), sorted(world.HELD_OUT))
def test_it_composes_pairs_that_it_never_saw(prior, color, shape):
    true = error(prior, shape, f"a {color} {shape}", cameras(), color)
    for wrong in (f"a red {shape}", f"a {color} sphere"):
        assert error(prior, shape, wrong, cameras(), color) > 1.1 * true
