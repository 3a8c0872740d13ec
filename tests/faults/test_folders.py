"""Folders that change under a command: removed, taken by another one, or read-only; and a clock that goes back."""

from __future__ import annotations

import itertools
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fuzz.inputs import TINY

from threedgen.commands.main import main
from threedgen.core import checkpoint
from threedgen.jobs.lock import LOCK, OWNER

RUN = ("text-to-3d", "a cube", "--steps", "4", *TINY, "checkpoint.every=2")
TRAINING = ("train", "nerfdiff", "shape-world:cube", "--objects", "1", "--size", "16", "--batch", "1")
LATENT = ("train", "ssdnerf", "shape-world:car", "--objects", "2", "--size", "16", "--grid-every", "0")
_LATENT = ("steps=4", "batch=2", "rays=64")
COMMANDS = {
    "a run": RUN,
    "a training": (*TRAINING, "--steps", "4", "--save-every", "2"),
    "a latent training": (
        *LATENT,
        "--recipe",
        "ssdnerf-tiny",
        "--save-every",
        "2",
        "steps=4",
        "batch=2",
        "rays=64",
    ),
}


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("threedgen:")]
    assert len(lines) == 1, lines
    return lines[0]


def at_second_checkpoint(patch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Something happens to the folder just before a checkpoint is written."""
    real, calls = checkpoint.save, itertools.count(1)

    def save(*arguments, **keywords):  # type: ignore[no-untyped-def]
        if next(calls) == 2:
            happens()
        real(*arguments, **keywords)

    patch.setattr(checkpoint, "save", save)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_is_removed_ends_the_command(name, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    at_second_checkpoint(monkeypatch, lambda: shutil.rmtree(out))
    assert main([*COMMANDS[name], "--out", str(out)]) == 2
    assert str(out) in one_line(capsys)
    # What was in the middle of being written is all that there is, and the command can begin again.
    assert not (out / "report.json").exists()
    monkeypatch.undo()
    shutil.rmtree(out, ignore_errors=True)
    assert main([*COMMANDS[name], "--out", str(out)]) == 0


def test_a_folder_that_another_process_has_taken_meanwhile_is_left_to_it(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    owner = json.dumps({"process": 1, "machine": "elsewhere"})

    def taken() -> None:
        shutil.rmtree(out)
        out.mkdir()
        (out / OWNER).write_text(owner)
        (out / LOCK).touch()
        (out / "recipe.yaml").write_text("theirs")

    at_second_checkpoint(monkeypatch, taken)
    assert main([*RUN, "--out", str(out)]) == 2
    assert "was removed or moved" in one_line(capsys)
    assert (out / OWNER).read_text() == owner
    assert (out / LOCK).is_file()
    assert (out / "recipe.yaml").read_text() == "theirs"


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A copy of `folder` on a disk of its own that cannot be written, in the same place."""
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        shutil.copytree(copy, folder, dirs_exist_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_on_a_disk_that_cannot_be_written_runs_are_read_and_the_rest_is_refused(tmp_path, capsys):
    disk = tmp_path / "disk"
    assert main([*RUN, "--out", str(disk / "run")]) == 0
    (disk / "half").mkdir()
    shutil.copy(disk / "run" / "recipe.yaml", disk / "half")
    shutil.copytree(disk / "run" / "checkpoint", disk / "half" / "checkpoint")
    with read_only(disk):
        capsys.readouterr()
        run, half = str(disk / "run"), str(disk / "half")
        for words in (
            [*RUN, "--out", str(disk / "new")],
            ["resume", half],
            ["export", run, "--to", str(disk / "asset.ply")],
            ["render", run, "--to", str(disk / "film.gif"), "frames=2", "size=32"],
            ["eval", run],
            [*COMMANDS["a training"], "--out", str(disk / "training")],
            [*COMMANDS["a latent training"], "--out", str(disk / "latent")],
        ):
            assert main(words) == 2, words
            assert str(disk) in one_line(capsys), words
        for words in (
            ["export", half, "--to", str(tmp_path / "asset.ply")],
            ["render", run, "--to", str(tmp_path / "film.gif"), "frames=2", "size=32"],
        ):
            assert main(words) == 0, words


def test_a_clock_that_goes_back_changes_nothing(tmp_path, monkeypatch):
    expected = tmp_path / "expected"
    assert main([*RUN, "--out", str(expected)]) == 0
    hours = itertools.count(0, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(hours)))
    monkeypatch.setattr(time, "time_ns", lambda: next(hours) * 10**9)
    assert main([*RUN, "--out", str(tmp_path / "run")]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert all(value >= 0.0 for value in report["seconds"].values())
    for name in ("asset.ply", "asset.glb", "contact_sheet.png"):
        assert (tmp_path / "run" / name).read_bytes() == (expected / name).read_bytes(), name


@pytest.mark.parametrize("killed", [True, False])
def test_a_command_that_was_killed_before_its_recipe_can_be_given_again(killed, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "previews").mkdir(parents=True)
    (out / ".threedgen-999999999-x.yaml").touch()
    (out / LOCK).touch()
    if killed:
        (out / OWNER).write_text(json.dumps({"process": 999_999_999, "machine": platform.node()}))
    assert main([*RUN, "--out", str(out)]) == (0 if killed else 2)
    if killed:
        assert not list(out.glob(".threedgen-*"))
    else:  # somebody else's folder
        assert "is not empty and not a run" in one_line(capsys)


def test_the_users_own_scene_file_is_not_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("assets").mkdir()
    text = "# mine\nseconds: 1\nassets:\n- {name: cube, prompt: a cube}\n"
    Path("scene.yaml").write_text(text)
    assert main(["compose", "scene.yaml", "--out", "."]) == 2
    assert "is not empty and not a run" in one_line(capsys)
    assert Path("scene.yaml").read_text() == text


@pytest.mark.parametrize(
    "words",
    [
        ["image-to-3d", "pipe.png"], ["image-to-3d", "pipe.mp4"], ["fit", "pipe.glb"], ["fit", "pipe.ply"],
        ["compose", "pipe.yaml"], ["text-to-4d", "a cube", "--video", "pipe.mp4"],
    ],
)  # fmt: skip
def test_nobody_waits_for_a_named_pipe(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkfifo(words[-1])
    assert main(words) == 2
    assert words[-1] in one_line(capsys)


def test_nobody_waits_for_a_named_pipe_in_a_model_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("model/tokenizer").mkdir(parents=True)
    Path("model/model_index.json").write_text("{}")
    os.mkfifo("model/tokenizer/vocab.json")
    assert main(["text-to-3d", "a cube", "--prior", "model", "--out", "out"]) == 2
    assert "model/tokenizer/vocab.json' is neither a file nor a folder" in one_line(capsys)
