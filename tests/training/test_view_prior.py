"""The view-conditioned prior: its pairs, its training, and its folder on disk."""

from typing import Any

import numpy as np
import pytest
import torch

from threedgen.cameras.orbit import (
    RELATIVE_VIEW_FEATURES,
    VIEW_FEATURES,
    orbit,
    relative_view_features,
    view_features,
)
from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.datasets.assemblies import render_assembly, sample_assembly
from threedgen.datasets.things.thing_set import thing_set
from threedgen.guidance.priors.base import Condition, ReferenceView
from threedgen.guidance.priors.load import PriorConfig, load_folder, load_prior
from threedgen.training.config import ViewTrainingConfig
from threedgen.training.prior_model import PriorArchitecture, PriorModel
from threedgen.training.view_bank import ViewBank
from threedgen.training.view_model import ViewModel, save_view_pipeline, start_from_text_prior
from threedgen.training.view_scenes import SOURCES_PER_SCENE, VIEWS_PER_SCENE
from threedgen.training.view_trainer import ViewTrainer

TINY = PriorArchitecture(
    size=16, channels=(8, 16), attention=(False, True), embedding=32, text_width=16, text_layers=1
)
SCENES: dict[str, Any] = {"object_scenes": 0, "class_scenes": 1, "assemblies": 4, "shapes": 2}
CONFIG = ViewTrainingConfig(steps=4, batch=4, warmup=1, precision="fp32", **SCENES)


@pytest.fixture(scope="module")
def bank() -> ViewBank:
    return ViewBank(CONFIG, TINY.size, CONFIG.seed)


def _orbit(azimuth, elevation=20.0, radius=2.85, size=16):
    full = torch.ones(len(azimuth))
    return orbit(torch.tensor(azimuth), elevation * full, radius * full, 40.0, size, size)


def test_the_things_of_a_bank_are_lit_from_any_direction():
    things = thing_set(None).of(["apple", "cat"])
    config = ViewTrainingConfig(object_scenes=0, class_scenes=3, assemblies=0, shapes=0)
    bank, again = (ViewBank(config, 16, 3, things) for _ in range(2))
    assert torch.equal(bank.layers, again.layers)
    assert not torch.equal(bank.layers, ViewBank(config, 16, 4, things).layers)
    layers = bank.layers.float() / 255.0
    covered = layers[..., 3].mean((2, 3))
    assert bool((covered > 0.05).all())  # there is something in every view
    # The brightest side of a thing is towards its light, which is elsewhere for another thing.
    brightness = layers[..., :3].mean((2, 3, 4)) / covered
    assert len({int(row.argmax()) for row in brightness}) > 1


def test_the_pictures_of_a_bank_come_back_from_its_folder(tmp_path, monkeypatch):
    made = ViewBank(CONFIG, 16, 0, cache=tmp_path)
    monkeypatch.setattr("threedgen.training.view_scenes.render_assembly", None)  # nothing is rendered again
    assert torch.equal(ViewBank(CONFIG, 16, 0, cache=tmp_path).layers, made.layers)
    with pytest.raises(UserError, match="rendered with seed 0, not 1"):
        ViewBank(CONFIG, 16, 1, cache=tmp_path)


def test_an_empty_bank_and_one_that_is_too_large_are_refused():
    for scenes, said in ((0, "no scenes to learn from"), (400_000, "choose fewer scenes")):
        config = ViewTrainingConfig(object_scenes=0, class_scenes=0, assemblies=scenes, shapes=0)
        with pytest.raises(UserError, match=said):
            ViewBank(config, 16, 0)


def test_a_batch_shows_the_scenes_that_its_numbers_say():
    """An unmirrored pair in the channels of the bank is two of its pictures, and the pose is the turn between
    them."""
    bank = ViewBank(CONFIG, 16, 0)
    stored = bank.layers.float() / 255.0
    white = stored[..., :3] + 1.0 - stored[..., 3:]
    found = 0
    for step in range(20):
        batch = bank.batch(4, 0, step, views=2)
        assert batch.layers.shape == (4, 2, 16, 16, 4)
        for index in range(4):
            given = (white - batch.pictures[index]).abs().amax((2, 3, 4)) < 1e-6
            if not bool(given.any()):
                continue  # it is mirrored, or its channels are exchanged
            scene, source = given.nonzero()[0].tolist()
            shown = (stored[scene] - batch.layers[index, 1]).abs().amax((1, 2, 3)) < 1e-6
            view = int(shown.nonzero()[0])
            here, there = bank.angles[scene, source], bank.angles[scene, view]
            torch.testing.assert_close(batch.known[index], here)
            expected = torch.stack([there[0] - here[0], there[1], there[2]])
            torch.testing.assert_close(batch.views[index, 1], expected)
            found += 1
    assert found > 2


