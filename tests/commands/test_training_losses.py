"""The losses of a training that was stopped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from threedgen.commands.training import held, train
from threedgen.core import checkpoint
from threedgen.core.errors import UserError
from threedgen.training.config import TrainingConfig
from threedgen.training.denoiser_trainer import DenoiserTrainer


def test_a_training_that_was_stopped_after_its_last_step_knows_its_last_loss(tmp_path):
    rows = [{"step": step, "loss": loss, "seconds": 1.0} for step, loss in ((2, 0.5), (4, 0.25), (6, 0.125))]
    (tmp_path / "losses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done: Any = SimpleNamespace(
        folder=tmp_path, step=4, config=SimpleNamespace(steps=4), fit=lambda bank, every, report: None
    )
    with held(tmp_path):
        assert train(done, lambda report: None, 2, lambda: None) == 0.25  # type: ignore[arg-type,return-value]


def test_a_folder_in_place_of_the_table_is_one_line(tmp_path):
    (tmp_path / "losses.jsonl").mkdir()
    with pytest.raises(UserError, match=r"losses\.jsonl"):
        train(_LineTrainer(TrainingConfig(), _Line, tmp_path), lambda progress: _Steps(), 2, lambda: None)


@dataclass(frozen=True)
class _Width:
    width: int = 1


class _Line(torch.nn.Module):
    """The smallest model: one number."""

    def __init__(self) -> None:
        super().__init__()
        self.architecture = _Width()
        self.weight = torch.nn.Parameter(torch.ones(1))


class _LineTrainer(DenoiserTrainer):
    def train_step(self, batch: Any) -> float:
        loss = (self.model.weight - batch).square().sum()
        self.update(loss)
        return float(loss.detach())


class _Steps:
    def batch(self, count: int, seed: int, step: int) -> float:
        return float(step)


class _Killed(BaseException):
    pass


def _trained(folder: Path, stop_at: int | None, where: str, patch: pytest.MonkeyPatch) -> None:
    """Trains in a folder, and stops beside the checkpoint of a step: before its samples, or before its tensors."""
    trainer = _LineTrainer(TrainingConfig(steps=6, warmup=1), _Line, folder)
    trainer.resume()

    def samples() -> None:
        if trainer.step == stop_at and where == "samples":
            raise _Killed
        (folder / "samples.txt").write_text(repr(trainer.average.weight.item()))
        with (folder / "errors.jsonl").open("a") as file:
            file.write(json.dumps({"step": trainer.step}) + "\n")

    def save(*arguments: Any) -> None:
        if trainer.step == stop_at and where == "tensors":
            raise _Killed
        real(*arguments)

    real = checkpoint.save
    with patch.context() as inner, held(folder):
        inner.setattr(checkpoint, "save", save)
        train(trainer, lambda progress: _Steps(), 2, samples)


@pytest.mark.parametrize("where", ["samples", "tensors"])
@pytest.mark.parametrize("step", [2, 6])
def test_a_training_that_was_killed_beside_a_checkpoint_ends_with_the_same_files(
    tmp_path, monkeypatch, step, where
):
    found = []
    for name, stop in (("whole", None), ("killed", step)):
        folder = tmp_path / name
        folder.mkdir()
        if stop is not None:
            with pytest.raises(_Killed):
                _trained(folder, stop, where, monkeypatch)
        _trained(folder, None, where, monkeypatch)
        rows = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
        texts = [(folder / file).read_text() for file in ("samples.txt", "errors.jsonl")]
        found.append(([{**row, "seconds": 0} for row in rows], texts))
    assert found[0] == found[1]
    assert [row["step"] for row in found[0][0]] == [2, 4, 6]
