"""A mesh of drawn normals with drawn colours in its texture, from the command to the file."""

from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from threedgen.cameras.orbit import orbit
from threedgen.commands.main import main
from threedgen.core.types import TriMesh
from threedgen.datasets.cut_outs import DISTANCE
from threedgen.datasets.world import render_normals
from threedgen.export.painting import colored
from threedgen.export.views import View
from threedgen.guidance.priors.adapters.pixel_multiview import Folded
from threedgen.guidance.priors.load import EMBEDDED_PICTURE_WEIGHTS
from threedgen.guidance.priors.picture_field import load_picture_field
from threedgen.recipes.load import load_recipe
from threedgen.reconstruction.normal_mesh import OnMesh, views_on
from threedgen.renderers.mesh import MeshRenderer
from threedgen.training.config import MultiViewTrainingConfig
from threedgen.training.multiview_model import MultiViewModel, save_multiview_pipeline
from threedgen.training.multiview_trainer import MultiViewTrainer, group_guides
from threedgen.training.prior_model import PriorArchitecture
from threedgen.training.ring_bank import RingBatch
from threedgen.training.things_store import cameras_of
from threedgen.training.view_bank import on_white

ARCHITECTURE = PriorArchitecture(
    size=8, channels=(16, 32), attention=(False, True), embedding=32, text_width=16, text_layers=1
)
FAST = [
    *("--steps", "2", "export.turntable.frames=2", "export.turntable.size=32", "representation.sampling=3"),
    *("representation.fusion.voxel=0.15", "representation.fusion.rounds=1", "representation.fusion.steps=3"),
    "representation.texture_size=64",
]
RADIUS = 0.75


def _ball() -> TriMesh:
    body = trimesh.creation.icosphere(3, RADIUS)
    vertices = torch.tensor(body.vertices).float()
    return TriMesh(vertices, torch.tensor(body.faces).long(), normals=vertices / RADIUS)


