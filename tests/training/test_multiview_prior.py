"""The multi-view prior: its groups of views, its training, and its folder on disk."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from threedgen.cameras.orbit import orbit, relative_view_features
from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.core.pictures import resize
from threedgen.core.types import TriMesh
from threedgen.datasets.cut_outs import DISTANCE, FILL
from threedgen.datasets.things.thing_set import thing_set
from threedgen.guidance.priors.adapters.picture_field import DiffusersPictureFieldPrior
from threedgen.guidance.priors.base import Condition, ReferenceView
from threedgen.guidance.priors.load import EMBEDDED_PICTURE_WEIGHTS, load_folder
from threedgen.guidance.priors.picture_field import PictureField, load_picture_field
from threedgen.training.config import MultiViewTrainingConfig, SceneBankConfig
from threedgen.training.multiview_model import (
    MultiViewModel,
    load_multiview_pipeline,
    save_multiview_pipeline,
    start_from_text_prior,
)
from threedgen.training.multiview_trainer import MultiViewTrainer, group_guides, group_poses
from threedgen.training.prior_model import PriorArchitecture, PriorModel
from threedgen.training.ring_bank import RingBank
from threedgen.training.ring_report import HeldOutRig, held_out_rings
from threedgen.training.ring_rig import FIRST, RING, RingRig
from threedgen.training.tokenizer import encode, make_tokenizer
from threedgen.training.view_bank import on_white
from threedgen.training.view_scenes import AssemblyScenes, ClassScenes, stretched

TINY = PriorArchitecture(
    size=16, channels=(8, 16), attention=(False, True), embedding=32, text_width=16, text_layers=1
)
SCENES: dict[str, Any] = {"object_scenes": 0, "class_scenes": 0, "assemblies": 3, "shapes": 3}
CONFIG = MultiViewTrainingConfig(
    steps=3, batch=3, warmup=1, precision="fp32", every_six=2, every_orbit=3, **SCENES
)


@pytest.fixture(scope="module")
def bank() -> RingBank:
    return RingBank(SceneBankConfig(**SCENES), 32, 0)


def _random(model: torch.nn.Module, seed: int = 0) -> None:
    """Weights that let every input have an effect: the last convolution and the new inputs start at zero."""
    draw = torch.Generator().manual_seed(seed)
    for value in model.parameters():
        value.data += 0.05 * torch.randn(value.shape, generator=draw)


@pytest.fixture(scope="module")
def field() -> PictureField:
    return load_picture_field(EMBEDDED_PICTURE_WEIGHTS / "field")


@pytest.fixture(scope="module")
def model(field: PictureField) -> MultiViewModel:
    torch.manual_seed(0)
    made = MultiViewModel(TINY, field).eval()
    _random(made.unet)
    _random(made.text_encoder)
    return made.requires_grad_(False)


def _inputs(model: MultiViewModel, count: int = 2, views: int = 4) -> list[Any]:
    draw = torch.Generator().manual_seed(1)
    size = model.size
    angles = torch.tensor([[20.0 + 360.0 / views * view, 0.0, DISTANCE] for view in range(views)])
    picture = torch.tensor([20.0, 10.0, DISTANCE]).repeat(count, 1)
    ids, mask = encode(make_tokenizer(_words()), ["a red chair"] * count, "cpu")
    noisy = torch.randn(count, views, 3, size, size, generator=draw)
    pictures = torch.rand(count, 3, size, size, generator=draw) * 2.0 - 1.0
    return [
        noisy,
        torch.full((count,), 500),
        pictures,
        torch.ones(count),
        group_guides(model, pictures, angles.repeat(count, 1, 1), picture),
        group_poses(angles.repeat(count, 1, 1), picture, torch.ones(count)),
        ids,
        mask,
    ]


def _words() -> tuple[str, ...]:
    from threedgen.training.caption_words import caption_words

    return caption_words()


def test_a_scene_fills_its_picture_as_a_cut_out_does():
    rig = RingRig()
    piece = AssemblyScenes(0, 4, rig)
    drawn = piece.render(64, 5)
    alpha = drawn.layers.unflatten(0, (4, rig.count))[:, 0, ..., 3].numpy() >= 128
    for seen in alpha:
        rows, columns = np.nonzero(seen)
        x, y = (0.5 * (places.min() + places.max() + 1) for places in (columns, rows))
        assert max(abs(x - 32.0), abs(y - 32.0)) <= 1.5
        radius = np.hypot(np.abs(columns + 0.5 - x) + 0.5, np.abs(rows + 0.5 - y) + 0.5).max()
        assert abs(radius - FILL * 32.0) < 2.5 or radius < FILL * 32.0  # a narrow end is not enlarged further
    angles = drawn.cameras.unflatten(0, (4, rig.count))
    assert torch.equal(angles[:, 0, 0], angles[:, FIRST, 0])  # the ring begins at the picture
    steps = angles[:, FIRST + 1 : FIRST + RING, 0] - angles[:, FIRST : FIRST + RING - 1, 0]
    torch.testing.assert_close(steps, torch.full_like(steps, 360.0 / RING), atol=1e-3, rtol=0)


def test_a_group_is_a_whole_turn_of_rising_azimuths_also_when_mirrored(bank):
    mirrored = 0
    for step in range(12):
        for views in (4, 12, 6):
            batch, again = (bank.batch(5, 0, step, views) for _ in range(2))
            assert torch.equal(batch.views, again.views)
            turns = (batch.angles[:, 1:, 0] - batch.angles[:, :-1, 0]) % 360.0
            torch.testing.assert_close(turns, torch.full_like(turns, 360.0 / views), atol=1e-3, rtol=0)
            torch.testing.assert_close(batch.angles[:, 0, 0], batch.picture_angles[:, 0])
        stored = bank.layers.float() / 255.0
        for index in range(
            5
        ):  # each view of a mirrored group is the mirror image of the view on the other side
            same = (stored.flip(3)[:, 0] - batch.picture[index]).abs().amax((1, 2, 3)) < 1e-6
            if bool(same.any()) and not bool(batch.captions[index] == ""):
                scene = int(same.nonzero()[0])
                torch.testing.assert_close(batch.views[index, 1], stored[scene, FIRST + 10].flip(1))
                mirrored += 1
    assert mirrored > 2
    with pytest.raises(ValueError, match="4, 6 or 12 views, not 5"):
        bank.batch(1, 0, 0, 5)


def test_a_thing_in_other_proportions_stays_upright_and_whole():
    """A sphere becomes an ellipsoid with the same farthest point, whose normals are those of an ellipsoid, and the
    left stays the right's mirror image."""
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.8)
    points = torch.tensor(ball.vertices).float()
    mesh = TriMesh(points, torch.tensor(ball.faces), normals=points / 0.8)
    shapes = [stretched(mesh, np.random.default_rng(seed)) for seed in range(12)]
    assert 1 <= sum(shape is mesh for shape in shapes) <= 8
    for shape in shapes:
        assert shape.normals is not None
        torch.testing.assert_close(shape.vertices.norm(dim=1).max(), torch.tensor(0.8), atol=1e-5, rtol=0)
        edges = shape.vertices[shape.faces]
        flat = torch.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0], dim=1)
        flat = torch.nn.functional.normalize(flat, dim=1)
        mean = torch.nn.functional.normalize(shape.normals[shape.faces].mean(1), dim=1)
        assert float((flat * mean).sum(1).min()) > 0.98
        mirrored = shape.vertices * torch.tensor([-1.0, 1.0, 1.0])
        assert float(torch.cdist(mirrored.double(), shape.vertices.double()).amin(1).max()) < 1e-4


