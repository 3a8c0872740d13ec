"""What may be read and written inside a run folder."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch

from threedgen.core import checkpoint, inside
from threedgen.core.errors import UserError


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("run/previews").mkdir(parents=True)
    Path("run/recipe.yaml").write_text("steps: 1\n")
    Path("secret.txt").write_text("not part of the run")
    return Path("run")


@pytest.mark.parametrize("target", ["/", "../../secret.txt", "link", "../recipe.yaml", "../missing"])
def test_links_are_followed_for_reading_only_if_they_stay_inside(run, target):
    place = run / "previews/link"
    place.symlink_to(target)
    if target in ("../recipe.yaml", "../missing"):
        inside.require_readable(run)
    else:
        with pytest.raises(UserError, match=f"'{place}' is a link that leads out of the run folder"):
            inside.require_readable(run)
    with pytest.raises(UserError, match=f"'{place}' is a link, and links in a run folder are not followed"):
        inside.require_writable(run)


def test_the_folder_itself_may_be_a_link(run):
    Path("latest").symlink_to("run")
    Path("run/link").symlink_to("recipe.yaml")
    inside.require_readable(Path("latest"))
    Path("run/link").unlink()
    inside.require_writable(Path("latest"))


def test_what_is_no_file_is_refused_by_its_kind_and_not_waited_for(run):
    pipe, name = run / "previews/pipe", run / "previews/socket"
    os.mkfifo(pipe)
    for check in (inside.require_readable, inside.require_writable):
        with pytest.raises(UserError, match=f"'{pipe}' is a named pipe"):
            check(run)
    with pytest.raises(UserError, match="is a named pipe and not a file"):
        inside.read_bytes(pipe, 10)
    pipe.unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(name))
        with pytest.raises(UserError, match=f"'{name}' is a socket"):
            inside.require_readable(run)
    with pytest.raises(UserError, match="is a folder and not a file"):
        inside.read_bytes(run, 10)
    with pytest.raises(UserError, match="is a device and not a file"):
        inside.read_bytes(Path("/dev/zero"), 10)


def test_a_file_that_is_too_large_is_not_read(run):
    with (run / "recipe.yaml").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match=f"has {1 << 40} bytes, and at most {1 << 26}"):
        inside.read_text(run / "recipe.yaml", inside.DOCUMENT)


@pytest.mark.parametrize("known", [True, False])
def test_tensors_that_are_larger_than_they_should_be_are_not_read(run, known):
    """known: whether the state lists their sizes, which that of older versions does not."""
    folder = run / "checkpoint"
    checkpoint.save(folder, {"a": torch.zeros(3), "b": torch.zeros(2, 0)}, {"step": 1})
    if not known:
        state = (folder / "state.json").read_text()
        (folder / "state.json").write_text(state.replace('"sizes"', '"unknown"'))
    assert checkpoint.load(folder)[1] == {"step": 1}
    (tensors,) = folder.glob("*.safetensors")
    whole = tensors.read_bytes()
    for damage in (lambda file: file.truncate(1 << 40), lambda file: file.write(b"\xff" * 8)):
        with tensors.open("r+b") as file:
            damage(file)
        with pytest.raises(UserError, match="is truncated or altered"):
            checkpoint.load(folder)
        tensors.write_bytes(whole)


def test_a_folder_that_a_link_leads_to_is_not_written(run):
    (run / "samples").symlink_to("/")
    for folder in (run / "samples", run / "samples" / "deeper"):
        with pytest.raises(UserError, match="'run/samples' is a link"):
            inside.require_no_link(folder, "run")
    inside.require_no_link(run / "new", run)