class _BallBank:
    """The views of one ball, a red picture of it and its normals, from any turn."""

    def __len__(self) -> int:
        return 4

    def batch(self, count: int, seed: int, step: int, views: int = 4) -> RingBatch:
        turn = 360.0 * torch.rand(count, 1, generator=torch.Generator().manual_seed(step))
        around = turn + 90.0 * torch.arange(views)
        angles = torch.stack([around, 0.0 * around, torch.full_like(around, DISTANCE)], dim=-1)
        maps = render_normals(_ball(), cameras_of(angles.flatten(0, 1), 16)).unflatten(0, (count, views))
        red = torch.tensor([0.8, 0.15, 0.15, 1.0]) * maps[:, 0, ..., 3:]
        return RingBatch(red, angles[:, 0], maps, angles, maps[:, :0], angles[:, :0], ("",) * count)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folders of a prior that has learnt the normals of a ball, and of one of colours with random weights."""
    folder = tmp_path_factory.mktemp("models")
    field = load_picture_field(EMBEDDED_PICTURE_WEIGHTS / "field")
    torch.manual_seed(0)
    config = MultiViewTrainingConfig(
        steps=60,
        batch=2,
        warmup=5,
        learning_rate=5e-3,
        decay=0.5,
        ema=0.9,
        precision="fp32",
        shows="normals",
        text_dropout=1.0,
        every_six=10**6,
        every_orbit=10**6,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("threedgen.training.multiview_trainer.for_size", lambda size: ARCHITECTURE)
        trainer = MultiViewTrainer(config, 16, folder / "run", field)
        bank: Any = _BallBank()
        first = bank.batch(config.batch, 0, 0)
        picture = 2.0 * on_white(first.picture).permute(0, 3, 1, 2) - 1.0
        known = group_guides(trainer.model, picture, first.angles, first.picture_angles)
        # What the field shows of a ball is the same in every step.
        patch.setattr("threedgen.training.multiview_trainer.group_guides", lambda *_: known)
        while trainer.step < config.steps:
            trainer.train_step(trainer.next_batch(bank))
    save_multiview_pipeline(trainer.average, folder / "normals", torch.float32)
    colours = MultiViewModel(ARCHITECTURE, field)
    save_multiview_pipeline(colours, folder / "colours", torch.float32)
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "ball.png"
    y, x = np.mgrid[:48, :48]
    inside = (x - 24) ** 2 + (y - 24) ** 2 < 18**2
    rgba = np.zeros((48, 48, 4), np.uint8)
    rgba[inside] = (200, 40, 40, 255)
    Image.fromarray(rgba).save(path)
    return path


def _command(models, picture, run, *more):
    normals = f"representation.normals={models / 'normals'}"
    return [
        *("image-to-3d", str(picture), "--recipe", "direct2.5", "--out", str(run)),
        *("--prior", str(models / "colours"), normals, *FAST, *more),
    ]


def test_a_picture_becomes_a_mesh_with_a_texture(tmp_path, models, picture):
    run = tmp_path / "run"
    turned = (
        "cameras.reference.azimuth=60"  # normals in the frame of the picture would be refused in the world
    )
    assert main(_command(models, picture, run, "--elevation", "10", turned)) == 0
    made: Any = trimesh.load(run / "asset.glb", force="mesh")
    assert made.visual.material.baseColorTexture is not None
    radius = np.linalg.norm(np.asarray(made.vertices), axis=1)
    assert abs(radius.mean() - RADIUS) < 0.15  # the ball that the prior of normals knows
    assert np.std(radius) < 0.15
    resolved = load_recipe(run / "recipe.yaml").resolved
    assert resolved["representation"]["reference"]["elevation"] == 10.0
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(models), str(tmp_path / "gone")))
    assert main(["resume", str(run), "--steps", "3"]) == 0  # without the priors


def test_priors_of_the_other_kind_are_refused_by_one_line(tmp_path, models, picture, capsys):
    run = tmp_path / "run"
    assert main([*_command(models, picture, run)[:8], *FAST]) == 2
    assert "representation.normals is empty" in capsys.readouterr().err
    wrong = f"representation.normals={models / 'colours'}"
    assert main([*_command(models, picture, run), wrong]) == 2
    assert "shows colours, and normals are needed" in capsys.readouterr().err
    assert main([*_command(models, picture, run), "--prior", str(models / "normals")]) == 2
    assert "shows normals, and colours are needed" in capsys.readouterr().err
    assert not run.exists()


def test_normals_of_no_object_are_one_line(tmp_path, models, picture, capsys):
    field = load_picture_field(EMBEDDED_PICTURE_WEIGHTS / "field")
    save_multiview_pipeline(MultiViewModel(ARCHITECTURE, field, "normals"), tmp_path / "new", torch.float32)
    new = f"representation.normals={tmp_path / 'new'}"
    assert main([*_command(models, picture, tmp_path / "run"), new]) == 2
    assert "the prior of normals drew no object (" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_the_mesh_shows_in_drawn_colours_continues_the_sampler():
    ball, one = _ball(), torch.ones(4)
    cameras = orbit(90.0 * torch.arange(4), 0.0 * one, DISTANCE * one, 40.0, 32, 32)
    codec: Any = Folded(16)  # all that is asked of a prior
    correction = OnMesh(codec, ball, cameras, [], (0.4, 0.6))
    assert [step for step in range(10) if correction.applies(step, 10)] == [4, 6]
    alpha = MeshRenderer()(ball, cameras, torch.ones(3)).alpha
    drawn = torch.full((4, 32, 32, 3), 0.4)  # of an object that is larger than the mesh
    drawn[:, :, :2] = drawn[:, :, -2:] = 1.0
    estimate = codec.encode(drawn)
    shown = codec.decode(correction(estimate, estimate, torch.full((4,), 0.5)))
    torch.testing.assert_close(shown, (1.0 - 0.6 * alpha).expand_as(shown), atol=0.02, rtol=0)


def test_colours_lie_where_they_are_seen_and_what_is_hidden_takes_those_beside():
    ball, angles = _ball(), torch.tensor([0.0, 90.0])
    one = torch.ones(2)
    cameras = orbit(angles, 0.0 * one, DISTANCE * one, 40.0, 32, 32)
    alpha = MeshRenderer()(ball, cameras, torch.ones(3)).alpha
    tones = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])[:, None, None]
    views = views_on(ball, tones * alpha + 1.0 - alpha, cameras)
    painted = colored(ball, views)
    colors = painted.vertex_colors
    assert colors is not None
    front, right = ball.vertices[:, 2] > 0.9 * RADIUS, ball.vertices[:, 0] > 0.9 * RADIUS
    torch.testing.assert_close(colors[front].mean(0), tones[0, 0, 0], atol=0.02, rtol=0)
    torch.testing.assert_close(colors[right].mean(0), tones[1, 0, 0], atol=0.02, rtol=0)
    assert float(colors.amax(1).min()) > 0.4  # no white of the background, no grey of what is not seen
    assert float(colors.amin(1).max()) < 0.3
    none = colored(ball, [View(cameras[:1], 0.0 * views[0].rgb, 0.0 * views[0].alpha)])
    assert none.vertex_colors is not None
    assert float((none.vertex_colors - 0.5).abs().max()) == 0.0
