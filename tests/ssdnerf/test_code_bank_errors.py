from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from code_records import CELLS, COUNT, NAMES, SHAPE, assert_same, commit, drawn, new_bank

from threedgen.core.errors import UserError
from threedgen.ssdnerf import code_bank
from threedgen.ssdnerf.code_bank import CodeBank, Records


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "bank"


def message(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_shape_and_another_count_are_named(folder: Path):
    bank = new_bank(folder)
    bank.require(COUNT, SHAPE, CELLS)
    assert "67 objects" in message(bank.require, COUNT + 1, SHAPE, CELLS)
    assert "[3, 2, 4, 4]" in message(bank.require, COUNT, (3, 2, 8, 8), CELLS)
    assert "3 cells" in message(bank.require, COUNT, SHAPE, 4)
    assert "of 2 objects" in message(CodeBank.open, folder, torch.zeros(2, dtype=torch.uint8))
    assert "names slots" in message(CodeBank.open, folder, torch.full((COUNT,), 9, dtype=torch.uint8))
    assert "code of [3, 2, 4, 4] for each object" in message(bank.write, [0, 1], drawn(1, 1))
    assert "at least one" in message(CodeBank.create, folder, 0, SHAPE, CELLS)
    for index in (-1, COUNT):
        with pytest.raises(IndexError):
            bank.read([index])


def test_nothing_is_written_of_records_that_do_not_fit(folder: Path):
    bank, good = new_bank(folder), drawn(1, 1)
    bad = Records(good.code, good.first, good.second, good.step, torch.zeros(1, 4, 4, 4))
    message(bank.write, [0], bad)
    with pytest.raises(IndexError):
        bank.write([0, COUNT], drawn(2, 1))
    assert (bank.slots == code_bank.INITIAL).all()


@pytest.mark.parametrize("damage", ["short", "empty", "missing", "other", "header"])
@pytest.mark.parametrize("name", ["codes-00001.safetensors", code_bank.MEAN_FILE])
def test_a_damaged_file_is_named(folder: Path, name: str, damage: str):
    new_bank(folder)
    path = folder / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "other":
        path.write_bytes((folder / "codes-00000.safetensors").read_bytes())
    else:
        changed = {"short": data[:-1], "empty": b"", "header": data[:8] + b"[" + data[9:]}
        path.write_bytes(changed[damage])
    assert name in message(CodeBank.open, folder)


def test_a_shard_that_gets_shorter_while_it_is_open_is_named(folder: Path):
    bank = new_bank(folder)
    bank.write([66], drawn(1, 1))
    path = folder / "codes-00001.safetensors"
    os.truncate(path, path.stat().st_size // 2)
    assert "codes-00001.safetensors is truncated" in message(bank.read, [66])


def test_numbers_that_are_not_finite_are_named(folder: Path):
    bank = new_bank(folder)
    bank.write([66], drawn(1, 1))
    path = folder / "codes-00001.safetensors"
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes(data[:header] + b"\xff" * (len(data) - header))
    assert "codes-00001.safetensors is damaged" in message(bank.read, [66])


@pytest.mark.parametrize(
    "change", [{"format": 99}, {"count": -1}, {"shape": [3, 2]}, {"cells": "many"}, {"scale": None}]
)
def test_a_document_that_is_none_is_named(folder: Path, change: dict[str, object]):
    new_bank(folder)
    path = folder / code_bank.DOCUMENT
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert code_bank.DOCUMENT in message(CodeBank.open, folder)
    for text in ("", "[]", "{", "3"):
        path.write_text(text)
        assert code_bank.DOCUMENT in message(CodeBank.open, folder)


def test_a_disk_that_is_really_full(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        bank = CodeBank.create(disk / "bank", 8, (3, 4, 32, 32), CELLS)
        code = torch.ones(1, 3, 4, 32, 32)
        records = Records(code, code, code, torch.ones(1), torch.ones(1, CELLS, CELLS, CELLS))
        bank.write([0], records)
        slots = commit(bank)
        with pytest.raises(UserError, match=r"No space left.*last checkpoint is intact"):
            bank.write([0, 1], records_twice(records))
        again = CodeBank.open(disk / "bank", slots)
        assert torch.equal(again.read([0]).second, code)
        assert int(again.read([1]).step) == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def records_twice(records: Records) -> Records:
    return Records(**{name: torch.cat([getattr(records, name)] * 2) + 1 for name in NAMES})


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
def test_a_write_that_fails_leaves_the_commit(folder: Path):
    """The same with a limit on the size of files, which needs no privileges: the write stops half way."""
    import resource

    bank = new_bank(folder)
    bank.write([66], drawn(1, 1))
    slots = commit(bank)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
    try:
        assert "last checkpoint is intact" in message(bank.write, [66], drawn(1, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_same(bank.read([66]), drawn(1, 1))
    assert_same(CodeBank.open(folder, slots).read([66]), drawn(1, 1))
    bank.write([66], drawn(1, 3))
    assert_same(bank.read([66]), drawn(1, 3))
