"""SceneFile files, where and when what they name moves, and the clouds put together."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from splatting_scenes import cameras_around, random_cloud
from torch import nn

from threedgen.composition import composition
from threedgen.composition.composition import Composition, Track, handovers, joined
from threedgen.composition.path import places
from threedgen.composition.scene_file import Asset, Key, Route, SceneFile, Segment, read_scene
from threedgen.core.errors import UserError
from threedgen.core.transforms import covariances, transform
from threedgen.core.types import Frames, GaussianCloud
from threedgen.export.animation import Timing
from threedgen.export.mesh import MeshConfig
from threedgen.recipes import typed
from threedgen.renderers.splatting import SplattingRenderer
from threedgen.representations import deformation
from threedgen.representations.dynamic_gaussians import Config, DynamicGaussians
from threedgen.representations.extension import Closed, Handover
from threedgen.representations.extension import Config as After

SMALL = deformation.Config(width=8, depth=1)


class Going(nn.Module):
    """time^2 along an axis: fastest at its end."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.register_buffer("way", torch.eye(3)[axis])

    def forward(self, points, times):
        return (times**2)[:, None, None] * self.way + torch.zeros_like(points)


def body(count: int = 20, field: nn.Module | None = None, seed: int = 0, degree: int = 1) -> DynamicGaussians:
    made = DynamicGaussians(Config(deformation=SMALL), 0, random_cloud(count, degree, seed))
    if field is not None:
        made.field = field
    return made


def composed(scene: SceneFile, *bodies: list[DynamicGaussians]) -> Composition:
    return Composition(composition.Config(scene, SMALL), bodies)


def frames(of: Composition, *times: float) -> list[GaussianCloud]:
    moving = of.at(torch.tensor(times))
    assert isinstance(moving, Frames)
    return [frame for frame in moving.frames if isinstance(frame, GaussianCloud)]


def at_rest(of: Composition) -> GaussianCloud:
    cloud = of.at(None)
    assert isinstance(cloud, GaussianCloud)
    return cloud


TWO = Asset("a", "a cube", motion=(Segment("sliding", 1.0), Segment("spinning", 3.0, overlap=0.5)), begin=0.5)


def test_motions_follow_each_other_and_overlap():
    assert TWO.overlaps == (0.0, 0.5)
    assert TWO.starts == (0.0, 0.5)
    assert TWO.lasts == 3.5
    assert SceneFile((TWO,)).length == 4.0
    free = Asset("a", "x", motion=(Segment("p", 1.0), Segment("q", 4.0), Segment("r", 2.0)))
    assert free.overlaps == (0.0, 0.5, 1.0)  # half of the shorter of two
    assert free.starts == (0.0, 0.5, 3.5)


@given(st.lists(st.floats(0.2, 5.0), min_size=1, max_size=5))
def test_overlaps_that_nobody_names_can_always_be_met(lengths):
    asset = Asset("a", "x", motion=tuple(Segment("m", length) for length in lengths))
    assert asset.lasts == pytest.approx(sum(lengths) - sum(asset.overlaps))
    assert all(late >= early for early, late in itertools.pairwise(asset.starts))


def two_motions(scene: SceneFile | None = None) -> Track:
    own, after = Going(1), After("x", 0.5 / 3.0, 0.5)
    return Track(
        scene or SceneFile((TWO,)), TWO, [body(field=Going(0)), body(field=Handover(after, Going(0), own))]
    )


def test_each_motion_has_its_time():
    track = two_motions()
    times = torch.tensor([0.0, 0.5, 0.75, 1.0, 1.5, 2.5, 4.0]) / 4.0
    moved = track.offsets(times)[:, 0]
    assert torch.equal(moved[:2], torch.zeros(2, 3))  # it begins after half a second
    torch.testing.assert_close(moved[2], torch.tensor([0.25**2, 0.0, 0.0]))
    torch.testing.assert_close(moved[3], torch.tensor([0.25, 0.0, 0.0]))  # where the other sets in
    for index, share in ((4, 0.5 / 3.0), (5, 0.5), (6, 1.0)):
        torch.testing.assert_close(moved[index], torch.tensor([0.0, share**2, 0.0]))


def test_a_handover_does_not_jump_and_a_cut_would():
    (smooth,) = handovers(two_motions(), 24.0)
    assert smooth.jump <= 0.25 * smooth.median_step
    cut = Track(SceneFile((TWO,)), TWO, [body(field=Going(0)), body(field=Going(1))])
    (sudden,) = handovers(cut, 24.0)
    assert sudden.jump > 5.0 * sudden.median_step


