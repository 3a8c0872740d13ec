from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from threedgen.core import checkpoint
from threedgen.core.errors import UserError


def example(tag: int) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    return {"scene.means": torch.full((50, 3), float(tag)), "step": torch.tensor(tag)}, {"step": tag}


def tensor_file(folder: Path) -> Path:
    (path,) = folder.glob("tensors-*.safetensors")
    return path


def test_round_trip_keeps_values_shapes_dtypes_and_state(tmp_path: Path):
    base = torch.arange(12, dtype=torch.float64)
    tensors = {
        "double": base,
        "strided": base.reshape(3, 4).T,
        "alias": base,
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "scalar": torch.tensor(7, dtype=torch.int64),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(4, 0, 3),
        "parameter": torch.nn.Parameter(torch.tensor([float("nan"), -0.0, float("inf")])),
    }
    state = {"step": 3, "name": "ein Würfel", "nested": {"list": [1, 2.5, None, True]}}
    checkpoint.save(tmp_path / "deep" / "checkpoint", tensors, state)
    loaded, loaded_state = checkpoint.load(tmp_path / "deep" / "checkpoint")
    assert loaded_state == state
    assert set(loaded) == set(tensors)
    for name, value in tensors.items():
        assert loaded[name].dtype == value.dtype, name
        assert loaded[name].shape == value.shape, name
        torch.testing.assert_close(loaded[name], value.detach(), rtol=0, atol=0, equal_nan=True)