def test_things_that_are_held_out_keep_their_proportions():
    class Plain(RingRig):
        stretches = False

    source = thing_set(None).classes("mug")[:1]
    rigs = RingRig(), Plain(), HeldOutRig()
    alphas = [ClassScenes("mug", source, 4, rig).render(32, 4).layers[..., 3] for rig in rigs]
    changed, plain, held_out = (alpha.unflatten(0, (4, -1)).flatten(1) for alpha in alphas)
    assert 1 <= int((changed != plain).any(1).sum()) <= 4
    assert held_out.shape == plain.shape
    assert HeldOutRig.stretches is False


def test_colours_that_a_caption_names_are_not_exchanged(bank):
    stored = bank.layers.float() / 255.0
    named = 0
    for step in range(10):
        batch = bank.batch(6, 1, step)
        for index, caption in enumerate(batch.captions):
            if caption:
                both = torch.cat([stored[:, 0], stored.flip(3)[:, 0]])
                assert (both - batch.picture[index]).abs().amax((1, 2, 3)).min() < 1e-6
                named += 1
        assert set(bank.batch(6, 1, step, free=True).captions) == {""}
    assert named > 5


def test_it_begins_with_what_the_text_prior_shows(field):
    """Without a picture, of noise that is the same in each block, the answer is the text prior's, block by block.
    That predicts v, which is -x where there is nothing but noise."""
    torch.manual_seed(0)
    prior = PriorModel(TINY).eval()
    _random(prior)
    model = MultiViewModel(TINY, field).eval()
    start_from_text_prior(model, prior)
    small = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    tokens, mask = encode(make_tokenizer(), ["a red cube"], "cpu")
    ids, read = encode(make_tokenizer(_words()), ["a red cube"], "cpu")
    angles = torch.tensor([[[30.0, 0.0, DISTANCE]]])
    poses = group_poses(angles, angles[:, 0], torch.zeros(1))
    with torch.no_grad():
        shown = model(
            large[:, None],
            torch.tensor([300]),
            torch.zeros(1, 3, 32, 32),
            torch.zeros(1),
            torch.zeros(1, 1, 4, 32, 32),
            poses,
            ids,
            read,
        )
        expected = prior(small, torch.tensor([300]), tokens, mask, poses[:, 0, :16])
    torch.testing.assert_close(
        shown[:, 0], -expected.repeat_interleave(2, 2).repeat_interleave(2, 3), atol=1e-4, rtol=1e-4
    )