def test_a_loop_of_an_asset_is_played_again_and_again():
    asset = Asset("a", "x", motion=(Segment("m", 1.0),), loop=0.5, begin=0.5)
    track = Track(SceneFile((asset,), seconds=3.0), asset, [body(field=Closed(Going(0), 0.5))])
    moved = track.offsets(torch.tensor([0.25, 0.9, 1.9, 2.9, 1.5, 2.5]) / 3.0)
    assert torch.equal(moved[0], torch.zeros_like(moved[0]))
    assert float(moved[1].abs().max()) > 0.1
    torch.testing.assert_close(moved[1], moved[2])
    torch.testing.assert_close(moved[1], moved[3])
    assert float(moved[4:].abs().max()) < 1e-5


def test_a_scene_that_loops_ends_as_it_began():
    route = Route((Key(0.0), Key(3.9, at=(1.0, 0.5, 0.0), turn=300.0, scale=2.0)))
    scene = SceneFile((replace(TWO, path=route), Asset("b", "y", at=(0.0, 1.0, 0.0))), loop=1.0)
    track = two_motions()
    of = composed(scene, [track.body(0), track.body(1)], [body(7, degree=0)])
    first, before, last = frames(of, 0.0, 0.75, 1.0)
    for name in ("means", "scales", "sh"):
        torch.testing.assert_close(getattr(last, name), getattr(first, name), atol=1e-5, rtol=0)
    torch.testing.assert_close(covariances(last), covariances(first), atol=1e-5, rtol=0)
    assert float((before.means - first.means).norm(dim=1).max()) > 0.5
    fine = of.moved(torch.linspace(0.7, 1.0, 200)).diff(dim=0).norm(dim=2)
    assert float(fine.max()) < 0.1
    # 300 degrees come home over 360, not back over all that they went
    turned = places(scene, scene.assets[0], torch.tensor([0.98])).rotation[0]
    assert 300.0 < math.degrees(math.atan2(float(turned[0, 2]), float(turned[0, 0]))) % 360.0 < 360.0


