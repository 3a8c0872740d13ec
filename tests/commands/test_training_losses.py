"""The losses of a training that was stopped."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from threedgen.commands.training import train


def test_a_training_that_was_stopped_after_its_last_step_knows_its_last_loss(tmp_path):
    rows = [{"step": step, "loss": loss, "seconds": 1.0} for step, loss in ((2, 0.5), (4, 0.25), (6, 0.125))]
    (tmp_path / "losses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done: Any = SimpleNamespace(
        folder=tmp_path, step=4, config=SimpleNamespace(steps=4), fit=lambda bank, every, report: None
    )
    assert train(done, lambda report: None, 2, lambda: None) == 0.25  # type: ignore[arg-type,return-value]