def test_relative_features_are_the_same_wherever_the_front_is():
    here = relative_view_features(_orbit([50.0, 200.0]), 20.0, 10.0, 2.85)
    turned = relative_view_features(_orbit([50.0 + 77.0, 200.0 + 77.0]), 97.0, 10.0, 2.85)
    torch.testing.assert_close(here, turned, atol=1e-4, rtol=0)
    assert here.shape == (2, RELATIVE_VIEW_FEATURES)
    torch.testing.assert_close(
        here[:, :VIEW_FEATURES], view_features(_orbit([30.0, 180.0])), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("changed", [{"elevation": 30.0}, {"distance": 2.6}, {"azimuth": 60.0}])
def test_relative_features_tell_poses_of_the_picture_apart(changed):
    pose = {"azimuth": 20.0, "elevation": 10.0, "distance": 2.85}
    first, other = (relative_view_features(_orbit([50.0]), **values) for values in (pose, pose | changed))
    assert (first - other).abs().max() > 0.05


def test_assemblies_come_back_and_stay_inside_the_frame():
    for seed in range(6):
        pictures = []
        for _ in range(2):
            assembly = sample_assembly(np.random.default_rng(seed))
            pictures.append(render_assembly(assembly, _orbit([0.0, 90.0], size=24)))
        assert torch.equal(pictures[0][0], pictures[1][0])
        assert assembly.mesh.vertices.norm(dim=1).max() < 0.951
        image, alpha = pictures[0]
        assert 0.02 < alpha.mean() < 0.8
        border = torch.cat([alpha[:, 0], alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1]], dim=1)
        assert border.max() == 0.0
        assert (image[(alpha == 0).expand_as(image)] == 1.0).all()


def test_pairs_come_back_and_say_their_turn(bank):
    first, again = (bank.batch(16, 0, 3) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.poses, again.poses)
    assert not torch.equal(first.images, bank.batch(16, 0, 4).images)
    assert not any(torch.equal(a, b) for a, b in zip(first.images, first.pictures, strict=True))
    assert bank.layers.shape[:2] == (6, VIEWS_PER_SCENE)
    assert bank.angles[:, :SOURCES_PER_SCENE, 1].max() <= 40.0


def test_a_mirrored_pair_turns_the_other_way():
    """Views of a scene by two cameras, and views of its mirror image by the mirrored cameras, are mirror images."""
    rng = np.random.default_rng(5)
    assembly = sample_assembly(rng)
    flip = torch.tensor([-1.0, 1.0, 1.0])
    mesh = assembly.mesh
    assert mesh.normals is not None
    mirrored = type(mesh)(mesh.vertices * flip, mesh.faces.flip(1), normals=mesh.normals * flip)
    pattern = torch.cat([assembly.pattern[:, :3] * flip, assembly.pattern[:, 3:]], dim=1)
    other = type(assembly)(
        mirrored, assembly.piece, assembly.colors, pattern, assembly.light * flip, assembly.ambient
    )
    here, there = render_assembly(assembly, _orbit([40.0]))[0], render_assembly(other, _orbit([-40.0]))[0]
    assert (here.flip(2) - there).abs().mean() < 2e-3


def test_the_unet_of_a_text_prior_answers_as_before_when_no_picture_is_shown():
    torch.manual_seed(0)
    text, view = PriorModel(TINY), ViewModel(TINY)
    torch.nn.init.normal_(text.unet.conv_out.weight, std=0.1)
    start_from_text_prior(view, text.unet.state_dict())
    z, states = torch.randn(2, 3, 16, 16), torch.randn(2, 5, TINY.text_width)
    numbers = torch.randn(2, RELATIVE_VIEW_FEATURES)
    t = torch.tensor([10, 900])
    expected = text.unet(z, t, states, class_labels=numbers[:, :VIEW_FEATURES]).sample[:, :3]
    both = torch.cat([z, torch.randn_like(z)], dim=1)
    torch.testing.assert_close(view.unet(both, t, states, class_labels=numbers).sample, expected)


