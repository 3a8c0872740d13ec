"""The multi-view prior of normals: the pictures that it learns from, their frame, and its folder on disk."""

import json
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.datasets.normal_maps import into_frame, vectors
from threedgen.datasets.things.painted_layers import painted_normals
from threedgen.guidance.priors.base import roles_of
from threedgen.guidance.priors.load import EMBEDDED_PICTURE_WEIGHTS, PriorConfig, load_prior
from threedgen.guidance.priors.picture_field import load_picture_field
from threedgen.reconstruction.normal_frame import checked_frame, renormalised
from threedgen.training.config import MultiViewTrainingConfig, SceneBankConfig
from threedgen.training.multiview_model import MultiViewModel, save_multiview_pipeline
from threedgen.training.multiview_trainer import MultiViewTrainer
from threedgen.training.prior_model import PriorArchitecture
from threedgen.training.ring_bank import NormalRingBank, RingBank
from threedgen.training.things_store import cameras_of

TINY = PriorArchitecture(
    size=16, channels=(8, 16), attention=(False, True), embedding=32, text_width=16, text_layers=1
)
SCENES: dict[str, Any] = {"object_scenes": 0, "class_scenes": 0, "assemblies": 2, "shapes": 2}


@pytest.fixture(scope="module")
def bank():
    return NormalRingBank(SceneBankConfig(**SCENES), 32, 0)


def _trainer(tmp_path, monkeypatch):
    monkeypatch.setattr("threedgen.training.multiview_trainer.for_size", lambda size: TINY)
    config = MultiViewTrainingConfig(steps=1, batch=2, warmup=1, precision="fp32", shows="normals", **SCENES)
    return MultiViewTrainer(config, 32, tmp_path, load_picture_field(EMBEDDED_PICTURE_WEIGHTS / "field"))


def test_normals_are_in_the_frame_of_their_cameras_also_when_mirrored(bank):
    """`checked_frame` finds mirrored normals, and those of another frame."""
    for step in range(6):
        batch = bank.batch(2, 0, step)
        for one in range(2):
            normals, alpha = renormalised(vectors(batch.views[one]))
            checked_frame(normals, alpha, cameras_of(batch.angles[one], 32))


def test_the_picture_keeps_its_colours_and_the_other_views_have_the_same_outlines(bank):
    batch = bank.batch(3, 0, 1)
    plain = RingBank(SceneBankConfig(**SCENES), 32, 0).batch(3, 0, 1)
    assert torch.equal(batch.picture, plain.picture)
    assert torch.equal(batch.angles, plain.angles)
    torch.testing.assert_close(batch.views[..., 3], plain.views[..., 3], atol=1e-2, rtol=0)


def test_the_agreed_frame_is_that_of_the_picture_or_of_the_front(tmp_path, bank, monkeypatch):
    trainer, batch = _trainer(tmp_path, monkeypatch), bank.batch(2, 0, 3)
    shown = trainer.true_views(batch, torch.tensor([1.0, 0.0]))
    relative = batch.angles.clone()
    relative[0, :, 0] -= batch.picture_angles[0, 0]
    for one in range(2):
        normals, alpha = renormalised(2.0 * shown[one] - 1.0)
        checked_frame(normals, alpha, cameras_of(relative[one], 32))
    assert float((shown[:, :, 0, 0] - 0.5).abs().max()) == 0.0  # the background is mid grey
    there = into_frame(torch.tensor([1.0, 0.0, 0.0]), torch.tensor(90.0))  # the camera at 90 degrees is at +X
    torch.testing.assert_close(there, torch.tensor([0.0, 0.0, 1.0]), atol=1e-6, rtol=0)


def test_faces_of_objects_have_the_normal_of_the_side_that_is_seen(tmp_path):
    import trimesh

    from threedgen.datasets.mesh_files import read_painted

    body = trimesh.creation.box()
    body.invert()
    body.export(tmp_path / "box.obj")
    cameras = cameras_of(torch.tensor([[30.0, 20.0, 2.85], [210.0, -20.0, 2.85]]), 32)
    layers = painted_normals(read_painted(tmp_path / "box.obj"), cameras)
    normals, alpha = renormalised(vectors(layers))
    away = normalize(cameras.centers, dim=1)[:, None, None]
    assert bool(((normals * away).sum(-1)[alpha[..., 0] > 0.9] > 0.0).all())


def test_the_command_trains_a_prior_of_normals_and_every_door_tells_them_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("threedgen.training.multiview_trainer.for_size", lambda size: TINY)
    monkeypatch.setattr("threedgen.datasets.things.thing_set.INSTALLED", str(tmp_path / "none"))
    options = ["--assemblies", "2", "--shapes", "1", "--class-scenes", "0", "--object-scenes", "0"]
    command = ["train", "prior", "--kind", "multiview", "--shows", "normals", "--out", str(tmp_path / "run")]
    assert main([*command, "--size", "32", *options, "--steps", "2", "--batch", "2", "--warmup", "1"]) == 0
    folder = tmp_path / "run" / "pipeline"
    assert json.loads((folder / "unet" / "config.json").read_text())["shows"] == "normals"
    assert "normals" in (folder / "README.md").read_text()
    errors = json.loads((tmp_path / "run" / "errors.jsonl").read_text().splitlines()[-1])
    assert "sample_psnr" in errors
    assert "field_psnr" not in errors  # the field shows colours
    asked = PriorConfig(path=str(folder))
    assert roles_of(load_prior(asked, shows="normals")).shows == "normals"
    with pytest.raises(UserError, match=r"shows normals, and colours are needed"):
        load_prior(asked)
    colours = MultiViewModel(TINY, load_picture_field(EMBEDDED_PICTURE_WEIGHTS / "field"))
    save_multiview_pipeline(colours, tmp_path / "colours", torch.float32)
    with pytest.raises(UserError, match=r"shows colours, and normals are needed"):
        load_prior(PriorConfig(path=str(tmp_path / "colours")), shows="normals")
    capsys.readouterr()
    monkeypatch.setattr("threedgen.training.prior_model.for_size", lambda size: TINY)
    made = ["train", "reconstructor", "--out", str(tmp_path / "r"), "--size", "32", "--prior", str(folder)]
    assert main([*made, "--assemblies", "1", "--shapes", "0", "--class-scenes", "0"]) == 2
    assert "shows normals, and colours are needed" in capsys.readouterr().err
