"""The compiled pictures of radiance fields and their gradients: those of torch in float64, whatever the field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch_threads import torch_threads

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras
from threedgen.guidance.priors import radiance_field
from threedgen.guidance.priors.picture_field import PictureArchitecture, PictureField
from threedgen.guidance.priors.radiance_field import RadianceField, composited, ray_points
from threedgen.guidance.priors.text_field import FieldArchitecture, TextField
from threedgen.kernels import load_native, why_absent
from threedgen.kernels.field_rendering import FieldLayers
from threedgen.kernels.field_training import SeenPoints, can_train, train_fields

pytestmark = pytest.mark.skipif(why_absent() is not None, reason=f"no native kernels: {why_absent()}")
OWNER = torch.tensor([1, 0, 1])
NETWORK = ("inner", "between", "outer")


def cameras(size: int = 10) -> Cameras:
    full = torch.ones(3)
    return orbit(torch.arange(3) * 70.0, 20.0 * full, 2.85 * full, 40.0, size, size)


def of_texts(hidden: int, samples: int) -> tuple[RadianceField, Any]:
    torch.manual_seed(0)
    sizes = FieldArchitecture(width=5, code=2, rank=4, side=3, channels=2, hidden=hidden, samples=samples)
    field = TextField(sizes)
    for weights in field.parameters():
        torch.nn.init.normal_(weights, std=0.4)
    return field, field.decode(torch.randn(2, 5))


def of_pictures(hidden: int, samples: int) -> tuple[RadianceField, Any]:
    torch.manual_seed(0)
    small = {"fine": 16, "middle": 16, "coarse": 16, "seen": 16, "rank": 16, "side": 6}
    sizes = PictureArchitecture(**small, channels=2, features=4, hidden=hidden, samples=samples)
    field = PictureField(sizes)
    torch.nn.init.normal_(field.outer.weight, std=2.0)
    pictures, known = torch.rand(2, 3, 64, 64) * 2.0 - 1.0, torch.tensor([[10.0, 2.85], [25.0, 2.7]])
    return field, field.decode(pictures, known, torch.tensor([15.0, 80.0]))


def rendered(field: RadianceField, decoded: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """The picture, and the gradients of a random functional of it in what is decoded and in the network, at the
    same points. Float64 takes torch's code and float32 the kernel."""
    draw = torch.Generator().manual_seed(1)
    shift = torch.rand(3, 100, field.architecture.samples, generator=draw) - 0.5
    points, lengths = (value.to(dtype) for value in ray_points(cameras(), None, shift.shape[2], shift))
    field = field.to(dtype)
    names = [name for name in ("planes", "scale", "offset", "features") if hasattr(decoded, name)]
    leaves = {name: getattr(decoded, name).detach().to(dtype).requires_grad_() for name in names}
    weights = {name: value for name, value in field.named_parameters() if name.split(".")[0] in NETWORK}
    given: Any = replace(decoded, **leaves)
    if isinstance(field, PictureField):
        poses = {name: getattr(given.cameras, name).to(dtype) for name in ("world_from_camera", "intrinsics")}
        given = replace(given, pictures=given.pictures.to(dtype), cameras=replace(given.cameras, **poses))
    if dtype == torch.float32:
        assert can_train(field.outer.weight)
        seen = field.seen_points(given, OWNER, points)
        out = train_fields(field.layers(given), OWNER, points, lengths.squeeze(-1), seen)
    else:
        each = given.each()
        shaded = [field.shade(each[index], points[view].flatten(0, 1)) for view, index in enumerate(OWNER)]
        colors = torch.stack([color for color, _ in shaded]).view(*points.shape)
        densities = torch.stack([density for _, density in shaded]).view(points.shape[:-1])
        out = composited(colors, densities, lengths)
    functional = (out * torch.randn(out.shape, generator=draw, dtype=torch.float64).to(dtype)).sum()
    wanted = leaves | weights
    gradients = torch.autograd.grad(functional, list(wanted.values()))
    return {"picture": out.detach(), **dict(zip(wanted, gradients, strict=True))}


@pytest.mark.parametrize(("hidden", "samples"), [(32, 16), (64, 5), (8, 7), (40, 2)])
@pytest.mark.parametrize("make", [of_texts, of_pictures])
def test_the_picture_and_its_gradients_are_those_of_float64(make: Any, hidden: int, samples: int) -> None:
    field, decoded = make(hidden, samples)
    fast, true = (rendered(field, decoded, dtype) for dtype in (torch.float32, torch.float64))
    assert 0.01 < float(true["picture"][..., 3].mean()) < 0.99
    for name, value in true.items():
        assert float(value.norm()) > 0.0, name
        error = float((fast[name].double() - value).norm() / value.norm())
        assert error < 2e-5, f"{name}: {error}"