def test_a_resumed_training_ends_at_the_same_bits(tmp_path, bank):
    whole, half = (ViewTrainer(CONFIG, TINY, tmp_path / name) for name in ("whole", "half"))
    whole.fit(bank, 4, lambda loss, saved: None)
    for _ in range(2):
        half.train_step(bank.batch(CONFIG.batch, CONFIG.seed, half.step))
    half.save()
    again = ViewTrainer(CONFIG, TINY, tmp_path / "half")
    assert again.resume()
    again.fit(bank, 4, lambda loss, saved: None)
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, again.average.state_dict()[name]), name


def _prior(tmp_path, model=None):
    torch.manual_seed(1)
    model = model or ViewModel(TINY)
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.1)
    save_view_pipeline(model, tmp_path / "pipeline", torch.float32)
    return model, load_folder(tmp_path / "pipeline")


def _condition(count=2, **changes):
    picture = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(2))
    cameras = _orbit([30.0 * i for i in range(count)])
    return Condition(
        ("",) * count, cameras=cameras, reference=ReferenceView(picture, 5.0, 10.0, 2.85), **changes
    )


def test_a_stored_model_is_read_back_as_it_was_trained(tmp_path):
    model, prior = _prior(tmp_path)
    condition = _condition()
    z = torch.randn(2, 3, 16, 16)
    t = torch.tensor([0.3, 0.9])
    reference = condition.reference
    assert reference is not None
    assert condition.cameras is not None
    poses = relative_view_features(condition.cameras, 5.0, 10.0, 2.85)
    pictures = (reference.image.permute(2, 0, 1) * 2.0 - 1.0).expand(2, -1, -1, -1)
    for dropped, kept in ((False, 1.0), (True, 0.0)):
        answer = prior.predict(z, t, _condition(dropped=dropped)).v
        with torch.no_grad():
            expected = model(z, prior.process.timestep(t), pictures, torch.full((2,), kept), poses)
        torch.testing.assert_close(answer, expected, atol=1e-4, rtol=1e-4)


def test_the_prior_sees_the_picture_and_the_pose(tmp_path):
    _, prior = _prior(tmp_path)
    z, t = torch.randn(1, 3, 16, 16).expand(2, -1, -1, -1), torch.full((2,), 0.5)
    answer = prior.predict(z, t, _condition()).v
    assert (answer[0] - answer[1]).abs().max() > 1e-4  # two poses
    dropped = prior.predict(z, t, _condition(dropped=True)).v
    assert (answer - dropped).abs().max() > 1e-4


def test_without_a_picture_or_cameras_it_says_what_is_missing(tmp_path):
    _, prior = _prior(tmp_path)
    z, t = torch.randn(1, 3, 16, 16), torch.tensor([0.5])
    with pytest.raises(UserError, match="reference"):
        prior.predict(z, t, Condition(("",), cameras=_orbit([0.0])))


def test_the_one_that_ships_turns_a_picture():
    prior = load_prior(PriorConfig(name="embedded-view"))
    assert prior.image_size == 32
    picture = torch.ones(32, 32, 3)
    picture[8:24, 8:24] = torch.tensor([0.86, 0.13, 0.12])
    condition = Condition(
        ("",), cameras=_orbit([90.0], size=32), reference=ReferenceView(picture, 0.0, 10.0, 2.85)
    )
    z = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = prior.decode(prior.predict(z, torch.tensor([0.98]), condition).x0)[0]
    middle, corner = seen[12:20, 12:20].mean((0, 1)), seen[:3, :3].mean((0, 1))
    assert middle[0] > middle[1] + 0.2  # red stays red from the side
    assert corner.min() > 0.8  # on white


def test_a_tiny_training_through_the_command(tmp_path):
    out = tmp_path / "prior"
    arguments = ["--steps", "1", "--batch", "2", "--precision", "fp32"]
    arguments += ["--object-scenes", "0", "--class-scenes", "0", "--assemblies", "4", "--shapes", "2"]
    assert main(["train", "prior", "--kind", "view", "--out", str(out), *arguments]) == 0
    assert load_folder(out / "pipeline").image_size == 32
    assert "60 degrees off" in (out / "pipeline" / "README.md").read_text()
    assert (out / "samples.png").is_file()
