"""The field that a picture decodes to, and the prior that shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from threedgen.cameras.orbit import orbit, turned
from threedgen.core.errors import UserError
from threedgen.core.types import Cameras
from threedgen.datasets.things.thing_set import thing_set
from threedgen.datasets.things.thing_views import true_views
from threedgen.guidance.priors.base import Condition, ReferenceView
from threedgen.guidance.priors.load import PriorConfig, load_folder, load_prior
from threedgen.guidance.priors.picture_field import (
    PictureArchitecture,
    PictureField,
    likely,
    load_picture_field,
    places_of,
    seen_from,
    soft_bins,
    values_at,
)
from threedgen.guidance.priors.radiance_field import as_pictures, save_field
from threedgen.training.prior_model import write_folder

_SIZES = {"fine": 16, "middle": 16, "coarse": 16, "seen": 16, "rank": 16, "side": 6}
TINY = PictureArchitecture(**_SIZES, channels=2, features=4, hidden=8, samples=8)
ALL = torch.arange(2)
KNOWN = torch.tensor([[10.0, 2.85], [25.0, 2.7]])


def cameras(azimuths: list[float], size: int = 8) -> Cameras:
    full = torch.ones(len(azimuths))
    return orbit(torch.tensor(azimuths), 20.0 * full, 2.85 * full, 40.0, size, size)


def shown(
    field: PictureField, pictures: Tensor, known: Tensor, views: Cameras, owner: Tensor = ALL
) -> Tensor:
    """What a field shows of pictures, [V, 4, H, W]."""
    return as_pictures(field(pictures, known, views, owner), views)


@pytest.fixture
def field() -> PictureField:
    torch.manual_seed(0)
    made = PictureField(TINY)
    for name in ("outer.weight", "refine.2.weight"):
        torch.nn.init.normal_(made.get_parameter(name), std=0.4)
    return made


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2.0 - 1.0


def test_views_of_one_picture_are_those_of_each_alone(field: PictureField, pictures: Tensor) -> None:
    views = cameras([0.0, 70.0, 140.0])
    together = shown(field, pictures, KNOWN, views, torch.tensor([1, 0, 1]))
    for view, picture in enumerate((1, 0, 1)):
        alone = shown(field, pictures[[picture]], KNOWN[[picture]], views[view : view + 1], torch.tensor([0]))
        torch.testing.assert_close(together[view : view + 1], alone, atol=1e-5, rtol=1e-4)
    assert float(together.detach().min()) >= 0.0
    assert float(together.detach().max()) <= 1.0 + 1e-5


def test_the_pixel_that_shows_a_point_is_found(field: PictureField) -> None:
    """A picture that is black but for one pixel: the colour features of a point are its own pixel's."""
    azimuth, elevation, distance = torch.tensor([[0.0], [10.0], [2.85]])
    camera = orbit(azimuth, elevation, distance, 40.0, 64, 64)
    picture = torch.zeros(3, 64, 64)
    picture[:, 20, 41] = 1.0
    pixel_center = torch.tensor([41.5, 20.5, 1.0])
    ray = camera.world_from_camera[0, :3, :3] @ (torch.linalg.inv(camera.intrinsics[0]) @ pixel_center)
    points = camera.centers + torch.tensor([[2.5], [2.9], [3.2]]) * ray
    place, pixel = (values[0] for values in places_of(camera, points[None]))
    torch.testing.assert_close(values_at(picture, pixel), torch.ones(3, 3), atol=1e-3, rtol=0)
    assert float(place[0, 5]) < float(place[1, 5]) < float(place[2, 5])  # further behind the pixel
    aside = camera.centers + 2.9 * torch.nn.functional.normalize(ray + 0.2, dim=0)
    assert float(values_at(picture, places_of(camera, aside[None])[1][0]).max()) < 0.01


def test_gradients_reach_every_weight(field: PictureField, pictures: Tensor) -> None:
    for weights in field.parameters():
        if not bool(weights.any()):  # what only adds to something begins at zero
            torch.nn.init.normal_(weights, std=0.2)
    shift = torch.rand(2, 64, TINY.samples) - 0.5
    decoded = field.decode(pictures, KNOWN, torch.tensor([20.0, 200.0]))
    views = seen_from(decoded, cameras([30.0, 80.0]))
    (field.render(decoded, views, shift=shift).square().sum() + decoded.sides.square().sum()).backward()
    still = [
        name for name, weights in field.named_parameters() if weights.grad is None or not weights.grad.any()
    ]
    assert not still