def test_a_new_save_replaces_the_old_and_leaves_two_files(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("not ours")
    for tag in range(3):
        checkpoint.save(tmp_path, *example(tag))
    assert checkpoint.load(tmp_path)[1] == {"step": 2}
    assert len(list(tmp_path.iterdir())) == 3  # state, tensors, and the other file


def test_nothing_is_pickled(tmp_path: Path):
    checkpoint.save(tmp_path, *example(0))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_prefixes_keep_objects_apart():
    together = {
        **checkpoint.prefixed("a", {"x": torch.zeros(1)}),
        **checkpoint.prefixed("ab", {"x": torch.ones(1)}),
    }
    assert set(together) == {"a.x", "ab.x"}
    assert checkpoint.unprefixed("a", together) == {"x": torch.zeros(1)}


WRITER = """
import sys, torch
from threedgen.core import checkpoint
print("ready", flush=True)
tag = int(sys.argv[2])
while True:
    tag += 1
    values = {"a": torch.full((60000,), float(tag)), "b": torch.full((300, 7), float(tag))}
    checkpoint.save(sys.argv[1], values, {"tag": tag})
"""


def test_sigkill_at_random_moments_always_leaves_a_complete_checkpoint(tmp_path: Path):
    folder = tmp_path / "checkpoint"
    checkpoint.save(folder, {"a": torch.zeros(60000), "b": torch.zeros(300, 7)}, {"tag": 0})
    draw = random.Random(1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    last = 0
    for _ in range(4):
        command = [sys.executable, "-c", WRITER, str(folder), str(last)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert process.stdout is not None
        process.stdout.readline()
        # Many looks while it writes (a reader beside the writer), then the kill.
        deadline = time.monotonic() + draw.uniform(0.02, 0.4)
        while time.monotonic() < deadline:
            consistent_tag(folder)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        tag = consistent_tag(folder)
        assert tag >= last
        last = tag
    assert last > 0
    checkpoint.save(folder, *example(last + 1))
    assert len(list(folder.iterdir())) == 2


def consistent_tag(folder: Path) -> int:
    tensors, state = checkpoint.load(folder)
    assert all((value == state["tag"]).all() for value in tensors.values())
    assert tensors["a"].shape == (60000,)
    return int(state["tag"])


class StopHere(BaseException):
    """Stands for SIGKILL: nothing in the code under test catches it."""


def test_stopping_before_or_after_any_single_file_operation_leaves_a_complete_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Every boundary between two operations, one after the other; the random kills only sample them."""
    operations = 0
    limit = 0

    def counted(function):  # type: ignore[no-untyped-def]
        def wrapper(*arguments, **keywords):  # type: ignore[no-untyped-def]
            nonlocal operations
            operations += 1
            if operations > limit:
                raise StopHere
            return function(*arguments, **keywords)

        return wrapper

    for name in ("_write_durably", "flush"):
        monkeypatch.setattr(checkpoint, name, counted(getattr(checkpoint, name)))
    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))

    seen = set()
    limit = 10**9
    checkpoint.save(tmp_path, *example(1))
    for limit in range(14):
        operations = 0
        stopped = False
        try:
            checkpoint.save(tmp_path, *example(100 + limit))
        except StopHere:
            stopped = True
        tensors, state = checkpoint.load(tmp_path)
        assert (tensors["scene.means"] == state["step"]).all()
        if not stopped:
            assert state["step"] == 100 + limit
        seen.add((stopped, state["step"] == 100 + limit))
    # Stopped before the swap, stopped after it, and not stopped at all were all met.
    assert seen == {(True, False), (True, True), (False, True)}


@pytest.mark.parametrize("fails_at", ["tensors", "state"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_failed_write_is_one_line_and_the_previous_checkpoint_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str, error: int
):
    checkpoint.save(tmp_path, *example(1))
    real = checkpoint._write_durably

    def broken(path: Path, data: bytes) -> None:
        if path.name.startswith(fails_at):
            path.write_bytes(data[: len(data) // 2])  # half of it went through
            raise OSError(error, os.strerror(error), str(path))
        real(path, data)

    monkeypatch.setattr(checkpoint, "_write_durably", broken)
    with pytest.raises(UserError, match=os.strerror(error)) as caught:
        checkpoint.save(tmp_path, *example(2))
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert checkpoint.load(tmp_path)[1] == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 2
    checkpoint.save(tmp_path, *example(3))
    assert checkpoint.load(tmp_path)[1] == {"step": 3}


def test_a_disk_that_is_really_full(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs; the simulated ENOSPC above covers the logic")
    try:
        checkpoint.save(disk / "checkpoint", *example(1))
        with pytest.raises(UserError, match="No space left"):
            checkpoint.save(disk / "checkpoint", {"big": torch.zeros(200_000)}, {"step": 2})
        assert checkpoint.load(disk / "checkpoint")[1] == {"step": 1}
        checkpoint.save(disk / "checkpoint", *example(3))
        assert checkpoint.load(disk / "checkpoint")[1] == {"step": 3}
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write the checkpoint"):
        checkpoint.save(tmp_path / "file" / "checkpoint", *example(1))


def test_missing_checkpoint(tmp_path: Path):
    assert not checkpoint.exists(tmp_path)
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "remove"])
def test_a_damaged_tensor_file_is_named(tmp_path: Path, damage: str):
    checkpoint.save(tmp_path, *example(1))
    path = tensor_file(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[:-20])
    elif damage == "flip":
        data[-5] ^= 1
        path.write_bytes(data)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    with pytest.raises(UserError, match=path.name):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 99, "tensors": "x", "digest": "", "state": {}}']
)
def test_a_damaged_state_file_is_named(tmp_path: Path, text: str):
    checkpoint.save(tmp_path, *example(1))
    (tmp_path / checkpoint.STATE_FILE).write_text(text)
    with pytest.raises(UserError, match=r"state\.json"):
        checkpoint.load(tmp_path)
    # ... and does not stand in the way of the next save.
    checkpoint.save(tmp_path, *example(2))
    assert checkpoint.load(tmp_path)[1] == {"step": 2}


def test_a_state_file_cannot_point_outside_the_folder(tmp_path: Path):
    checkpoint.save(tmp_path / "elsewhere", *example(1))
    checkpoint.save(tmp_path / "here", *example(2))
    outside = tensor_file(tmp_path / "elsewhere")
    state = (tmp_path / "here" / "state.json").read_text()
    name = tensor_file(tmp_path / "here").name
    (tmp_path / "here" / "state.json").write_text(state.replace(name, f"../elsewhere/{outside.name}"))
    with pytest.raises(UserError):
        checkpoint.load(tmp_path / "here")


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": "\0"},
        {"tensors": "\ud800"},
        {"tensors": "../other"},
        {"sizes": {"a": 48.0}},
        {"sizes": [1]},
    ],
)
def test_a_state_file_with_values_of_another_kind_is_named(tmp_path: Path, change: dict[str, object]):
    checkpoint.save(tmp_path, *example(1))
    path = tmp_path / checkpoint.STATE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match="is damaged or not a checkpoint"):
        checkpoint.load(tmp_path)
