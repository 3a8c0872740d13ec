"""The training of the field that a picture decodes to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from threedgen.commands.main import main
from threedgen.core import checkpoint
from threedgen.core.errors import UserError
from threedgen.guidance.priors.load import load_folder
from threedgen.guidance.priors.picture_field import PictureArchitecture
from threedgen.training import picture_trainer
from threedgen.training.config import PictureFieldTrainingConfig
from threedgen.training.picture_report import (
    HeldOutViews,
    figures,
    held_out_views,
    shown,
    write_picture_report,
)
from threedgen.training.picture_trainer import PictureFieldTrainer, save_picture_pipeline
from threedgen.training.ring_bank import FramedViewBank
from threedgen.training.ring_rig import OTHER

SCENES: dict[str, Any] = {"object_scenes": 0, "class_scenes": 0, "assemblies": 6, "shapes": 2}
CONFIG = PictureFieldTrainingConfig(
    steps=4, batch=2, views=2, rays=16, warmup=1, precision="fp32", picture_dropout=0.3, **SCENES
)
_SIZES = {"fine": 16, "middle": 16, "coarse": 16, "seen": 16, "rank": 16, "side": 6}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    def architecture(size: int) -> PictureArchitecture:
        return PictureArchitecture(**_SIZES, size=size, channels=2, features=4, hidden=8, samples=8)

    monkeypatch.setattr(picture_trainer, "PictureArchitecture", architecture)


@pytest.fixture(scope="module")
def bank() -> FramedViewBank:
    return FramedViewBank(CONFIG, 64, CONFIG.seed)


def test_a_batch_has_pictures_and_other_views_of_the_same_scenes(bank: FramedViewBank) -> None:
    """Every view is one of its scene, in the colours of the picture, and its azimuth is relative to the picture's,
    also where scenes are mirrored."""
    stored = bank.layers.sort(dim=-1).values  # in any order of the channels; alpha is the largest
    above = 0
    for step in range(8):
        batch, again = (bank.batch(4, 3, step, 2) for _ in range(2))
        assert torch.equal(batch.layers, again.layers)
        assert torch.equal(batch.known, again.known)
        for index in range(4):
            found = set()
            for view, angles in zip(batch.layers[index], batch.views[index], strict=True):
                plain = (view * 255.0).round().to(torch.uint8).sort(dim=-1).values
                same = (stored == plain).flatten(2).all(2) | (stored == plain.flip(1)).flatten(2).all(2)
                scene, place = same.nonzero()[0].tolist()
                mirrored = not bool((stored[scene, place] == plain).all())
                azimuth = bank.angles[scene, place, 0] * (-1.0 if mirrored else 1.0)
                turned = torch.deg2rad(azimuth - angles[0] - batch.known[index, 0])
                assert float(turned.cos()) > 0.9999
                assert float(bank.angles[scene, place, 1]) == float(angles[1])
                found.add(scene)
                above += place >= OTHER
            assert len(found) == 1
    assert (
        above > 10
    )  # of 64: the three views from above and below are seen more often than those of the ring


def test_a_resumed_training_ends_at_the_same_bits(tmp_path: Path, bank: FramedViewBank) -> None:
    whole, half = (PictureFieldTrainer(CONFIG, 64, tmp_path / name) for name in ("whole", "half"))
    whole.fit(bank, 4, lambda loss, saved: None)
    for _ in range(2):
        half.train_step(half.next_batch(bank))
    half.save()
    again = PictureFieldTrainer(CONFIG, 64, tmp_path / "half")
    assert again.resume()
    again.fit(bank, 4, lambda loss, saved: None)
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, again.average.state_dict()[name]), name


def test_the_run_of_another_command_is_no_training(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "checkpoint", {"scene.means": torch.zeros(2, 3)}, {"step": 3})
    with pytest.raises(UserError, match="holds a run of another command"):
        PictureFieldTrainer(CONFIG, 64, tmp_path).resume()


def test_a_training_begins_with_the_weights_of_another(tmp_path: Path, bank: FramedViewBank) -> None:
    first = PictureFieldTrainer(CONFIG, 64, tmp_path / "first")
    first.train_step(first.next_batch(bank))
    save_picture_pipeline(first, tmp_path / "pipeline")
    second = PictureFieldTrainer(CONFIG, 64, tmp_path / "second")
    second.start_from(tmp_path / "pipeline")
    for name, value in first.average.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value.half().float())
    other = PictureFieldTrainer(CONFIG, 128, tmp_path / "other")
    with pytest.raises(UserError, match="other sizes"):
        other.start_from(tmp_path / "pipeline")


def test_the_report_counts_a_camera_that_is_off_against_the_true_one(
    tmp_path: Path, bank: FramedViewBank
) -> None:
    trainer = PictureFieldTrainer(CONFIG, 64, tmp_path)
    held_out = held_out_views(None, 64, 2)
    assert held_out.images.shape == (2, 9, 64, 64, 3)
    numbers = figures(trainer, held_out)
    assert 0.0 < numbers["psnr"] < 30.0
    # Told what the field itself shows, the true camera has hardly an error, and the other one has.
    images, alpha = shown(trainer, held_out)
    own = HeldOutViews(
        torch.cat([held_out.images[:, :1], images], dim=1), torch.cat([held_out.alpha[:, :1], alpha], dim=1)
    )
    own = HeldOutViews((own.images + 1e-4).clamp(max=1.0), own.alpha)
    numbers = figures(trainer, own)
    assert numbers["psnr"] > 60.0
    assert numbers["iou"] == 1.0
    assert numbers["ratio"] > 2.0
    write_picture_report(trainer, held_out)
    assert json.loads((tmp_path / "errors.jsonl").read_text())["pictures"] == 0
    assert (tmp_path / "samples.png").is_file()


def test_a_tiny_training_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "prior"
    arguments = ["--steps", "2", "--batch", "2", "--views", "2", "--rays", "8", "--precision", "fp32"]
    arguments += ["--object-scenes", "0", "--class-scenes", "0", "--assemblies", "4", "--shapes", "2"]
    command = ["train", "prior", "--kind", "picture", "--out", str(out), *arguments]
    assert main(command) == 0
    prior = load_folder(out / "pipeline")
    assert prior.image_size == 64
    card = (out / "pipeline" / "README.md").read_text()
    assert "4 pictures with 2 views each in 2 steps" in card
    assert (out / "views-64").is_dir()
    assert main([*command[:4], "--size", "32", "--out", str(tmp_path / "small"), *arguments]) == 2
    assert "--size is 32; a field of pictures has 64, 128, 256 pixels" in capsys.readouterr().err
    assert not (tmp_path / "small").exists()
    assert main([*command, "--bank-views", "3"]) == 2
    assert "--bank-views is not an option of this kind of prior" in capsys.readouterr().err
