"""The training of a diffusion model of scenes, and its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dfm_scenes import SIZES, tiny_field

from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.dfm import report
from threedgen.dfm import trainer as module
from threedgen.dfm.config import SceneTrainingConfig
from threedgen.dfm.report import spread, write_scene_report
from threedgen.dfm.store import DOCUMENT, load_scene_field, save_scene_field
from threedgen.dfm.trainer import SceneTrainer
from threedgen.guidance.priors.picture_field import PictureArchitecture, PictureField
from threedgen.guidance.priors.radiance_field import save_field
from threedgen.training.picture_report import held_out_views
from threedgen.training.ring_bank import FramedViewBank

SCENES: dict[str, Any] = {"object_scenes": 0, "class_scenes": 0, "assemblies": 6, "shapes": 2}
CONFIG = SceneTrainingConfig(steps=4, batch=3, rays=16, warmup=1, precision="fp32", **SCENES)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    def architecture(size: int) -> PictureArchitecture:
        return PictureArchitecture(**SIZES, size=size, channels=2, features=4, hidden=8, samples=8)

    monkeypatch.setattr(module, "PictureArchitecture", architecture)
    monkeypatch.setattr(report, "_STEPS", 2)
    monkeypatch.setattr(report, "OBJECTS", 1)


@pytest.fixture(scope="module")
def bank() -> FramedViewBank:
    return FramedViewBank(CONFIG, 64, CONFIG.seed)


def test_a_resumed_training_ends_at_the_same_bits(tmp_path: Path, bank: FramedViewBank) -> None:
    whole, half = (SceneTrainer(CONFIG, 64, tmp_path / name) for name in ("whole", "half"))
    whole.fit(bank, 4, lambda loss, saved: None)
    for _ in range(2):
        half.train_step(half.next_batch(bank))
    half.save()
    again = SceneTrainer(CONFIG, 64, tmp_path / "half")
    assert again.resume()
    again.fit(bank, 4, lambda loss, saved: None)
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, again.average.state_dict()[name]), name


@pytest.mark.parametrize(
    "change", [{"context_dropout": 1.0}, {"self_share": 1.0}, {"novel_weight": 0.0}, {"context_weight": 0.0}]
)
def test_every_setting_changes_what_is_learnt(
    change: dict[str, float], tmp_path: Path, bank: FramedViewBank
) -> None:
    made = []
    plain = {**vars(CONFIG), "self_share": 0.0}
    for config in (SceneTrainingConfig(**plain), SceneTrainingConfig(**{**plain, **change})):
        trainer = SceneTrainer(config, 64, tmp_path)
        trainer.model.load_state_dict(tiny_field().state_dict())
        trainer.train_step(trainer.next_batch(bank))
        made.append(trainer.model.inner.weight.detach())
    assert not torch.equal(*made)


def test_it_learns_from_pictures(tmp_path: Path, bank: FramedViewBank) -> None:
    config = SceneTrainingConfig(
        steps=100, batch=4, rays=32, warmup=1, learning_rate=3e-3, precision="fp32", **SCENES
    )
    trainer = SceneTrainer(config, 64, tmp_path)
    losses = [trainer.train_step(trainer.next_batch(bank)) for _ in range(40)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_a_training_begins_with_a_field_of_pictures(tmp_path: Path) -> None:
    torch.manual_seed(3)
    picture = PictureField(module.PictureArchitecture(size=64))
    save_field(picture, tmp_path / "pipeline" / "field", torch.float32)
    trainer = SceneTrainer(CONFIG, 64, tmp_path / "own")
    trainer.start_from(tmp_path / "pipeline")
    for name, value in picture.state_dict().items():
        assert torch.equal(trainer.average.state_dict()[name], value)
    with pytest.raises(UserError, match="other sizes"):
        SceneTrainer(CONFIG, 128, tmp_path / "other").start_from(tmp_path / "pipeline")


def test_the_report_tells_what_samples_share_and_where_they_differ(
    tmp_path: Path, bank: FramedViewBank
) -> None:
    trainer = SceneTrainer(CONFIG, 64, tmp_path)
    write_scene_report(trainer, held_out_views(None, 64, 1))
    new = json.loads((tmp_path / "errors.jsonl").read_text())
    assert new["sample_psnr"] == pytest.approx(new["context_psnr"], abs=0.01)  # the noisy view has no say yet
    assert new["spread_unseen"] < 1e-4
    trainer.average.load_state_dict(tiny_field().state_dict())
    write_scene_report(trainer, held_out_views(None, 64, 1))
    line = json.loads((tmp_path / "errors.jsonl").read_text().splitlines()[1])
    assert line["spread_unseen"] > 1e-3
    assert line["spread_ratio"] == pytest.approx(line["spread_unseen"] / line["spread_seen"], rel=0.05)
    assert (tmp_path / "samples.png").is_file()
    assert spread(torch.tensor([[0.0, 1.0], [2.0, 1.0]])) == 1.0


def test_a_tiny_training_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "dfm"
    command = ["train", "dfm", "--out", str(out), "--steps", "2", "--batch", "2"]
    command += ["--rays", "8", "--precision", "fp32", "--object-scenes", "0", "--class-scenes", "0"]
    command += ["--assemblies", "4", "--shapes", "2"]
    assert main(command) == 0
    model = load_scene_field(out / "model")
    assert model.architecture.size == 64
    assert (
        "4 objects, each with a picture, a target and a novel view, in 2\n  steps"
        in (out / "model" / "README.md").read_text()
    )
    assert main([*command, "--size", "32"]) == 2
    assert "--size is 32; a field of pictures has 64, 128, 256 pixels" in capsys.readouterr().err


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no dfm\.json"):
        load_scene_field(tmp_path)
    field = tiny_field()
    save_scene_field(field, tmp_path, {})
    assert all(
        torch.equal(value.half().float(), load_scene_field(tmp_path).state_dict()[name])
        for name, value in field.state_dict().items()
    )
    good = (tmp_path / DOCUMENT).read_text()
    for old, new in (
        ('"size": 64', '"size": 0'),
        ('"middle": 16', '"middle": 17'),
        ('"rank": 16', '"rank": 8'),
    ):
        (tmp_path / DOCUMENT).write_text(good.replace(old, new))
        with pytest.raises(UserError, match="is not a dfm model"):
            load_scene_field(tmp_path)
