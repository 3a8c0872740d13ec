"""A film as guidance: aligned with the render it moves the scene along its path; and the views that show it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from threedgen.cameras.clips import ClipSampler
from threedgen.cameras.film import FilmedClips, FilmedOrbit, FilmPose, film_views
from threedgen.cameras.orbit import orbit
from threedgen.cameras.reference import free_views
from threedgen.core.errors import UserError
from threedgen.core.types import Cameras, Frames, GaussianCloud, RenderOutput
from threedgen.datasets.films import Film, read_film, write_film
from threedgen.guidance.reference_film import AlignedFilm, ReferenceFilm, places
from threedgen.loop.distill import distill
from threedgen.renderers.splatting import SplattingRenderer
from threedgen.representations import trajectory
from threedgen.representations.dynamic_gaussians import Config, DynamicGaussians

PICTURES, SIZE = 9, 48
POSE = FilmPose(azimuth=20.0, elevation=10.0)


def ball(count: int = 80) -> GaussianCloud:
    """A ball of radius 0.7, two-coloured."""
    rng = torch.Generator().manual_seed(0)
    points = F.normalize(torch.randn(count, 3, generator=rng), dim=1)
    points = 0.7 * points * torch.rand(count, 1, generator=rng) ** (1 / 3)
    color = torch.where(points[:, :1] > 0, torch.tensor([1.5, -1.5, -1.5]), torch.tensor([-1.5, -1.5, 1.5]))
    quats = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1)
    return GaussianCloud(
        points, quats, torch.full((count, 3), 0.12), torch.full((count,), 0.9), color[:, None]
    )


def path(times: torch.Tensor) -> torch.Tensor:
    """[T, 3]: up and to the right in the film, and further than the ball is wide."""
    turn = math.radians(POSE.azimuth)
    right = torch.tensor([math.cos(turn), 0.0, -math.sin(turn)])
    up = torch.tensor([0.0, 1.0, 0.0])
    return 0.9 * times[:, None] * right + 0.6 * (math.pi * times).sin()[:, None] * up


def moving(times: torch.Tensor) -> Frames:
    cloud = ball()
    frames = [
        GaussianCloud(cloud.means + shift, cloud.quats, cloud.scales, cloud.opacities, cloud.sh)
        for shift in path(times)
    ]
    return Frames(tuple(frames), torch.arange(len(times)), times)


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """A folder with the film of the true motion, larger than the renders and from a nearer camera."""
    pose = FilmPose(POSE.azimuth, POSE.elevation, POSE.distance, fov=36.0)
    cameras = film_views(pose, range(PICTURES), PICTURES, 96)
    seen = SplattingRenderer(SplattingRenderer.Config())(moving(cameras.time), cameras, torch.ones(3))
    alpha = seen.alpha
    rgb = ((seen.rgb - (1.0 - alpha)) / alpha.clamp_min(1e-3)).clamp(0.0, 1.0)
    rgba = (255.0 * torch.cat([rgb, alpha], dim=3)).round().to(torch.uint8).numpy()
    folder = tmp_path_factory.mktemp("film") / "film"
    write_film(folder, Film(rgba, PICTURES, 0.1, ""))
    return str(folder)


def sampler(**more: object) -> FilmedClips:
    config = {"batch": 1, "frames": 2, "resolution": SIZE, "film": POSE, "pictures": PICTURES, **more}
    return FilmedClips(FilmedClips.Config(**config))  # type: ignore[arg-type]


def projected(points: torch.Tensor, size: int = 2) -> torch.Tensor:
    """[T, 2]: points in the picture of the camera of the film, in pixels."""
    camera = film_views(POSE, [0], 2, size)
    seen = points @ camera.camera_from_world[0, :3, :3].T + camera.camera_from_world[0, :3, 3]
    return (seen @ camera.intrinsics[0].T)[:, :2] / seen[:, 2:]


def test_a_film_alone_brings_what_moves_along_its_path(filmed):
    """Without a prior, and with an asset at rest in the pose of the first picture, the deformation recovers the
    path in the picture; one view hardly determines the distance."""
    config = Config(trajectory=trajectory.Config(degree=2, terms=1, learning_rate=0.02), learning_rate=1e-3)
    scene = DynamicGaussians(config, 0, ball())
    guide = ReferenceFilm(ReferenceFilm.Config(film=filmed))
    renderer = SplattingRenderer(SplattingRenderer.Config())
    views = sampler(shown=3)

    def only_the_film(seed: int, step: int, total: int) -> Cameras:
        cameras = views(seed, step, total)
        assert cameras.index is not None
        return cameras[(cameras.index >= 0).nonzero().squeeze(1)]

    white = torch.ones(3)
    distill(scene, renderer, only_the_film, [guide], "a ball", steps=60, background=lambda seed, step: white)
    times = torch.linspace(0.0, 1.0, 9)
    found = scene.moved(times).detach().mean(1)
    true = scene.means.mean(0) + path(times)
    far = torch.linalg.vector_norm(projected(found) - projected(true), dim=1)
    moved = torch.linalg.vector_norm(projected(true) - projected(true[:1]), dim=1).mean()
    assert float(far.mean()) < 0.1 * float(moved), (far, moved)
    assert float((found - true)[:, 1].abs().max()) < 0.25
    with torch.no_grad():
        output = renderer(scene.at(views.filmed().time), views.filmed(), white)
    scores = guide.scores(output, views.filmed())
    assert scores["film_mask_iou"] > 0.85
    assert scores["film_psnr"] > 20.0


def test_the_film_is_laid_over_the_render(filmed):
    """Its focal length, size and position may differ from those of the renders: at rest both objects have the
    same mean position and spread, and an object with the true motion looks like the film."""
    views = sampler().filmed()
    output = SplattingRenderer(SplattingRenderer.Config())(moving(views.time), views, torch.ones(3))
    guide = ReferenceFilm(ReferenceFilm.Config(film=filmed))
    image, alpha = guide.targets(output, views)
    for one, other in zip(places(alpha), places(output.alpha), strict=True):
        torch.testing.assert_close(one, other, atol=0.02, rtol=0.03)
    assert guide.scores(output, views)["film_mask_iou"] > 0.9
    assert float((image[0] - output.rgb[0]).abs().mean()) < 0.02
    right = guide(output, views, "", 0, 1, 0).loss
    still = RenderOutput(output.rgb[:1].expand_as(output.rgb), output.alpha[:1].expand_as(output.alpha))
    assert float(guide(still, views, "", 0, 1, 0).loss) > 20.0 * float(right)


def test_moving_or_enlarging_the_pictures_of_a_film_changes_nothing(filmed, tmp_path):
    frames = read_film(filmed)
    inside = F.pad(frames, (0, 0, 40, 8, 24, 24))
    rgb = inside[..., :3] / inside[..., 3:].clamp_min(1e-3)
    rgba = (255.0 * torch.cat([rgb, inside[..., 3:]], dim=3)).round().to(torch.uint8).numpy()
    write_film(tmp_path / "film", Film(rgba, PICTURES, 0.1, ""))
    views = sampler().filmed()
    output = SplattingRenderer(SplattingRenderer.Config())(moving(views.time), views, torch.ones(3))
    told = torch.arange(PICTURES)
    first, second = (
        AlignedFilm(str(folder)).over(output.alpha[0], told, SIZE)[1]
        for folder in (filmed, tmp_path / "film")
    )
    assert float((first - second).abs().mean()) < 5e-3


def test_the_place_of_a_square_is_its_middle():
    alpha = torch.zeros(2, 20, 20, 1)
    alpha[0, 4:8, 10:14] = 1.0
    middle, spread, seen = places(alpha)
    torch.testing.assert_close(middle[0], torch.tensor([0.2, -0.4]))
    torch.testing.assert_close(spread[0], torch.tensor(math.sqrt(2 * (4**2 - 1) / 12) / 10.0))
    torch.testing.assert_close(seen, torch.tensor([16 / 400, 0.0]))


def test_pictures_that_do_not_overlap_still_pull(filmed):
    """The mean position has a useful gradient at any distance from its target."""
    view = sampler().filmed()[:1]
    guide = ReferenceFilm(ReferenceFilm.Config(film=filmed, rgb=0.0, mask=0.0))
    two = film_views(POSE, [0, PICTURES - 1], PICTURES, SIZE)
    rest = SplattingRenderer(SplattingRenderer.Config())(ball(), view, torch.ones(3))
    shift = torch.zeros(3, requires_grad=True)
    cloud = ball()
    far = GaussianCloud(cloud.means + shift, cloud.quats, cloud.scales, cloud.opacities, cloud.sh)
    later = SplattingRenderer(SplattingRenderer.Config())(far, view, torch.ones(3))
    both = RenderOutput(torch.cat([rest.rgb, later.rgb]), torch.cat([rest.alpha, later.alpha]))
    guide(both, two, "", 0, 1, 0).loss.backward()
    assert shift.grad is not None
    towards = F.cosine_similarity(-shift.grad, path(torch.ones(1))[0], dim=0)
    assert float(towards) > 0.9


def test_the_views_of_a_step():
    views = sampler(shown=3)
    cameras = views(0, 7, 100)
    assert len(cameras) == 2 + 1 + 3
    assert cameras.index is not None
    assert cameras.index[:2].tolist() == [-1, -1]
    known = cameras.index[2:]
    assert known[0] == 0
    assert bool((known[1:] > known[:-1]).all())
    torch.testing.assert_close(cameras.time[2:], known / (PICTURES - 1))
    torch.testing.assert_close(views(0, 7, 100).time, cameras.time)
    plain = ClipSampler(ClipSampler.Config(batch=1, frames=2, resolution=SIZE))(0, 7, 100)
    torch.testing.assert_close(cameras.world_from_camera[:2], plain.world_from_camera)
    output = RenderOutput(torch.rand(6, 4, 4, 3), torch.rand(6, 4, 4, 1))
    assert len(free_views(output, cameras)[1]) == 2
    expected = orbit(torch.tensor([20.0]), torch.tensor([10.0]), torch.tensor([4.9]), 40.0, SIZE, SIZE)
    torch.testing.assert_close(cameras.world_from_camera[2], expected.world_from_camera[0])


def test_all_views_of_an_orbit_are_of_one_moment_of_the_film():
    views = FilmedOrbit(FilmedOrbit.Config(batch=4, resolution=16, pictures=PICTURES))
    moments = set()
    for step in range(12):
        cameras = views(3, step, 12)
        assert cameras.index is not None
        shown = cameras.index[4:].tolist()
        assert shown[0] == 0
        assert len(set(cameras.time[:4].tolist())) == 1
        assert float(cameras.time[0]) == shown[-1] / (PICTURES - 1)
        moments.add(shown[-1])
    assert len(moments) > 2


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ReferenceFilm(ReferenceFilm.Config()), "names no film"),
        (lambda: ReferenceFilm(ReferenceFilm.Config(film="nowhere")), "there is no film 'nowhere'"),
        (lambda: ReferenceFilm.Config(rgb=0, mask=0, place=0), "one of them must be positive"),
        (lambda: ReferenceFilm.Config(rgb=-1.0), "rgb is -1; it must be at least 0"),
        (lambda: FilmedClips.Config(pictures=1), "pictures is 1; it must be at least 2"),
        (lambda: FilmedClips.Config(shown=0), "shown is 0; it must be at least 1"),
        (lambda: FilmedOrbit.Config(pictures=0), "pictures is 0; it must be at least 2"),
    ],
)
def test_settings_that_cannot_be(make, said):
    with pytest.raises(UserError, match=said):
        make()


def test_views_that_do_not_belong_to_the_film_are_refused(filmed):
    guide = ReferenceFilm(ReferenceFilm.Config(film=filmed))
    cameras = film_views(POSE, [0, 10], 12, 16)
    output = RenderOutput(torch.ones(2, 16, 16, 3), torch.full((2, 16, 16, 1), 0.5))
    with pytest.raises(UserError, match=r"the film has 9 pictures: set cameras\.pictures=9"):
        guide(output, cameras, "", 0, 1, 0)
    empty = RenderOutput(torch.ones(2, 16, 16, 3), torch.zeros(2, 16, 16, 1))
    with pytest.raises(UserError, match="set --video-view"):
        guide(empty, film_views(POSE, [0, 4], 5, 16), "", 0, 1, 0)
    clips = ClipSampler(ClipSampler.Config(batch=1, frames=2, resolution=16))(0, 0, 1)
    with pytest.raises(UserError, match=r"needs cameras\.name=filmed-clips"):
        guide(empty, clips, "", 0, 1, 0)


def test_a_film_goes_along_with_the_render_at_rest(filmed):
    """If the asset is further to the right and lower in the render, so is the whole film."""
    view = sampler().filmed()[:1]
    rest = SplattingRenderer(SplattingRenderer.Config())(ball(), view, torch.ones(3)).alpha[0]
    film, told = AlignedFilm(filmed), torch.arange(3)
    aside = rest.roll((5, 3), (0, 1))
    _, alpha = film.over(rest, told, SIZE)
    _, moved = film.over(aside, told, SIZE)
    torch.testing.assert_close(moved[:, 5:, 3:], alpha[:, :-5, :-3], atol=1e-3, rtol=0)
