"""The public folder of ImageDream, against its attention and its resampler written out."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from complaints import complaint
from original_layouts import plain_unet, unet
from safetensors.torch import load_file, save_file
from tiny_pipelines import TEXT_WIDTH, VIEWS, diffusers, edit, picture_encoder, ring
from torch import Tensor

from threedgen.cameras.orbit import turned
from threedgen.core.errors import UserError
from threedgen.guidance.priors.adapters.multiview import camera_vectors, set_views
from threedgen.guidance.priors.adapters.view import clip_pixels
from threedgen.guidance.priors.base import Condition, ReferenceView
from threedgen.guidance.priors.load import PriorConfig, load_prior

WEIGHTS = "diffusion_pytorch_model.safetensors"
TOKENS, HEADS, WIDTH = 3, 2, 64  # of the picture; of the resampler, of its heads
DEPTH = 4


@pytest.fixture(scope="module")
def published(pipelines, tmp_path_factory):
    """A folder with the class, the settings and the names of the public code."""
    folder = tmp_path_factory.mktemp("imagedream") / "model"
    shutil.copytree(pipelines["mvdream"], folder)
    torch.manual_seed(0)
    camera = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}
    model = plain_unet(TEXT_WIDTH, 16, **camera)
    named = {name.removeprefix("model.diffusion_model."): value for name, value in unet(model).items()}
    state = model.state_dict()
    named = {name: value for name, value in named.items() if "class_embedding" not in name}
    for layer, place in (("linear_1", "0"), ("linear_2", "2")):
        for kind in ("weight", "bias"):
            named[f"camera_embed.{place}.{kind}"] = state[f"class_embedding.{layer}.{kind}"]
    for name in list(named):
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            named[name.replace(".weight", "_ip.weight")] = 0.3 * torch.randn_like(named[name])
    named |= {f"image_embed.{name}": value for name, value in _resampler().items()}
    part = folder / "unet"
    save_file({name: value.contiguous() for name, value in named.items()}, part / WEIGHTS)
    settings = {"image_size": 16, "model_channels": 32, "num_heads": 8, "camera_dim": 16, "ip_dim": TOKENS}
    (part / "config.json").write_text(json.dumps({"_class_name": "MultiViewUNetModel", **settings}))
    picture_encoder(projection=False).save_pretrained(folder / "image_encoder")
    edit(
        folder / "model_index.json",
        _class_name="MVDreamPipeline",
        unet=["mv_unet", "MultiViewUNetModel"],
        image_encoder=["transformers", "CLIPVisionModel"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
    )
    model.save_pretrained(folder.parent / "plain")
    return folder


def _resampler() -> dict[str, Tensor]:
    inner = HEADS * WIDTH
    shapes = {
        "latents": (1, TOKENS, TEXT_WIDTH),
        "proj_in.weight": (TEXT_WIDTH, TEXT_WIDTH),
        "proj_out.weight": (TEXT_WIDTH, TEXT_WIDTH),
    }
    norms = ["norm_out"]
    for layer in range(DEPTH):
        own = f"layers.{layer}."
        norms += [f"{own}0.norm1", f"{own}0.norm2", f"{own}1.0"]
        shapes |= {
            f"{own}0.to_q.weight": (inner, TEXT_WIDTH),
            f"{own}0.to_kv.weight": (2 * inner, TEXT_WIDTH),
            f"{own}0.to_out.weight": (TEXT_WIDTH, inner),
            f"{own}1.1.weight": (4 * TEXT_WIDTH, TEXT_WIDTH),
            f"{own}1.3.weight": (TEXT_WIDTH, 4 * TEXT_WIDTH),
        }
    found = {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}
    found |= {f"{name}.bias": 0.1 * torch.randn(TEXT_WIDTH) for name in ("proj_in", "proj_out")}
    for name in norms:
        found[f"{name}.weight"] = 1.0 + 0.1 * torch.randn(TEXT_WIDTH)
        found[f"{name}.bias"] = 0.1 * torch.randn(TEXT_WIDTH)
    return found


def _attended(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T) v of each head, joined."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    mixed = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(-1) @ v
    return mixed.transpose(1, 2).flatten(2)


def _resampled(weights: dict[str, Tensor], states: Tensor) -> Tensor:
    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (TEXT_WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = F.linear(states, weights["proj_in.weight"], weights["proj_in.bias"])
    tokens = weights["latents"].expand(len(x), -1, -1)
    for layer in range(DEPTH):
        own = f"layers.{layer}."
        seen, asking = norm(x, f"{own}0.norm1"), norm(tokens, f"{own}0.norm2")
        k, v = F.linear(torch.cat([seen, asking], 1), weights[f"{own}0.to_kv.weight"]).chunk(2, -1)
        mixed = _attended(F.linear(asking, weights[f"{own}0.to_q.weight"]), k, v, HEADS)
        tokens = tokens + F.linear(mixed, weights[f"{own}0.to_out.weight"])
        hidden = F.gelu(F.linear(norm(tokens, f"{own}1.0"), weights[f"{own}1.1.weight"]))
        tokens = tokens + F.linear(hidden, weights[f"{own}1.3.weight"])
    return norm(F.linear(tokens, weights["proj_out.weight"], weights["proj_out.bias"]), "norm_out")


class _BothAttended:
    """A cross-attention with keys and values of their own for the last tokens."""

    def __init__(self, weights: tuple[Tensor, Tensor]) -> None:
        self.to_k_ip, self.to_v_ip = weights

    def __call__(self, attn, hidden_states, encoder_hidden_states, **options):
        text, picture = encoder_hidden_states[:, :-TOKENS], encoder_hidden_states[:, -TOKENS:]
        q = attn.to_q(hidden_states)
        seen = F.linear(picture, self.to_k_ip), F.linear(picture, self.to_v_ip)
        both = _attended(q, attn.to_k(text), attn.to_v(text), attn.heads) + _attended(q, *seen, attn.heads)
        return attn.to_out[0](both)


def _reference(azimuth: float = 0.0) -> ReferenceView:
    image = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(2))
    return ReferenceView(image, azimuth)


def _asked(count: int = VIEWS, **changes) -> Condition:
    return Condition(
        ("a red cube",) * count, **{"cameras": ring(count), "reference": _reference(), **changes}
    )


@pytest.fixture(scope="module")
def prior(published, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("THREEDGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield load_prior(PriorConfig(path=str(published), executor="eager"))
    patch.undo()


Z = torch.randn(VIEWS, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def test_without_the_picture_its_latent_and_its_states_are_zeros(prior):
    """The answer itself says nothing: the norms of so narrow a network divide the constant maps that follow from
    zeros by rounding errors."""
    t = torch.full((VIEWS,), 0.5)
    asked, without = (prior.arguments(Z, t, _asked(dropped=dropped)) for dropped in (False, True))
    for name in ("timestep", "encoder_hidden_states", "class_labels"):
        assert torch.equal(asked[name], without[name])
    assert torch.equal(without["sample"][:VIEWS], Z)
    assert not without["sample"][VIEWS].any()
    assert asked["sample"][VIEWS].any()
    seen, unseen = (one["added_cond_kwargs"]["image_embeds"][0] for one in (asked, without))
    assert seen.shape == unseen.shape == (VIEWS + 1, 1, 17, TEXT_WIDTH)
    assert seen.any()
    assert not unseen.any()


def test_it_computes_what_the_public_code_does(prior, published):
    file = load_file(published / "unet" / WEIGHTS)
    network = diffusers().UNet2DConditionModel.from_pretrained(published.parent / "plain")
    places = {name: key for key, name in _named_as_original(network).items()}
    processors = {}
    for name, processor in network.attn_processors.items():
        attention = name.removesuffix(".processor")
        if "attn2" in name:
            original = places[f"{attention}.to_k.weight"].removesuffix(".to_k.weight")
            pair = (file[f"{original}.to_k_ip.weight"], file[f"{original}.to_v_ip.weight"])
            processors[name] = _BothAttended(pair)
        else:
            processors[name] = processor
    network.set_attn_processor(processors)
    set_views(network, VIEWS + 1)
    image = _reference().image[None]
    states = prior._clip(clip_pixels(prior._clip, image), output_hidden_states=True).hidden_states[-2]
    latent = prior.codec.encode(image)
    resampler = {
        name.removeprefix("image_embed."): value for name, value in file.items() if "image_embed." in name
    }
    text = prior.text(["a red cube"])["states"]
    context = torch.cat([text, _resampled(resampler, states)], dim=1).expand(VIEWS + 1, -1, -1)
    cameras = torch.cat([camera_vectors(ring(VIEWS)), torch.zeros(1, 16)])
    with torch.no_grad():
        step = torch.full((VIEWS + 1,), 500)
        expected = network(torch.cat([Z, latent]), step, context, class_labels=cameras).sample[:VIEWS]
    found = prior.predict(Z, torch.full((VIEWS,), 0.5), _asked()).eps
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def _named_as_original(network) -> dict[str, str]:
    """The name in the original code of each weight of a cross-attention, found by its value."""
    state = network.state_dict()
    original = {value.data_ptr(): name for name, value in unet(network).items()}
    return {
        original[value.data_ptr()].removeprefix("model.diffusion_model."): name
        for name, value in state.items()
        if name.endswith("attn2.to_k.weight")
    }


def test_groups_do_not_see_one_another_and_the_picture_matters(prior):
    t = torch.full((VIEWS,), 0.5)
    alone = prior.predict(Z, t, _asked()).eps
    cameras = ring(VIEWS)[torch.arange(VIEWS).repeat(2)]
    two = prior.predict(
        torch.cat([Z, 0.5 * Z]),
        t.repeat(2),
        _asked(2 * VIEWS, cameras=cameras, dropped=(False,) * 4 + (True,) * 4),
    ).eps
    torch.testing.assert_close(two[:VIEWS], alone, atol=1e-5, rtol=1e-4)
    other = ReferenceView(1.0 - _reference().image)
    assert (prior.predict(Z, t, _asked(reference=other)).eps - alone).abs().max() > 1e-4
    with pytest.raises(UserError, match="is given none"):
        prior.predict(Z, t, _asked(reference=None))
    with pytest.raises(UserError, match="denoises 4 views together"):
        prior.predict(Z[:3], t[:3], _asked(3))


def test_cameras_are_told_relative_to_the_picture(prior):
    t = torch.full((VIEWS,), 0.5)
    moved = _asked(cameras=turned(ring(VIEWS), 40.0), reference=_reference(40.0))
    torch.testing.assert_close(
        prior.predict(Z, t, moved).eps, prior.predict(Z, t, _asked()).eps, atol=1e-5, rtol=0
    )


def test_what_it_cannot_do_is_a_line(published, pipelines, tmp_path, monkeypatch):
    monkeypatch.setenv("THREEDGEN_CACHE", str(tmp_path / "cache"))
    assert "its attention cannot be sliced" in complaint(published, attention_slicing=True)
    folder = tmp_path / "damaged"
    shutil.copytree(published, folder)
    weights = load_file(folder / "unet" / WEIGHTS)
    kept = {name: value for name, value in weights.items() if "image_embed.layers.3" not in name}
    save_file(kept, folder / "unet" / WEIGHTS)
    assert "cannot be loaded" in complaint(folder)
    kept = {name: value for name, value in weights.items() if not name.endswith("to_v_ip.weight")}
    save_file(kept, folder / "unet" / WEIGHTS)
    assert "is not a whole MVDream UNet" in complaint(folder)
    edit(folder / "model_index.json", image_encoder=None)
    save_file(weights, folder / "unet" / WEIGHTS)
    assert "lacks the part image_encoder" in complaint(folder)