def test_every_view_depends_on_the_others_and_groups_do_not(model):
    inputs = _inputs(model)
    first = model(*inputs)
    inputs[0] = inputs[0].clone()
    inputs[0][0, 2] += 1.0
    changed = (model(*inputs) - first).abs().amax((2, 3, 4))
    assert bool((changed[0] > 1e-5).all())
    assert float(changed[1].max()) == 0.0


def test_a_picture_that_is_withheld_has_no_effect(model):
    inputs = _inputs(model)
    first = model(*inputs)
    inputs[3] = torch.zeros(2)
    without = model(*inputs)
    assert (without - first).abs().max() > 1e-3
    inputs[2], inputs[4] = -inputs[2], -inputs[4]
    assert torch.equal(model(*inputs), without)


@pytest.fixture
def guessed(monkeypatch):
    """Adapters take the side that the encoder guesses, as trainings do."""
    for adapter in ("picture_field", "pixel_multiview"):
        monkeypatch.setattr(
            f"threedgen.guidance.priors.adapters.{adapter}.settled_azimuth",
            lambda field, picture, known: field.decode(picture, known).azimuth,
        )


@pytest.mark.usefixtures("guessed")
def test_a_guide_is_what_the_field_shows_from_the_side_of_each_view(model, field):
    """The same as the prior of pictures shows, on white; and the model uses it."""
    inputs = _inputs(model, 1)
    prior = load_folder(EMBEDDED_PICTURE_WEIGHTS)
    assert isinstance(prior, DiffusersPictureFieldPrior)
    one = torch.ones(4)
    cameras = orbit(torch.tensor([20.0, 110.0, 200.0, 290.0]), 0.0 * one, DISTANCE * one, 40.0, 64, 64)
    given = 0.5 + 0.5 * resize(inputs[2].permute(0, 2, 3, 1), 64, 64)[0]
    reference = ReferenceView(given, 20.0, 10.0, DISTANCE)
    shown = prior.rendered(Condition(("",) * 4, cameras=cameras.resized(64, 64), reference=reference))
    larger = MultiViewModel(dataclasses.replace(TINY, size=32), field)
    guides = group_guides(
        larger,
        inputs[2],
        torch.tensor([[[20.0 + 90.0 * view, 0.0, DISTANCE] for view in range(4)]]),
        torch.tensor([[20.0, 10.0, DISTANCE]]),
    )
    torch.testing.assert_close(guides[0, :, 3:], shown[:, 3:], atol=1e-4, rtol=0)
    torch.testing.assert_close(
        0.5 + 0.5 * guides[0, :, :3], shown[:, :3] + 1.0 - shown[:, 3:], atol=1e-4, rtol=0
    )
    first = model(*inputs)
    inputs[4] = inputs[4] + 1.0
    assert float((model(*inputs) - first).abs().max()) > 1e-4


def test_without_a_picture_poses_are_those_of_the_object():
    angles = torch.tensor([[[50.0, 10.0, DISTANCE], [140.0, 10.0, DISTANCE]]])
    picture = torch.tensor([[50.0, 20.0, DISTANCE]])
    told, free = (group_poses(angles, picture, torch.full((1,), kept)) for kept in (1.0, 0.0))
    one = torch.ones(2)
    cameras = orbit(torch.tensor([50.0, 140.0]), 10.0 * one, DISTANCE * one, 40.0, 64, 64)
    torch.testing.assert_close(told[0], relative_view_features(cameras, 50.0, 20.0, DISTANCE))
    torch.testing.assert_close(free[0, :, :16], relative_view_features(cameras, 0.0, 0.0, DISTANCE)[:, :16])
    assert float(free[0, :, 16:].abs().max()) == 0.0