def some_rays() -> tuple[FieldLayers, tuple[Tensor, Tensor, Tensor, SeenPoints]]:
    """Layers of everything, and rays of which the second misses the ball."""
    draw = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).requires_grad_()

    layers = FieldLayers(
        planes=drawn(2, 3, 5, 5, 8),
        first=drawn(2, 8),
        outer=drawn(4, 8),
        last=drawn(4),
        blob=(1.0, 2.0, 12.0),
        between=(drawn(8, 8), drawn(8)),
        features=drawn(2, 3, 4, 8),
    )
    seen = SeenPoints(torch.rand(3, 60, 6, 2, generator=draw) * 2.4 - 1.2, drawn(3, 60, 6, 8))
    lengths = 0.1 + 0.2 * torch.rand(3, 60, generator=draw)
    lengths[:, 1] = 0.0
    return layers, (OWNER, torch.rand(3, 60, 6, 3, generator=draw) - 0.5, lengths, seen)


def leaves_of(layers: FieldLayers, seen: SeenPoints) -> list[Tensor]:
    assert layers.between is not None
    assert layers.features is not None
    own = [layers.planes, layers.first, layers.outer, layers.last, *layers.between]
    return [*own, layers.features, seen.added]


def test_a_training_takes_the_kernel() -> None:
    field, decoded = of_texts(8, 4)
    shift = torch.zeros(3, 100, 4)
    with patch.object(radiance_field, "train_fields", wraps=train_fields) as taken:
        shown = field.render(decoded, cameras(), OWNER, None, shift)
        assert taken.call_count == 1
        with patch.object(radiance_field, "can_train", lambda _: False):
            torch.testing.assert_close(field.render(decoded, cameras(), OWNER, None, shift), shown)
        moving = replace(cameras(), world_from_camera=cameras().world_from_camera.requires_grad_())
        field.render(decoded, moving, OWNER, None, shift)
        assert taken.call_count == 1


def test_a_ray_that_misses_the_ball_shows_nothing_and_has_no_gradient() -> None:
    layers, rays = some_rays()
    out = train_fields(layers, *rays)
    assert not out[:, 1].any()
    gradients = torch.autograd.grad(out.sum(), leaves_of(layers, rays[-1]))
    assert not gradients[-1][:, 1].any()
    assert gradients[-1][:, 0].any()


def test_the_number_of_threads_does_not_matter() -> None:
    layers, rays = some_rays()
    results = []
    for threads in (1, 3):
        with torch_threads(threads):
            out = train_fields(layers, *rays)
            gradients = torch.autograd.grad(out.square().sum(), leaves_of(layers, rays[-1]))
            results.append([out.detach(), *gradients])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_a_field_that_no_view_shows_has_a_gradient_of_zeros() -> None:
    layers, (_, points, lengths, seen) = some_rays()
    out = train_fields(layers, torch.zeros(3, dtype=torch.long), points, lengths, seen)
    planes, first = torch.autograd.grad(out.sum(), [layers.planes, layers.first])
    assert planes[0].any()
    assert not planes[1].any()
    assert not first[1].any()


def test_what_the_kernel_does_not_take() -> None:
    layers, rays = some_rays()
    owner, points, lengths, seen = rays
    for wrong in (
        replace(layers, planes=layers.planes[:, :2]),
        replace(layers, outer=layers.outer[:3]),
        replace(layers, first=layers.first[:1]),
        replace(layers, features=layers.first),
    ):
        with pytest.raises(ValueError, match="train_fields"):
            train_fields(wrong, *rays)
    with pytest.raises(ValueError, match="added"):
        train_fields(layers, owner, points, lengths, replace(seen, added=points))
    with pytest.raises(ValueError, match="lengths"):
        train_fields(layers, owner, points, lengths[:2], seen)
    with pytest.raises(ValueError, match="owner"):
        train_fields(layers, owner + 1, points, lengths, seen)
    assert load_native()
    assert can_train(torch.zeros(4, 32))
    assert not can_train(torch.zeros(4, 33))
    assert not can_train(torch.zeros(4, 32).double())


@pytest.mark.parametrize("index", range(8))
def test_a_nan_stays_visible(index: int) -> None:
    layers, rays = some_rays()
    with torch.no_grad():
        leaves_of(layers, rays[-1])[index].fill_(float("nan"))
    assert train_fields(layers, *rays)[:, 0].isnan().any()
