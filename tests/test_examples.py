"""The examples run as they stand."""

import importlib.util
from pathlib import Path

import pytest

from threedgen.guidance.priors.load import EMBEDDED_WEIGHTS

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


@pytest.mark.skipif(not EMBEDDED_WEIGHTS.is_dir(), reason="the embedded weights are not here")
def test_batch_of_prompts(tmp_path):
    files = load("batch_of_prompts").main(str(tmp_path), ["a red cube", "a blue cone"], steps=2)
    assert all(file.read_bytes().startswith(b"ply") for file in files)
    assert len(files) == 2
