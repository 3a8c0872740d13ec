"""The field that a text decodes to, and the closed-form answer for its picture."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.types import Cameras
from threedgen.guidance.priors.base import Prediction
from threedgen.guidance.priors.field_denoiser import (
    SPREAD,
    correction,
    field_answer,
    mean_picture,
    patch_of,
    unet_inputs,
)
from threedgen.guidance.priors.radiance_field import save_field
from threedgen.guidance.priors.text_field import FieldArchitecture, TextField, load_text_field

TINY = FieldArchitecture(width=5, code=2, rank=4, side=3, channels=2, hidden=3, samples=6)


def cameras(count: int, size: int = 8) -> Cameras:
    full = torch.ones(count)
    return orbit(torch.arange(count) * 70.0, 20.0 * full, 2.85 * full, 40.0, size, size)


@pytest.fixture
def field() -> TextField:
    torch.manual_seed(0)
    made = TextField(TINY)
    for weights in made.parameters():
        torch.nn.init.normal_(weights, std=0.4)
    return made


def test_some_pixels_are_those_of_the_whole_picture(field: TextField) -> None:
    vectors, views = torch.randn(2, 5), cameras(2)
    whole = field.pictures(vectors, views).flatten(2).transpose(1, 2)
    pixels = torch.tensor([[0, 27, 35, 63], [36, 36, 28, 8]])
    some = field(vectors, views, pixels=pixels)
    torch.testing.assert_close(some, whole.gather(1, pixels[:, :, None].expand(-1, -1, 4)))


def test_views_of_one_text_are_those_of_each_alone(field: TextField) -> None:
    vectors, views = torch.randn(2, 5), cameras(3)
    together = field.pictures(vectors, views, torch.tensor([1, 0, 1]))
    for view, text in enumerate((1, 0, 1)):
        alone = field.pictures(vectors[text : text + 1], views[view : view + 1])
        torch.testing.assert_close(together[view : view + 1], alone)


def test_a_turned_camera_sees_the_same_from_the_same_place(field: TextField) -> None:
    """A full turn is no turn, and the corners of a picture, whose rays miss the ball, are empty."""
    vector, full = torch.randn(1, 5), torch.ones(1)
    one = field.pictures(vector, orbit(30 * full, 10 * full, 2.85 * full, 40.0, 8, 8))
    two = field.pictures(vector, orbit(390 * full, 10 * full, 2.85 * full, 40.0, 8, 8))
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
    assert one[0, :, 0, 0].abs().max() < 1e-4
    assert one[0, 3].max() > 0.5
    assert float(one.min()) >= 0.0
    assert float(one.max()) <= 1.0 + 1e-5


def test_empty_cells_are_left_out_without_a_difference(field: TextField) -> None:
    vectors, views = torch.randn(2, 5), cameras(2, 12)
    with torch.no_grad():
        field.outer.weight[3] *= 4.0  # surfaces, not fog
        field.outer.bias[3] = -6.0
        decoded = field.decode(vectors)
        sparse = field.with_occupancy(decoded)
        assert sparse.occupied is not None
        assert 0.0 < float(sparse.occupied.float().mean()) < 0.9
        whole, some = field.render(decoded, views), field.render(sparse, views)
    # A chord of 32 cells that are each at the threshold would have an opacity of 0.15; this field is less evil.
    torch.testing.assert_close(some, whole, atol=0.05, rtol=0.0)
    assert (some - whole).abs().mean() < 0.005


def test_gradients(field: TextField) -> None:
    field.double()
    views = cameras(1, 3).to("cpu", torch.float64)
    shift = torch.rand(1, 9, TINY.samples, dtype=torch.float64) - 0.5
    vector = torch.randn(1, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: field(v, views, shift=shift), vector)


def test_it_learns_a_thing(field: TextField) -> None:
    """From an empty corner of its weights, a few steps recover a red ball from all sides."""
    torch.manual_seed(1)
    made = TextField(FieldArchitecture(width=5, code=2, rank=8, side=6, channels=4, hidden=8, samples=12))
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    vector, views = torch.randn(1, 5), cameras(4, 12)
    row = torch.zeros(4, dtype=torch.long)
    grid = (torch.arange(12) + 0.5) / 12 * 2 - 1
    inside = (grid[:, None] ** 2 + grid[None] ** 2 < 0.3).float()
    target = torch.stack([0.9 * inside, 0.1 * inside, 0.1 * inside, inside])
    for _ in range(150):
        loss = (made.pictures(vector, views, row) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.01


def test_a_folder_gives_it_back(field: TextField, tmp_path: Path) -> None:
    save_field(field, tmp_path / "field", torch.float32)
    back = load_text_field(tmp_path / "field")
    assert back.architecture == TINY
    assert all(torch.equal(back.state_dict()[name], value) for name, value in field.state_dict().items())


@pytest.mark.parametrize(
    ("change", "said"), [({"rank": 5}, "does not fit"), ({"side": 10**9}, "sizes"), ({"side": "3"}, "sizes")]
)
def test_damaged_folders(field: TextField, tmp_path: Path, change: dict[str, object], said: str) -> None:
    save_field(field, tmp_path / "field")
    path = tmp_path / "field" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=said):
        load_text_field(tmp_path / "field")


def test_the_answer_is_the_mean_of_the_posterior() -> None:
    """Two normal densities, one about the mean picture and one about z / alpha, multiply to that of the answer."""
    z, mean = torch.randn(3, 3, 4, 4), torch.rand(3, 3, 4, 4) * 2 - 1
    alpha = torch.tensor([0.1, 0.7, 0.995])
    sigma = (1 - alpha.square()).sqrt()
    a, s = alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)
    precision = 1 / SPREAD**2 + a**2 / s**2
    expected = (mean / SPREAD**2 + a * z / s**2) / precision
    answer = Prediction.from_v(z, field_answer(z, mean, alpha, sigma), alpha, sigma)
    torch.testing.assert_close(answer.x0, expected, atol=1e-4, rtol=1e-4)


def test_the_mean_picture_is_before_its_background() -> None:
    rendered = torch.zeros(2, 4, 2, 2)
    rendered[:, :, 0, 0] = torch.tensor([0.2, 0.1, 0.0, 0.5])
    picture = mean_picture(rendered, torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]]))
    torch.testing.assert_close(picture[0, :, 1, 1], torch.tensor([-1.0, -1.0, 1.0]))
    torch.testing.assert_close(picture[0, :, 0, 0], torch.tensor([-0.6, -0.8, 0.0]))
    torch.testing.assert_close(picture[1:], mean_picture(rendered[1:], None))


def test_blocks_of_pixels() -> None:
    z, mean, rendered = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.rand(2, 4, 8, 8)
    inputs = unet_inputs(z, mean, rendered, 4)
    assert inputs.shape == (2, 112, 2, 2)
    torch.testing.assert_close(correction(inputs[:, :48], 4), z)
    assert patch_of(SimpleNamespace(config=SimpleNamespace(in_channels=112, out_channels=48))) == 4
    with pytest.raises(ValueError, match="no blocks"):
        patch_of(SimpleNamespace(config=SimpleNamespace(in_channels=112, out_channels=12)))