@given(st.floats(-720.0, 720.0), st.floats(0.2, 3.0), st.tuples(*[st.floats(-2.0, 2.0)] * 3))
def test_an_asset_is_put_as_its_similarity_says(turn, scale, at):
    asset = Asset("a", "x", at=at, turn=turn, scale=scale, axis=(0.0, 2.0, 0.0))
    of = composed(SceneFile((asset,), seconds=1.0), [body(degree=2)])
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    matrix = torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
    expected = transform(random_cloud(20, 2), matrix, torch.tensor(at), scale)
    for cloud in (at_rest(of), *frames(of, 0.3)):
        torch.testing.assert_close(cloud.means, expected.means, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(covariances(cloud), covariances(expected), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(cloud.sh, expected.sh, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(of.moved(torch.tensor([0.7]))[0], expected.means, atol=1e-5, rtol=1e-5)


def test_paths_go_through_their_points_and_not_beyond_them():
    keys = (Key(1.0, at=(0.0, 0.0, 0.0)), Key(2.0, at=(1.0, 0.0, 0.0), turn=90.0), Key(4.0, scale=4.0))
    for kind in ("smooth", "linear"):
        asset = Asset("a", "x", at=(0.5, 0.5, 0.5), path=Route(keys, kind))
        scene = SceneFile((asset,), seconds=5.0)
        where = places(scene, asset, torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]) / 5.0)
        torch.testing.assert_close(where.at[:2], torch.zeros(2, 3), atol=1e-6, rtol=0)
        torch.testing.assert_close(where.at[2], torch.tensor([1.0, 0.0, 0.0]))
        torch.testing.assert_close(where.at[4:], torch.full((2, 3), 0.5))
        torch.testing.assert_close(where.scale[[1, 2, 4]], torch.tensor([1.0, 1.0, 4.0]))
        if kind == "linear":
            torch.testing.assert_close(where.at[3], torch.tensor([0.75, 0.25, 0.25]))
            assert float(where.scale[3]) == pytest.approx(2.0)
        inside = places(scene, asset, torch.linspace(0.0, 1.0, 101))
        assert float(inside.at[:, 0].max()) <= 1.0 + 1e-6
        assert float(inside.at.min()) >= -1e-6


def three() -> Composition:
    path = Route((Key(0.0, at=(0.8, 0.0, 0.0)), Key(4.0, at=(0.8, 0.8, 0.0))))
    assets = (
        replace(TWO, at=(-0.8, 0.0, 0.0), scale=0.4),
        Asset("b", "y", scale=0.3),
        Asset("c", "z", scale=0.4, path=path),
    )
    track = two_motions()
    return composed(
        SceneFile(assets), [track.body(0), track.body(1)], [body(30, seed=1, degree=0)], [body(25, seed=2)]
    )


def test_three_assets_are_one_scene_of_which_one_stays():
    of = three()
    assert len(of) == len(of.means) == 75
    torch.testing.assert_close(of.means, at_rest(of).means)
    times = torch.tensor([0.0, 0.4, 1.0])
    moved = of.moved(times)
    for moment, cloud in zip(moved, frames(of, *times.tolist()), strict=True):
        torch.testing.assert_close(cloud.means, moment, atol=1e-6, rtol=1e-5)
    away = (moved[1:] - moved[0]).norm(dim=2).amin(0)
    assert float(away[20:50].max()) == 0.0
    assert float(away[:20].min()) > 1e-3
    assert float(away[50:].min()) > 0.1
    views = replace(cameras_around(16, 16), time=torch.tensor([1.0, 0.0, 0.4]))
    pictures = SplattingRenderer()(of.at(views.time), views, torch.ones(3)).rgb
    assert pictures.shape == (3, 16, 16, 3)
    alone = SplattingRenderer()(frames(of, 1.0)[0], views[:1], torch.ones(3)).rgb
    torch.testing.assert_close(pictures[:1], alone)


def test_the_whole_comes_back_from_its_state():
    fresh = [
        [DynamicGaussians(Config(deformation=SMALL), 0, random_cloud(12))],
        [body(9, seed=3, degree=0)],
    ]
    scene = SceneFile((Asset("a", "x", motion=(Segment("m", 1.0),)), Asset("b", "y", at=(1.0, 0.0, 0.0))))
    of = composed(scene, *fresh)
    for parameter in of.parameters():
        nn.init.normal_(parameter, std=0.3)
    config = typed.build(composition.Config, typed.plain(of.config), "")
    blank = Composition.blank(config)
    blank.load_state_dict(of.state_dict())
    times = torch.linspace(0.0, 1.0, 5)
    assert torch.equal(blank.moved(times), of.moved(times))
    assert not list(of.parameter_groups())


def test_each_asset_has_a_surface_of_its_own():
    """Two balls that touch, one of which flies off: no triangle is between them, and a small one is kept."""

    def ball(radius: float) -> GaussianCloud:
        rng = torch.Generator().manual_seed(0)
        points = nn.functional.normalize(torch.randn(150, 3, generator=rng), dim=1) * radius
        one = torch.ones(150)
        turns = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(150, 1)
        return GaussianCloud(
            points, turns, 0.2 * radius * torch.ones(150, 3), 0.95 * one, torch.zeros(150, 1, 3)
        )

    bodies = [[DynamicGaussians(Config(deformation=SMALL), 0, ball(r))] for r in (0.5, 0.05)]
    route = Route((Key(0.0, at=(0.55, 0.0, 0.0)), Key(1.0, at=(3.0, 0.0, 0.0))), "linear")
    of = composed(SceneFile((Asset("a", "x"), Asset("b", "y", path=route))), *bodies)
    timing = Timing(1.0, 2.0)
    mesh, motion = of.surface(MeshConfig(resolution=24, faces=600), of.moved(timing.moments()), timing)
    assert 200 < len(mesh.faces) <= 600
    lengths = [
        (frame[mesh.faces[:, 0]] - frame[mesh.faces[:, 1]]).norm(dim=1).max() for frame in motion.vertices
    ]
    assert float(lengths[-1]) == pytest.approx(float(lengths[0]), abs=1e-5)
    flown = motion.vertices[-1, :, 0] > 2.0
    assert 20 < int(flown.sum()) <= len(mesh.vertices) / 2
    assert mesh.vertex_colors is not None


def test_colours_without_directions_are_put_beside_others():
    one = joined([random_cloud(3, 0), random_cloud(4, 2)])
    assert one.sh.shape == (7, 9, 3)
    assert torch.equal(one.sh[:3, 1:], torch.zeros(3, 8, 3))


GOOD = """
fps: 10
assets:
  - name: cube
    prompt: a red cube
    motion: [{prompt: sliding, seconds: 1}, {prompt: spinning, seconds: 2, overlap: 0.5}]
  - {name: mug, asset: things/mug.ply, at: [1, 0, 0], path: {points: [{time: 0}, {time: 2.5, turn: 90}]}}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "scene.yaml"
    path.write_text(text)
    return path


def test_a_scene_file_is_read_with_paths_from_its_own_folder(tmp_path):
    scene = read_scene(written(tmp_path, GOOD))
    assert scene.length == 2.5
    assert scene.assets[1].asset == str(tmp_path / "things/mug.ply")
    assert scene.assets[1].path is not None
    assert scene.assets[1].path.points[1].turn == 90.0
    assert typed.build(SceneFile, typed.plain(scene), "") == scene


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("fps: 10", "fps: 0", "fps is 0; it must be greater than 0"),
        ("fps: 10", "fsp: 10", "unknown key 'fsp', did you mean 'fps'?"),
        ("turn: 90", "trun: 90", r"unknown key 'assets.1.path.points.1.trun', did you mean"),
        ("overlap: 0.5", "overlap: 1.5", "'sliding' and 'spinning' is longer than 'sliding', 1 seconds"),
        ("overlap: 0.5", "overlap: 0", "assets.0.motion.1.overlap is 0; it must be greater than 0"),
        (
            "sliding, seconds: 1",
            "sliding, seconds: 1, overlap: 1",
            "cannot have an overlap: no motion runs before it",
        ),
        ("sliding, seconds: 1", "sliding, seconds: .nan", "seconds is nan"),
        ("overlap: 0.5}]", "overlap: 0.5}, {prompt: growing, overlap: 1.8}]", "must not overlap each other"),
        ("prompt: sliding", "prompt: ' '", "the prompt of a motion is empty"),
        ("prompt: sliding", "prompt: 3", "'assets.0.motion.0.prompt' must be text"),
        ("{prompt: sliding, seconds: 1}", "{seconds: 1}", "'assets.0.motion.0.prompt' is missing"),
        ("fps: 10", "seconds: 2", "'cube' moves until 2.5 seconds, but the scene ends at 2"),
        ("time: 2.5", "time: 9\nseconds: 3", "could not|is not a YAML"),
        ("{time: 0}", "{time: -1}", "begins at -1 seconds, but the scene lasts from 0 to 2.5"),
        ("{time: 0}", "{time: 2.5}", "times of the path must rise, got 2.5, 2.5"),
        ("points: [{time: 0}, {time: 2.5, turn: 90}]", "points: []", "the path has no points"),
        ("name: mug", "name: Cube", "two assets are called 'cube'"),
        ("name: mug", "name: ../mug", "'../mug' cannot be the name of a folder"),
        ("name: mug", "name: ''", "'' cannot be the name of a folder"),
        ("asset: things/mug.ply, ", "", "'mug' has neither a prompt nor an asset"),
        ("at: [1, 0, 0]", "at: [1, 0]", "'assets.1.at' needs 3 values"),
        ("at: [1, 0, 0]", "scale: 0", "scale is 0; it must be greater than 0"),
        ("at: [1, 0, 0]", "axis: [0, 0, 0]", "axis is 0 0 0, which has no direction"),
        ("at: [1, 0, 0]", "begin: -1", "begin is -1; it must be at least 0"),
        ("at: [1, 0, 0]", "loop: 1", "at most the 0 seconds in which the last motion"),
        ("fps: 10", "loop: 7", "loop is 7; it must be at most the 2.5 seconds"),
    ],
)
def test_what_is_wrong_with_a_scene_is_said(old, new, said, tmp_path):
    assert old in GOOD
    with pytest.raises(UserError, match=said) as caught:
        read_scene(written(tmp_path, GOOD.replace(old, new)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a scene file: expected keys and values"),
        ("assets: []", "the scene has no assets"),
        ("fps: 3", "'assets' is missing"),
        ("assets: [", "is not a YAML file"),
        ("assets: [{name: a, prompt: b}]", "nothing moves in the scene: set seconds"),
        ("assets: !!python/object/apply:os.system [true]", "is not a YAML file"),
    ],
)
def test_what_is_no_scene_is_said(text, said, tmp_path):
    with pytest.raises(UserError, match=said):
        read_scene(written(tmp_path, text))


def test_a_scene_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match="cannot read the scene"):
        read_scene(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"assets: \xff")
    with pytest.raises(UserError, match="is not a YAML file"):
        read_scene(tmp_path / "latin.yaml")


def test_the_example_is_a_scene():
    scene = read_scene(Path(__file__).parents[2] / "examples/three_assets.yaml")
    assert [asset.name for asset in scene.assets] == ["cube", "mug", "ball"]
    assert scene.length == 5.0
