"""The public folder of MVDream, whose UNet has a class and names of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from complaints import complaint
from original_layouts import plain_unet, unet
from safetensors.torch import load_file, save_file
from tiny_pipelines import TEXT_WIDTH, VIEWS, diffusers, edit, ring

from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.load import load_folder

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def own_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("THREEDGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def converted(copied) -> Path:
    """The folder of a UNet with the widths of latent-diffusion, as somebody converts one by hand."""
    folder = copied("mvdream")
    torch.manual_seed(0)
    camera = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}
    plain_unet(TEXT_WIDTH, 16, **camera).save_pretrained(folder / "unet")
    edit(folder / "unet" / "config.json", num_views=VIEWS)
    return folder


@pytest.fixture
def published(converted, tmp_path) -> Path:
    """The same UNet in a folder of the public code: its class, its settings and its names."""
    folder = Path(shutil.copytree(converted, tmp_path / "published"))
    part = folder / "unet"
    state = load_file(part / WEIGHTS)
    model = diffusers().UNet2DConditionModel.from_pretrained(part)
    named = {name.removeprefix("model.diffusion_model."): value for name, value in unet(model).items()}
    named = {name: value for name, value in named.items() if "class_embedding" not in name}
    for layer, place in (("linear_1", "0"), ("linear_2", "2")):
        for kind in ("weight", "bias"):
            named[f"camera_embed.{place}.{kind}"] = state[f"class_embedding.{layer}.{kind}"]
    save_file({name: value.contiguous() for name, value in named.items()}, part / WEIGHTS)
    settings = {"image_size": 16, "model_channels": 32, "num_heads": 8, "camera_dim": 16, "ip_dim": 0}
    (part / "config.json").write_text(json.dumps({"_class_name": "MultiViewUNetModel", **settings}))
    edit(
        folder / "model_index.json",
        _class_name="MVDreamPipeline",
        unet=["mv_unet", "MultiViewUNetModel"],
        image_encoder=[None, None],
    )
    return folder


def answers(folder: Path) -> torch.Tensor:
    prior = load_folder(folder)
    z = torch.randn(VIEWS, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    condition = Condition(("a red cube",) * VIEWS, cameras=ring(VIEWS))
    return prior.predict(z, torch.full((VIEWS,), 0.5), condition).eps


def test_the_public_folder_answers_as_its_converted_one(published, converted):
    before = {file: file.read_bytes() for file in published.rglob("*") if file.is_file()}
    assert torch.equal(answers(published), answers(converted))
    assert {file: file.read_bytes() for file in published.rglob("*") if file.is_file()} == before


def test_the_heads_are_those_of_its_settings(published, converted):
    edit(published / "unet" / "config.json", num_heads=-1, num_head_channels=16)
    heads = [
        block.attn1.heads for block in load_folder(published).network.modules() if hasattr(block, "attn1")
    ]
    assert set(heads) == {2, 4}


def test_what_is_wrong_with_one_is_named(published):
    edit(published / "unet" / "config.json", ip_dim=16)
    assert "is not a whole MVDream UNet" in complaint(published)  # it has no weights for a picture
    edit(published / "unet" / "config.json", ip_dim=0)
    weights = load_file(published / "unet" / WEIGHTS)
    kept = {name: value for name, value in weights.items() if not name.startswith("camera_embed")}
    save_file(kept, published / "unet" / WEIGHTS)
    assert "is not a whole MVDream UNet" in complaint(published)


@pytest.mark.parametrize(("key", "value"), [("image_size", "wide"), ("num_heads", None)])
def test_a_damaged_setting_is_a_line(published, key, value):
    edit(published / "unet" / "config.json", **{key: value})
    assert "is not a whole MVDream UNet" in complaint(published)
