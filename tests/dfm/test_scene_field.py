"""The scene that a picture and a noisy view of it decode to."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from dfm_scenes import TINY, tiny_field

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras
from threedgen.dfm.sampling import sampled_scenes, shown
from threedgen.dfm.scene_field import NoisyViews, SceneField, as_estimate, thinned
from threedgen.guidance.priors import radiance_field
from threedgen.guidance.priors.picture_field import LookedAt, PictureField, seen_from

KNOWN = torch.tensor([[10.0, 2.85], [25.0, 2.7]])
VIEWS = torch.tensor([[0.0, 10.0, 2.85], [180.0, 0.0, 2.85]])


def cameras(azimuths: list[float], size: int = 8) -> Cameras:
    full = torch.ones(len(azimuths))
    return orbit(torch.tensor(azimuths), 20.0 * full, 2.85 * full, 40.0, size, size)


def inputs(field: SceneField) -> tuple[LookedAt, NoisyViews]:
    draw = torch.Generator().manual_seed(1)
    pictures = torch.rand(2, 3, 64, 64, generator=draw) * 2.0 - 1.0
    looked = field.look(pictures, KNOWN, torch.tensor([20.0, 200.0]))
    noisy, estimate = (torch.randn(2, 4, size, size, generator=draw) for size in (64, 16))
    alpha = torch.tensor([0.6, 0.9])
    levels = alpha, (1.0 - alpha**2).sqrt()
    return looked, NoisyViews(noisy, estimate, *levels, seen_from(looked, cameras([180.0, 90.0], 64)))


def test_a_new_field_shows_what_the_context_shows() -> None:
    torch.manual_seed(0)
    field = SceneField(TINY)
    looked, views = inputs(field)
    seen = seen_from(looked, cameras([30.0, 80.0]))
    with torch.no_grad():
        scenes = field.render(field.scenes(looked, views), seen)
        torch.testing.assert_close(scenes, field.render(field.alone(looked), seen), atol=1e-5, rtol=1e-4)
    picture = PictureField(TINY)
    picture.load_state_dict({name: field.state_dict()[name] for name in picture.state_dict()})
    decoded = picture.decode(looked.pictures, KNOWN, looked.azimuth)
    torch.testing.assert_close(scenes, picture.render(decoded, seen), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["noisy", "estimate", "alpha", "sigma"])
def test_the_noisy_view_has_a_say(name: str) -> None:
    field = tiny_field()
    looked, views = inputs(field)
    seen = seen_from(looked, cameras([30.0, 80.0]))
    before = field.render(field.scenes(looked, views), seen)
    other = replace(views, **{name: 0.5 * getattr(views, name)})
    assert (field.render(field.scenes(looked, other), seen) - before).abs().max() > 1e-4


def test_the_kernel_shows_what_torch_shows() -> None:
    field = tiny_field()
    looked, views = inputs(field)
    scenes, owner = field.scenes(looked, views), torch.tensor([1, 0, 1])
    seen = seen_from(scenes, cameras([30.0, 80.0, 200.0]), owner)
    fast = field.render(scenes, seen, owner)
    with patch.object(radiance_field, "can_train", return_value=False):
        slow = field.render(scenes, seen, owner)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)
    assert fast.std() > 0.01


def test_gradients_reach_every_weight() -> None:
    field = tiny_field().requires_grad_(True)
    for weights in field.parameters():
        if not bool(weights.any()):
            torch.nn.init.normal_(weights, std=0.2)
    looked, views = inputs(field)
    scenes = field.scenes(looked, views)
    shift = torch.rand(2, 64, TINY.samples) - 0.5
    out = field.render(scenes, seen_from(scenes, cameras([30.0, 80.0])), shift=shift)
    (out.square().sum() + looked.sides.square().sum()).backward()
    still = [name for name, value in field.named_parameters() if value.grad is None or not value.grad.any()]
    assert not still


def test_the_estimate_is_kept_at_the_middles_of_blocks() -> None:
    picture = torch.arange(64.0 * 64).view(1, 1, 64, 64).expand(1, 4, -1, -1)
    kept = as_estimate(picture.flatten(2)[:, :, thinned(64)].transpose(1, 2))
    assert torch.equal(kept, picture[:, :, 2::4, 2::4])


def test_a_seed_gives_the_same_scene_whatever_the_others_are() -> None:
    field = tiny_field()
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(2)) * 2.0 - 1.0
    both = shown(field, sampled_scenes(field, picture, KNOWN[0], [3, 4], 3), VIEWS)
    alone = shown(field, sampled_scenes(field, picture, KNOWN[0], [4], 3), VIEWS)
    assert both.shape == (2, 2, 64, 64, 4)
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=1e-3)
    assert (both[0] - both[1]).abs().max() > 1e-3
    cold = shown(field, sampled_scenes(field, picture, KNOWN[0], [3, 4], 3, temperature=0.0), VIEWS)
    torch.testing.assert_close(cold[0], cold[1], atol=1e-4, rtol=1e-3)
    guided = shown(field, sampled_scenes(field, picture, KNOWN[0], [4], 3, guidance=2.0), VIEWS)
    assert (guided - alone).abs().max() > 1e-4