@pytest.mark.usefixtures("guessed")
def test_its_folder_is_a_prior_of_groups(tmp_path, model, monkeypatch):
    monkeypatch.setattr("threedgen.training.prior_model.for_size", lambda size: TINY)
    save_multiview_pipeline(model, tmp_path / "pipeline", torch.float32)
    prior = load_folder(tmp_path / "pipeline")
    inputs = _inputs(model, 1)
    azimuths = torch.tensor([20.0, 110.0, 200.0, 290.0])
    one = torch.ones(4)
    cameras = orbit(azimuths, 0.0 * one, DISTANCE * one, 40.0, 32, 32)
    picture = (inputs[2][0].permute(1, 2, 0) + 1.0) / 2.0
    condition = Condition(
        ("a red chair",) * 4, cameras=cameras, reference=ReferenceView(picture, 20.0, 10.0, DISTANCE)
    )
    z = torch.nn.functional.pixel_unshuffle(inputs[0][0], 2)
    t = torch.full((4,), float(prior.process.timestep(torch.tensor([0.5]))[0]) / 1000.0)
    inputs[1] = prior.process.timestep(t)[:1].long()
    expected = model(*inputs)[0]
    shown = torch.nn.functional.pixel_shuffle(prior.predict(z, t, condition).x0, 2)
    torch.testing.assert_close(shown, expected, atol=1e-4, rtol=1e-4)
    inputs[3], inputs[6:] = torch.zeros(1), encode(make_tokenizer(_words()), [""], "cpu")
    inputs[5][..., 16:] = 0.0
    other = torch.nn.functional.pixel_shuffle(prior.predict(z, t, condition.unconditional()).x0, 2)
    torch.testing.assert_close(other, model(*inputs)[0], atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="4 views together and got 3"):
        prior.predict(z[:3], t[:3], Condition(("",) * 3, cameras=cameras[:3]))
    again = load_multiview_pipeline(tmp_path / "pipeline")
    torch.testing.assert_close(again(*inputs), model(*inputs))


def test_a_picture_comes_back_from_its_blocks(tmp_path, model):
    save_multiview_pipeline(model, tmp_path / "pipeline", torch.float32)
    prior = load_folder(tmp_path / "pipeline")
    picture = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(3))
    assert prior.image_size == 32
    torch.testing.assert_close(prior.decode(prior.encode(picture)), picture)


def test_a_training_resumes_with_the_same_bits(tmp_path, bank, field, monkeypatch):
    monkeypatch.setattr("threedgen.training.multiview_trainer.for_size", lambda size: TINY)

    def trained(folder, stops):
        for stop in stops:
            config = MultiViewTrainingConfig(**{**vars(CONFIG), "steps": 4})
            trainer = MultiViewTrainer(config, 32, folder, field)
            trainer.resume()
            while trainer.step < stop:
                assert math.isfinite(trainer.train_step(trainer.next_batch(bank)))
            trainer.save()
        return trainer.average.state_dict()

    whole, parts = trained(tmp_path / "a", [4]), trained(tmp_path / "b", [2, 4])
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_held_out_groups_without_a_catalogue_are_assemblies():
    held_out = held_out_rings(None, 32, 2)
    assert held_out.views.shape == (2, 4, 32, 32, 4)
    assert held_out.others.shape[1] == RING - 4 + 3
    assert not torch.equal(on_white(held_out.views[0]), on_white(held_out.views[1]))


def test_the_command_trains_from_the_text_prior_and_writes_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("threedgen.training.multiview_trainer.for_size", lambda size: TINY)
    monkeypatch.setattr("threedgen.datasets.things.thing_set.INSTALLED", str(tmp_path / "none"))
    options = ["--assemblies", "2", "--shapes", "1", "--class-scenes", "0", "--object-scenes", "0"]
    command = ["train", "prior", "--kind", "multiview", "--out", str(tmp_path / "run"), "--size", "32"]
    assert main([*command, *options, "--steps", "2", "--batch", "2", "--warmup", "1"]) == 0
    for name in ("samples.png", "errors.jsonl", "losses.jsonl", "pipeline/README.md"):
        assert (tmp_path / "run" / name).is_file()
    assert load_folder(tmp_path / "run" / "pipeline").group == 4
