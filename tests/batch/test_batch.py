"""Batches: each row becomes a run once, whatever stops the command; and what the batch says about them."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import fake_parts
import pytest

from threedgen.batch import making
from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.jobs.lock import holding

pytestmark = [
    pytest.mark.filterwarnings("ignore:no exporter for Tensor"),
    pytest.mark.usefixtures("trusted_runs"),
]
# The others hold seconds and places of the machine.
COMPARED = ("recipe.yaml", "metrics.jsonl", "checkpoint/state.json")


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_recipe(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(fake_parts.RECIPE)


def batch(table: str, *options: str) -> int:
    return main(["batch", table, "--out", "out", "--recipe", "tiny.yaml", *options])


def entries() -> list[dict]:
    return [json.loads(line) for line in Path("out/index.jsonl").read_text().splitlines()]


def summary() -> list[dict[str, str]]:
    with open("out/summary.csv", newline="") as file:
        return list(csv.DictReader(file))


def bits(run: Path) -> list[bytes]:
    """What two runs of the same thing have in common."""
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [{k: v for k, v in row.items() if "second" not in k} for row in metrics]
    tensors = sorted((run / "checkpoint").glob("*.safetensors"))
    return [
        (run / "recipe.yaml").read_bytes(),
        json.dumps(steps).encode(),
        *(t.read_bytes() for t in tensors),
    ]


def test_each_line_of_a_text_becomes_a_run_like_any_other(capsys):
    Path("prompts.txt").write_text("red\n\n# not this one\nrather blue\n")
    assert batch("prompts.txt") == 0
    assert capsys.readouterr().out.split() == ["out/summary.csv", "out/gallery.html"]
    runs = sorted(path for path in Path("out/runs").iterdir())
    assert [re.sub("-[0-9a-f]{16}$", "", run.name) for run in runs] == ["rather-blue", "red"]
    assert main(["text-to-3d", "red", "--recipe", "tiny.yaml", "--out", "alone"]) == 0
    assert bits(runs[1]) == bits(Path("alone"))
    assert [(row["subject"], row["state"], row["run"]) for row in summary()] == [
        ("red", "finished", runs[1].name),
        ("rather blue", "finished", runs[0].name),
    ]


def test_a_second_time_keeps_what_is_finished_and_makes_what_is_new():
    Path("prompts.txt").write_text("red\n")
    assert batch("prompts.txt") == 0
    (run,) = Path("out/runs").iterdir()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    Path("prompts.txt").write_text("blue\nred\n")
    assert batch("prompts.txt") == 0
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert [entry["subject"] for entry in entries()] == ["red", "blue"]
    assert [row["subject"] for row in summary()] == ["blue", "red"]


def test_a_run_that_was_removed_is_made_again():
    Path("prompts.txt").write_text("red\n")
    assert batch("prompts.txt") == 0
    (run,) = Path("out/runs").iterdir()
    before = bits(run)
    (run / "report.json").unlink()
    assert batch("prompts.txt") == 0
    assert bits(run) == before
    assert (run / "report.json").is_file()


def test_a_command_that_was_killed_goes_on_to_the_same_bits():
    """The second row kills the process at its step 25; its checkpoint is that of step 20."""
    table = [{"prompt": "red"}, {"prompt": "blue", "guidance.0.kill_at": 25}, {"prompt": "green"}]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    command = [
        sys.executable,
        "-m",
        "threedgen",
        "batch",
        "rows.jsonl",
        "--out",
        "out",
        "--recipe",
        "tiny.yaml",
    ]
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    killed = subprocess.run(
        command, env={**os.environ, "FAKE_KILL": "1", "PYTHONPATH": path}, capture_output=True
    )
    assert killed.returncode == -9
    assert [entry["subject"] for entry in entries()] == ["red"]
    with open("out/index.jsonl", "ab") as file:
        file.write(b'{"key": "cut')  # as if it had been killed while it wrote
    assert batch("rows.jsonl") == 0
    assert [entry["subject"] for entry in entries()] == ["red", "blue", "green"]
    settings = ["guidance.0.kill_at=25", "--recipe", "tiny.yaml", "--out", "alone"]
    assert main(["text-to-3d", "blue", *settings]) == 0
    (resumed,) = Path("out/runs").glob("blue-*")
    assert bits(resumed) == bits(Path("alone"))
    left = [path for path in Path("out").rglob("*") if ".threedgen" in path.name]
    assert left == []


def test_a_row_that_fails_does_not_stop_the_others_and_is_tried_again(capsys):
    Path("rows.csv").write_text("prompt,guidance.0.refuse_at\nred,\nblue,3\ngreen,\n")
    for _ in range(2):
        assert batch("rows.csv") == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert "1 of 3 rows failed" in said
    assert [row["state"] for row in summary()] == ["finished", "failed", "finished"]
    assert summary()[1]["reason"] == "the guidance refuses step 3"
    assert [entry["subject"] for entry in entries()] == ["red", "blue", "green", "blue"]


def test_a_bug_in_a_row_is_named_and_the_others_go_on(monkeypatch, capsys):
    Path("rows.jsonl").write_text('{"prompt": "red", "guidance.0.strength": 1}\n{"prompt": "blue"}\n')
    original = fake_parts.Pull.__call__

    def broken(self, output, cameras, prompt, *rest):
        if prompt == "red":
            raise ZeroDivisionError("by hand")
        return original(self, output, cameras, prompt, *rest)

    monkeypatch.setattr(fake_parts.Pull, "__call__", broken)
    assert batch("rows.jsonl") == 2
    assert "Traceback" in capsys.readouterr().err
    assert [row["reason"] for row in summary()] == ["ZeroDivisionError: by hand", ""]


def test_the_page_shows_texts_as_they_are():
    prompt = '<script>alert("x")</script> & more'
    Path("rows.jsonl").write_text(
        json.dumps({"prompt": prompt})
        + "\n"
        + json.dumps({"prompt": "<b>", "guidance.0.refuse_at": 1})
        + "\n"
    )
    assert batch("rows.jsonl") == 2
    page = Path("out/gallery.html").read_text()
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page
    assert "the guidance refuses step 1" in page
    assert "http:" not in page
    assert "https:" not in page
    for source in re.findall(r'src="([^"]+)"', page):
        assert source.startswith("runs/")


def test_a_page_of_many_rows_ends_and_says_so(monkeypatch):
    monkeypatch.setattr("threedgen.batch.pages.SHOWN", 1)
    Path("prompts.txt").write_text("red\nblue\n")
    assert batch("prompts.txt") == 0
    page = Path("out/gallery.html").read_text()
    assert page.count("<figure") == 1
    assert "the first 1 of 2 rows" in page


def test_two_batches_do_not_write_into_one_folder(capsys):
    Path("prompts.txt").write_text("red\n")
    with holding(Path("out").absolute(), str):
        assert batch("prompts.txt") == 2
    assert "is in use" in capsys.readouterr().err
    assert not Path("out/runs").exists()


def test_ctrl_c_keeps_what_is_finished(monkeypatch, capsys):
    Path("prompts.txt").write_text("red\nblue\n")
    original = making.finish

    def interrupted(piece, make):
        if "blue" in piece.path.name:
            raise KeyboardInterrupt(piece.path)
        return original(piece, make)

    monkeypatch.setattr(making, "finish", interrupted)
    assert batch("prompts.txt") == 130
    said = capsys.readouterr().err
    assert "resume" not in said
    assert "the same command continues" in said
    assert [row["state"] for row in summary()] == ["finished", "not made yet"]


def test_a_full_disk_is_one_line_and_keeps_the_index(monkeypatch, capsys):
    Path("prompts.txt").write_text("red\nblue\n")
    assert batch("prompts.txt") == 0

    def full(*_):
        raise OSError(28, "No space left on device")

    Path("prompts.txt").write_text("red\ngreen\n")
    with monkeypatch.context() as patched:
        patched.setattr("threedgen.batch.index.os.fsync", full)
        assert batch("prompts.txt") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert batch("prompts.txt") == 0
    assert sorted({entry["subject"] for entry in entries()}) == ["blue", "green", "red"]


def test_links_among_the_runs_are_not_followed(capsys):
    Path("prompts.txt").write_text("red\n")
    assert batch("prompts.txt") == 0
    (run,) = Path("out/runs").iterdir()
    run.rename("elsewhere")
    Path("elsewhere/report.json").unlink()
    run.symlink_to(Path("elsewhere").absolute())
    assert batch("prompts.txt") == 2
    assert "is a link" in summary()[0]["reason"]
    assert not Path("elsewhere/report.json").exists()


def test_workers_of_this_process_raise_nothing_but_ctrl_c():
    def make(piece):
        raise UserError("in\ntwo lines")

    with making.InThisProcess(make) as work:
        ((_, outcome),) = work(iter([making.Piece("text-to-3d", {}, Path("x"))]))
    assert (outcome.state, outcome.reason) == ("failed", "in two lines")
