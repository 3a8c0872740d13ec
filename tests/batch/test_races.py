"""Several seeds of one row: which is best, what stays, and what a second command does."""

from __future__ import annotations

import json
import math
from pathlib import Path

import fake_parts
import pytest

from threedgen.batch.pieces import FAILED, FINISHED, Outcome
from threedgen.batch.races import best_of
from threedgen.commands.main import main
from threedgen.core.errors import UserError

pytestmark = [
    pytest.mark.filterwarnings("ignore:no exporter for Tensor"),
    pytest.mark.usefixtures("trusted_runs"),
]


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_recipe(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(fake_parts.RECIPE)
    Path("prompts.txt").write_text("red\n")


def race(*options: str) -> int:
    return main(["batch", "prompts.txt", "--out", "out", "--recipe", "tiny.yaml", "--steps", "12", *options])


def runs() -> dict[int, Path]:
    """The runs by their seeds."""
    return {int(path.name.rpartition("-")[2]): path for path in Path("out/runs").iterdir()}


def loss(run: Path) -> float:
    return json.loads((run / "report.json").read_text())["scores"]["loss"]


def last_entry() -> dict:
    return json.loads(Path("out/index.jsonl").read_text().splitlines()[-1])


def test_the_best_seed_stays_and_the_index_says_which_and_why():
    assert race("--seeds", "3", "--keep", "all", "--seed", "5") == 0
    losses = {seed: loss(run) for seed, run in runs().items()}
    assert sorted(losses) == [5, 6, 7]
    best = min(losses, key=lambda seed: losses[seed])
    assert race("--seeds", "3", "--seed", "5") == 0  # the runs are there, so that nothing is made
    assert list(runs()) == [best]
    entry = last_entry()
    assert (entry["seed"], entry["score"], entry["scores"]["loss"]) == (best, "loss", losses[best])
    assert entry["run"].endswith(f"-seed-{best}")


def test_what_a_kill_left_of_the_others_is_removed_and_nothing_is_made_again():
    assert race("--seeds", "2") == 0
    (winner,) = runs().values()
    entries = Path("out/index.jsonl").read_text()
    other = winner.with_name(winner.name[:-1] + ("1" if winner.name[-1] == "0" else "0"))
    other.mkdir()
    assert race("--seeds", "2") == 0
    assert list(runs().values()) == [winner]
    assert Path("out/index.jsonl").read_text() == entries


def test_a_score_that_no_run_has_fails_the_row_and_keeps_its_runs():
    assert race("--seeds", "2", "--score", "beauty") == 2
    assert "no score 'beauty' in common" in last_entry()["reason"]
    assert sorted(runs()) == [0, 1]


def outcome(state: str = FINISHED, **scores: float) -> Outcome:
    return Outcome(state, "" if state == FINISHED else "why", 1.0, scores)


@pytest.mark.parametrize(
    ("outcomes", "score", "best"),
    [
        ([outcome(psnr=20.0), outcome(psnr=30.0)], "", (1, "psnr")),
        ([outcome(loss=1.0, psnr=20.0), outcome(loss=0.5, psnr=10.0)], "", (0, "psnr")),
        ([outcome(loss=1.0, psnr=20.0), outcome(loss=0.5, psnr=10.0)], "loss", (1, "loss")),
        ([outcome(loss=1.0), outcome(loss=0.5, psnr=10.0)], "", (1, "loss")),
        ([outcome(psnr=1.0), outcome(psnr=1.0)], "", (0, "psnr")),
        ([outcome(FAILED), outcome(psnr=1.0)], "", (1, "psnr")),
        ([outcome(FAILED), outcome(FAILED)], "", (0, "")),
        ([outcome(psnr=math.nan), outcome(psnr=1.0)], "", (1, "psnr")),
        (
            [outcome(reference_lpips=0.1), outcome(reference_lpips=0.2)],
            "reference_lpips",
            (0, "reference_lpips"),
        ),
    ],
)
def test_the_best_of_some(outcomes, score, best):
    assert best_of(outcomes, score) == best


def test_runs_without_a_score_cannot_be_compared():
    with pytest.raises(UserError, match="no score 'psnr' in common"):
        best_of([outcome(loss=1.0), outcome(loss=1.0)], "psnr")
    with pytest.raises(UserError, match="have no score in common"):
        best_of([outcome(), outcome()])
    assert best_of([outcome(FAILED), outcome(), outcome()], any_will_do=True) == (1, "")