def test_it_learns_which_picture_shows_which_thing() -> None:
    """Two balls, red and small or blue and large, from a side that the picture does not show."""
    torch.manual_seed(2)
    made = PictureField(TINY)
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    grid = (torch.arange(64) + 0.5) / 32 - 1
    far = grid[:, None] ** 2 + grid[None] ** 2
    inside = torch.stack([(far < 0.15).float(), (far < 0.5).float()])
    paint = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.2, 0.9]])
    painted = inside[:, None] * paint[:, :, None, None]
    given = 2.0 * (painted + 1.0 - inside[:, None]) - 1.0
    target = torch.nn.functional.avg_pool2d(torch.cat([painted, inside[:, None]], dim=1), 4)
    loss = torch.tensor(0.0)
    for _ in range(200):
        loss = (shown(made, given, KNOWN, cameras([90.0, 90.0], 16)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.01


def test_a_folder_gives_it_back(field: PictureField, tmp_path: Path) -> None:
    save_field(field, tmp_path / "field", torch.float32)
    back = load_picture_field(tmp_path / "field")
    assert back.architecture == TINY
    assert all(torch.equal(back.state_dict()[name], value) for name, value in field.state_dict().items())


def prior_of(field: PictureField, folder: Path) -> Any:
    write_folder(
        folder,
        "ThreedgenPicturePipeline",
        {"field": ["threedgen", "PictureField"]},
        lambda path: save_field(field, path / "field", torch.float32),
    )
    return load_folder(folder)


def condition(azimuths: list[float], front: float = 0.0, **changes: Any) -> Condition:
    picture = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(3))
    reference = ReferenceView(picture, front, 10.0, 2.85)
    return Condition(("",) * len(azimuths), cameras=cameras(azimuths, 64), reference=reference, **changes)


def test_the_answer_of_pure_noise_is_what_the_field_shows(field: PictureField, tmp_path: Path) -> None:
    prior = prior_of(field, tmp_path / "pipeline")
    asked = condition([30.0, 200.0])
    assert asked.reference is not None
    given = 2.0 * asked.reference.image.permute(2, 0, 1)[None] - 1.0
    with torch.no_grad():
        rgba = shown(
            field, given, torch.tensor([[10.0, 2.85]]), cameras([30.0, 200.0], 64), torch.tensor([0, 0])
        )
    expected = rgba[:, :3] + 1.0 - rgba[:, 3:]
    z = torch.randn(2, 3, 64, 64)
    seen = prior.decode(prior.predict(z, torch.full((2,), 0.999), asked).x0).permute(0, 3, 1, 2)
    assert (seen - expected).abs().mean() < 0.02  # cells that are nearly empty are left out
    black = condition([30.0, 200.0], background=torch.zeros(2, 3))
    darker = prior.decode(prior.predict(z, torch.full((2,), 0.999), black).x0).permute(0, 3, 1, 2)
    assert (darker - rgba[:, :3]).abs().mean() < 0.02


def test_only_the_turn_from_the_picture_matters(field: PictureField, tmp_path: Path) -> None:
    prior = prior_of(field, tmp_path / "pipeline")
    z, t = torch.randn(1, 3, 64, 64), torch.tensor([0.9])
    here = prior.predict(z, t, condition([75.0], front=20.0)).x0
    torch.testing.assert_close(prior.predict(z, t, condition([55.0])).x0, here, atol=2e-3, rtol=0)
    assert (prior.predict(z, t, condition([95.0])).x0 - here).abs().max() > 0.01


def test_the_unconditional_branch_does_not_see_the_picture(field: PictureField, tmp_path: Path) -> None:
    prior = prior_of(field, tmp_path / "pipeline")
    z, t = torch.randn(1, 3, 64, 64), torch.tensor([0.9])
    plain = prior.predict(z, t, condition([55.0])).x0
    dropped = condition([55.0], dropped=True)
    without = prior.predict(z, t, dropped).x0
    assert (plain - without).abs().max() > 1e-3
    other = Condition(
        ("",),
        cameras=dropped.cameras,
        reference=ReferenceView(torch.zeros(64, 64, 3), 0.0, 10.0, 2.85),
        dropped=True,
    )
    torch.testing.assert_close(prior.predict(z, t, other).x0, without)


def test_what_is_missing_or_damaged_is_said(field: PictureField, tmp_path: Path) -> None:
    prior = prior_of(field, tmp_path / "pipeline")
    with pytest.raises(UserError, match="set `reference`"):
        prior.predict(
            torch.randn(1, 3, 64, 64), torch.tensor([0.5]), Condition(("",), cameras=cameras([0.0]))
        )
    config = tmp_path / "pipeline" / "field" / "config.json"
    good = json.loads(config.read_text())
    for change, said in (
        ({"hidden": 9}, "does not fit its config"),
        ({"rank": 4096, "side": 4096}, "does not fit its config"),  # more than 1 PB
        ({"middle": 17}, "sizes that no field has"),
        ({"size": 0}, "sizes that no field has"),
    ):
        config.write_text(json.dumps(good | change))
        with pytest.raises(UserError, match=said):
            load_folder(tmp_path / "pipeline")


def test_turned_cameras_have_other_azimuths_and_nothing_else() -> None:
    here, there = cameras([10.0, 250.0]), cameras([47.0, 287.0])
    torch.testing.assert_close(
        turned(here, 37.0).world_from_camera, there.world_from_camera, atol=1e-5, rtol=0
    )
    assert torch.equal(turned(here, 37.0).intrinsics, here.intrinsics)


@pytest.mark.parametrize("azimuth", [0.0, 44.0, 179.0, 355.0, -83.0])
def test_an_azimuth_comes_back_from_its_bins(azimuth: float) -> None:
    shares = soft_bins(torch.tensor([azimuth]))
    torch.testing.assert_close(shares.sum(), torch.tensor(1.0))
    found = likely(shares.clamp_min(1e-6).log())
    assert abs((float(found) - azimuth + 180.0) % 360.0 - 180.0) < 0.1


def test_the_same_field_is_seen_from_where_its_picture_was_taken(
    field: PictureField, pictures: Tensor
) -> None:
    """A camera at azimuth 30 of a picture that was taken from 50 is at azimuth 80 of the field."""
    decoded = field.decode(pictures, KNOWN, torch.tensor([50.0, 0.0]))
    views = seen_from(decoded, cameras([30.0, 30.0]))
    expected = cameras([80.0, 30.0])
    torch.testing.assert_close(views.world_from_camera, expected.world_from_camera, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        decoded.cameras.centers[0] / KNOWN[0, 1], cameras_at(50.0, 10.0), atol=1e-5, rtol=0
    )


def cameras_at(azimuth: float, elevation: float) -> Tensor:
    """The unit vector towards a camera."""
    a, e = torch.deg2rad(torch.tensor(azimuth)), torch.deg2rad(torch.tensor(elevation))
    return torch.stack([e.cos() * a.sin(), e.sin(), e.cos() * a.cos()])


def test_the_one_that_ships_knows_the_side_of_a_thing() -> None:
    """A red sofa from half left: its true sides are nearer to what the prior shows than those a quarter turn
    off."""
    prior = load_prior(PriorConfig(name="embedded-picture"))
    assert prior.image_size == 64
    sofa = thing_set(None).classes("sofa")[0]
    turns = [40.0, 120.0, 180.0, 270.0]
    true = true_views(sofa, [30.0, *(30.0 + turn for turn in turns)], 15.0, 64, "red")
    reference = ReferenceView(true.images[0], 0.0, 15.0, 2.85)

    def error(off: float) -> float:
        views = orbit(torch.tensor(turns) + off, torch.full((4,), 15.0), torch.full((4,), 2.85), 40.0, 64, 64)
        asked = Condition(("",) * 4, cameras=views, reference=reference)
        z = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        shown = prior.decode(prior.predict(z, torch.full((4,), 0.98), asked).x0)
        return float((shown - true.images[1:]).square().mean())

    assert error(0.0) < 0.02
    assert error(90.0) > 1.5 * error(0.0)


def test_what_was_seen_can_be_withheld_in_part(field: PictureField, pictures: Tensor) -> None:
    """With factors of one nothing changes; without any of it the planes do not depend on the picture."""
    known, azimuth = torch.tensor([[10.0, 3.0]]).repeat(len(pictures), 1), torch.zeros(len(pictures))
    plain = field.decode(pictures, known, azimuth)
    kept = torch.ones(len(pictures), field.architecture.seen)
    whole, none = (field.decode(pictures, known, azimuth, share * kept) for share in (1.0, 0.0))
    torch.testing.assert_close(whole.planes, plain.planes)
    torch.testing.assert_close(none.planes[0], none.planes[1])
    assert not torch.allclose(plain.planes[0], plain.planes[1])
    torch.testing.assert_close(none.features, plain.features)
