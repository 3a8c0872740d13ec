"""Laws of volume rendering, for the torch backend and, if they were built, for the native kernels."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from field_scenes import around, ball, field_of, fog, leaves, relative_error, render_with_gradients
from torch import Tensor

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.types import RadianceField, RenderOutput
from threedgen.kernels import why_absent
from threedgen.renderers.distortion import distortion
from threedgen.renderers.volume import VolumeRenderer
from threedgen.renderers.volumetric import camera_rays

DTYPES = [torch.float64] if why_absent() is not None else [torch.float64, torch.float32]
each_backend = pytest.mark.parametrize("dtype", DTYPES)


def render(field: RadianceField, size: int = 16, **config: object) -> RenderOutput:
    renderer = VolumeRenderer(VolumeRenderer.Config(**config))  # pyright: ignore[reportArgumentType]
    return renderer(field, around(size, size), torch.zeros(3))


@each_backend
@pytest.mark.parametrize("samples", [1, 7, 60])
@pytest.mark.parametrize("jitter", [None, 3])
def test_fog_follows_beer_and_lambert_for_any_number_of_samples(
    dtype: torch.dtype, samples: int, jitter: int | None
) -> None:
    density, color = 0.7, (0.2, 0.5, 0.9)
    field, cameras = fog(density, color, dtype), around(12, 12)
    rng = None if jitter is None else torch.Generator().manual_seed(jitter)
    renderer = VolumeRenderer(VolumeRenderer.Config(samples=samples, early_stop=0.0))
    output = renderer(field, cameras, torch.ones(3), rng)
    rays = camera_rays(cameras.to("cpu", dtype), field.bounds, None)
    way = (rays.ends - rays.starts).clamp(min=0).reshape(2, 12, 12, 1)
    alpha = 1 - torch.exp(-density * way)
    torch.testing.assert_close(output.alpha.double(), alpha, rtol=0, atol=1e-6)
    rgb = alpha * torch.tensor(color).double() + (1 - alpha)
    torch.testing.assert_close(output.rgb.double(), rgb, rtol=0, atol=1e-6)


@each_backend
def test_depth_is_camera_z_of_the_surface(dtype: torch.dtype) -> None:
    output = render(ball(500.0, 0.5, dtype), size=15, samples=800)
    assert output.depth is not None
    middle = output.depth[0, 7, 7, 0] / output.alpha[0, 7, 7, 0]
    assert float(middle) == pytest.approx(3.0 - 0.5, abs=0.12)  # the edge is soft over about 0.1
    assert float(output.alpha[0, 7, 7, 0]) == pytest.approx(1.0, abs=2e-3)
    assert float(output.alpha[0, 0, 0, 0]) < 1e-3


@each_backend
def test_normals_point_at_the_viewer_and_outwards(dtype: torch.dtype) -> None:
    output = render(ball(200.0, 0.6, dtype), size=15, samples=200, normals=True)
    assert output.normal is not None
    seen = output.normal[0, 7, 7].double()
    outward = torch.nn.functional.normalize(around(15, 15).centers[0].double(), dim=0)
    assert float(seen @ outward) > 0.98
    assert render(ball(200.0, 0.6, dtype), size=3).normal is None


@each_backend
def test_jitter_is_unbiased_and_repeatable_and_only_while_training(dtype: torch.dtype) -> None:
    field, cameras = ball(3.0, 0.6, dtype), around(6, 6)
    renderer = VolumeRenderer(VolumeRenderer.Config(samples=12, early_stop=0.0))

    def picture(seed: int | None) -> Tensor:
        return renderer(
            field, cameras, torch.zeros(3), None if seed is None else torch.Generator().manual_seed(seed)
        ).alpha

    assert torch.equal(picture(None), picture(None))
    assert torch.equal(picture(1), picture(1))
    assert not torch.equal(picture(1), picture(2))
    steady = VolumeRenderer(VolumeRenderer.Config(samples=12, early_stop=0.0, jitter=False))
    assert torch.equal(
        steady(field, cameras, torch.zeros(3), torch.Generator().manual_seed(1)).alpha, picture(None)
    )
    exact = VolumeRenderer(VolumeRenderer.Config(samples=2000, early_stop=0.0))(
        field, cameras, torch.zeros(3)
    )
    thickness = -torch.log1p(-torch.stack([picture(seed) for seed in range(200)])).mean(0)
    torch.testing.assert_close(thickness, -torch.log1p(-exact.alpha), rtol=0, atol=0.08)


@each_backend
def test_empty_cells_that_the_grid_leaves_out_change_nothing(dtype: torch.dtype) -> None:
    cells, field = 16, ball(20.0, 0.4, dtype)
    centres = (torch.arange(cells) + 0.5) / cells * 2 - 1
    grid = torch.stack(torch.meshgrid(centres, centres, centres, indexing="ij"), dim=-1)
    occupancy = grid.norm(dim=-1) < 0.4 + 0.5  # the density is below 2e-7 outside
    asked: list[int] = []

    def query(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(len(points))
        return field.query(points, directions)

    full = render(RadianceField(query, field.bounds), early_stop=0.0)
    everything, asked = sum(asked), []
    skipped = render(RadianceField(query, field.bounds, occupancy), early_stop=0.0)
    torch.testing.assert_close(skipped.rgb, full.rgb, rtol=0, atol=1e-5)
    assert sum(asked) < 0.5 * everything


@pytest.mark.skipif(why_absent() is not None, reason="no native kernels")
def test_what_lies_behind_a_surface_is_not_evaluated() -> None:
    asked: list[int] = []
    field = fog(200.0, (1.0, 0.0, 0.0), torch.float32)

    def query(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(len(points))
        return field.query(points, directions)

    render(RadianceField(query, field.bounds), size=48, samples=96)
    assert sum(asked) <= 2 * 48 * 48 * 8


@each_backend
@pytest.mark.parametrize("normals", [False, True])
def test_chunks_change_neither_pictures_nor_gradients(dtype: torch.dtype, normals: bool) -> None:
    options = {"samples": 20, "normals": normals, "early_stop": 0.01}
    whole = render_with_gradients(leaves(), around(9, 7), dtype, **options)
    chunked = render_with_gradients(leaves(), around(9, 7), dtype, memory=0.25, **options)
    for name, image in whole.images.items():
        torch.testing.assert_close(chunked.images[name], image, rtol=0, atol=1e-6)
    for name, gradient in whole.gradients.items():
        assert relative_error(chunked.gradients[name], gradient.double()) < 1e-5, name


def test_a_single_ray_beyond_the_memory_is_rendered_all_the_same() -> None:
    assert render(fog(1.0, (1, 1, 1)), size=2, memory=1e-6).alpha.min() >= 0


@each_backend
def test_a_background_picture_is_seen_behind(dtype: torch.dtype) -> None:
    cameras, picture = around(6, 8), torch.rand(2, 6, 8, 3)
    output = VolumeRenderer()(ball(50.0, 0.4, dtype), cameras, picture)
    empty = output.alpha[..., 0] < 1e-6
    assert empty.any()
    torch.testing.assert_close(output.rgb[empty], picture.to(dtype)[empty], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="background"):
        VolumeRenderer()(ball(50.0, 0.4, dtype), cameras, torch.rand(3, 6, 8, 3))


@each_backend
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_density_that_is_none_is_named(dtype: torch.dtype, value: float) -> None:
    with pytest.raises(ValueError, match=r"field\.query returned a density"):
        render(fog(value, (1, 1, 1), dtype))


@each_backend
def test_shapes_of_a_field_are_checked(dtype: torch.dtype) -> None:
    wrong = RadianceField(lambda p, d: (p[:, :1], p), fog(1.0, (1, 1, 1), dtype).bounds)
    with pytest.raises(ValueError, match=r"field\.query must return"):
        render(wrong)


@pytest.mark.parametrize(
    "config",
    [
        {"samples": 0},
        {"samples": 4097},
        {"early_stop": 1.0},
        {"early_stop": -0.1},
        {"early_stop": math.nan},
        {"memory": 0.0},
        {"memory": math.inf},
    ],
)
def test_bad_settings_are_the_users(config: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"^{next(iter(config))} is .* must be"):
        VolumeRenderer.Config(**config)  # type: ignore[arg-type]


def test_a_torch_backend_renders_float32_too() -> None:
    values = {name: value.float() for name, value in leaves().items()}
    pictures = [
        VolumeRenderer(VolumeRenderer.Config(backend=name))(
            field_of(values), around(8, 8), torch.zeros(3)
        ).rgb
        for name in ("auto", "torch")
    ]
    torch.testing.assert_close(pictures[0], pictures[1], rtol=0, atol=5e-3)  # early stop: 1e-3


def test_distortion_is_the_spread_of_a_haze_and_nothing_on_a_thin_wall() -> None:
    """A constant weight over the length L of the box: w^2 L / 3 for any number of samples."""
    renderer = VolumeRenderer(
        VolumeRenderer.Config(samples=400, distortion=True, jitter=False, early_stop=0.0)
    )
    cameras = orbit(torch.tensor([0.0]), torch.tensor([0.0]), torch.tensor([40.0]), 0.1, 1, 1)

    def spread(density: Callable[[Tensor], Tensor]) -> float:
        def query(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
            return density(points[:, 2]), torch.ones_like(points)

        field = RadianceField(query, torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]).double())
        output = renderer(field, cameras, torch.zeros(3))
        assert output.distortion is not None
        return float(output.distortion / output.alpha.square())

    thin = 1e-4  # so little density that nothing hides anything: equal weights along the ray
    length = 2.0 / 12.0**0.5  # the length of the box along z, in diagonals
    assert spread(lambda z: torch.full_like(z, thin)) == pytest.approx(length / 3, rel=1e-3)
    assert spread(lambda z: 1e4 * (z.abs() < 0.003).to(z)) < 0.005


def test_memory_does_not_change_the_distortion() -> None:
    pictures = []
    for memory in (1500.0, 0.05):
        config = VolumeRenderer.Config(distortion=True, memory=memory, jitter=False)
        output = VolumeRenderer(config)(field_of(leaves()), around(8, 8), torch.zeros(3))
        pictures.append(output.distortion)
    torch.testing.assert_close(pictures[0], pictures[1])


def test_distortion_is_its_double_sum_and_zero_for_one_thin_sample() -> None:
    draw = torch.Generator().manual_seed(0)
    counts = torch.tensor([5, 0, 3, 1])
    ray = torch.repeat_interleave(torch.arange(4), counts)
    weights = torch.rand(9, generator=draw, dtype=torch.float64).requires_grad_()
    lengths = 0.1 * torch.rand(9, generator=draw, dtype=torch.float64)
    middles = torch.cat([torch.rand(int(n), generator=draw).double().sort().values for n in counts])
    got = distortion(weights, middles, lengths, ray, 4)
    truth = torch.zeros(4, dtype=torch.float64)
    for r in range(4):
        w, m, d = (value[ray == r] for value in (weights, middles, lengths))
        truth[r] = (w[:, None] * w * (m[:, None] - m).abs()).sum() + (w.square() * d).sum() / 3
    torch.testing.assert_close(got, truth)
    torch.testing.assert_close(
        torch.autograd.grad(got.sum(), weights)[0], torch.autograd.grad(truth.sum(), weights)[0]
    )
    assert float(got[1].detach()) == 0.0
