from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from pathlib import Path

import pytest
import torch
from code_records import CELLS, COUNT, NAMES, SHAPE, assert_same, commit, drawn, new_bank
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from threedgen.core import checkpoint
from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.ssdnerf import code_bank
from threedgen.ssdnerf.code_bank import CodeBank, Records


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "bank"


class BankAndMemory(RuleBasedStateMachine):
    """A bank behaves like a dictionary of records, and when it is opened again it is as at the last commit."""

    objects = st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=3, unique=True)

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.place = tempfile.TemporaryDirectory()
        self.bank = new_bank(Path(self.place.name))
        everything = self.bank.read(range(COUNT))
        self.now = {name: getattr(everything, name).clone() for name in NAMES}
        self.kept, self.slots, self.tag = dict(self.now), self.bank.slots, 0

    @rule(objects=objects)
    def write(self, objects: list[int]) -> None:
        self.tag += 1
        records = drawn(len(objects), self.tag)
        self.bank.write(objects, records)
        for name in NAMES:
            self.now[name] = self.now[name].clone()
            self.now[name][objects] = getattr(records, name)

    @rule()
    def commit(self) -> None:
        self.slots, self.kept = commit(self.bank), dict(self.now)

    @rule()
    def reset(self) -> None:
        mean = self.now["code"].double().mean(0).float()
        self.bank.reset_to_mean()
        torch.testing.assert_close(self.bank.read([COUNT - 1]).code[0], mean, rtol=0, atol=1e-6)
        self.now = {name: torch.zeros_like(value) for name, value in self.now.items()}
        self.now["code"][:] = self.bank.read([0]).code

    @rule()
    def crash(self) -> None:
        self.bank, self.now = CodeBank.open(self.bank.folder, self.slots), dict(self.kept)

    @invariant()
    def agrees(self) -> None:
        objects = [COUNT - 1, *range(0, COUNT, 9)]
        assert_same(self.bank.read(objects), Records(**{name: self.now[name][objects] for name in NAMES}))

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.place.cleanup()


TestBankAndMemory = BankAndMemory.TestCase
TestBankAndMemory.settings = settings(max_examples=8, stateful_step_count=15, deadline=None)


def train(folder: Path, steps: int) -> None:
    """Works like a training that can be resumed: every step changes a few objects, and every third saves a
    checkpoint."""
    state = folder / "checkpoint"
    if checkpoint.exists(state):
        tensors, about = checkpoint.load(state)
        bank, first = CodeBank.open(folder / "bank", tensors["slots"]), about["step"]
    else:
        bank, first = new_bank(folder / "bank"), 0
    for step in range(first, steps):
        objects = torch.randperm(COUNT, generator=generator(0, "batch", step))[:4].tolist()
        was, change = bank.read(objects), drawn(4, step)
        bank.write(
            objects,
            Records(
                0.9 * was.code + change.code,
                0.5 * was.first + was.code,
                0.5 * was.second + was.first,
                was.step + 1,
                torch.maximum(was.density, change.density),
            ),
        )
        if step == steps // 2:
            bank.reset_to_mean()
        if (step + 1) % 3 == 0:
            bank.flush()
            checkpoint.save(state, {"slots": bank.slots}, {"step": step + 1})
            bank.committed()


@pytest.mark.skipif(sys.platform != "linux", reason="kills forked processes")
def test_a_training_killed_at_any_instant_ends_with_the_same_bits(tmp_path: Path):
    steps, rng, killed = 60, random.Random(0), 0
    began = time.perf_counter()
    train(tmp_path / "whole", steps)
    duration = time.perf_counter() - began
    fork = multiprocessing.get_context("fork")
    for attempt in range(100):
        process = fork.Process(target=train, args=(tmp_path / "killed", steps))
        process.start()
        # Later attempts get longer, so that it ends however busy the machine is.
        process.join(rng.uniform(0.0, 0.15 * duration) * (1 + attempt / 5))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        killed += 1
    assert process.exitcode == 0
    assert killed
    banks = []
    for name in ("whole", "killed"):
        tensors, about = checkpoint.load(tmp_path / name / "checkpoint")
        assert about["step"] == steps
        banks.append(CodeBank.open(tmp_path / name / "bank", tensors["slots"]).read(range(COUNT)))
    assert_same(*banks)
    assert int(banks[0].step.max()) > 0


def test_a_commit_is_read_back_while_and_after_the_next_writes(folder: Path):
    bank = new_bank(folder)
    bank.write([1, 65], drawn(2, 1))
    slots = commit(bank)
    for tag in (2, 3):
        bank.write([1, 65], drawn(2, tag))
    assert_same(CodeBank.open(folder, slots).read([1, 65]), drawn(2, 1))
    assert_same(bank.read([1, 65]), drawn(2, 3))


def test_a_mean_that_was_committed_outlives_the_next_one(folder: Path):
    bank, means, slots = new_bank(folder), [], []
    for tag in range(3):
        bank.write(range(COUNT), drawn(COUNT, tag))
        bank.reset_to_mean()
        means.append(drawn(COUNT, tag).code.double().mean(0).float())
        for opened, mean in ((bank, means[-1]), *((CodeBank.open(folder, s), means[-2]) for s in slots[-1:])):
            torch.testing.assert_close(opened.read([5]).code[0], mean, rtol=0, atol=1e-6)
            torch.testing.assert_close(opened.mean_code(), mean, rtol=0, atol=1e-6)
        slots.append(commit(bank))


def test_two_processes_of_a_training_are_one(folder: Path):
    """Each process writes its own objects and marks those of the other. Then both have the same slots and
    records."""
    one = new_bank(folder)
    other = CodeBank.open(folder)
    for tag in range(4):
        mine, theirs = [tag, 64], [tag + 5, 66]
        one.write(mine, drawn(2, tag))
        other.write(theirs, drawn(2, 10 + tag))
        one.mark(theirs)
        other.mark(mine)
        assert torch.equal(one.slots, other.slots)
        assert_same(one.read([*mine, *theirs]), other.read([*mine, *theirs]))
        if tag % 2:
            assert torch.equal(commit(one), commit(other))
    one.reset_to_mean()
    other.reset_to_mean()
    assert torch.equal(one.slots, other.slots)
    assert_same(one.read([3]), other.read([3]))


def test_codes_begin_small_different_and_as_the_seed_says(folder: Path, tmp_path: Path):
    bank = new_bank(folder, scale=1e-4)
    codes = bank.read(range(COUNT)).code
    assert 0.9e-4 < codes.abs().max() <= 1e-4
    assert codes.mean().abs() < 1e-5
    assert len({code.numpy().tobytes() for code in codes}) == COUNT
    again = new_bank(tmp_path / "again", scale=1e-4)
    assert torch.equal(again.read([5, 66, 5]).code, codes[[5, 66, 5]])
    assert not torch.equal(new_bank(tmp_path / "other", seed=8, scale=1e-4).read([5]).code, codes[[5]])
    torch.testing.assert_close(bank.mean_code(), codes.double().mean(0).float(), rtol=0, atol=1e-11)
    begun = bank.read([3])
    assert int(begun.step) == 0
    assert not any(getattr(begun, name).any() for name in ("first", "second", "density"))


def test_nothing_that_is_trained_can_be_initialised_away(folder: Path):
    bank = new_bank(folder)
    bank.write([0], drawn(1, 1))
    with pytest.raises(ValueError, match="before anything is written"):
        bank.initialise(1)


def test_what_was_read_does_not_change_with_the_bank(folder: Path):
    bank = new_bank(folder)
    bank.write([2], drawn(1, 1))
    before = bank.read([2])
    bank.write([2], drawn(1, 2))
    before.code.mul_(2.0)
    assert_same(bank.read([2]), drawn(1, 2))
    bank.slots.zero_()
    assert int(bank.slots[1]) == code_bank.INITIAL


def test_densities_that_half_precision_cannot_hold_are_its_largest(folder: Path):
    bank, records = new_bank(folder), drawn(1, 1)
    large = torch.full((1, CELLS, CELLS, CELLS), 1e6)
    bank.write([0], Records(records.code, records.first, records.second, records.step, large))
    assert (bank.read([0]).density == 65504.0).all()


def test_any_reader_of_safetensors_opens_a_shard(folder: Path):
    from safetensors.torch import load_file

    bank = new_bank(folder)
    bank.write([2, 66], drawn(2, 1))
    for index, name in ((0, "codes-00000.safetensors"), (1, "codes-00001.safetensors")):
        tensors, place = load_file(folder / name), (2, 66)[index] - 64 * index
        for field in NAMES:
            assert torch.equal(tensors[field][place, 0], getattr(drawn(2, 1), field)[index]), field
    bank.reset_to_mean()
    assert torch.equal(load_file(folder / code_bank.MEAN_FILE)["mean"][0], bank.read([0]).code[0])


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc and at blocks")
def test_a_new_bank_takes_no_disk_and_a_read_leaves_no_pages(folder: Path):
    bank = CodeBank.create(folder, 200, (3, 4, 32, 32), 16)
    assert sum(path.stat().st_size for path in folder.iterdir()) > 40e6
    assert sum(path.stat().st_blocks * 512 for path in folder.iterdir()) < 1e6
    rng = torch.Generator().manual_seed(0)
    code = torch.randn(8, 3, 4, 32, 32, generator=rng)
    records = Records(code, code, code, torch.ones(8, dtype=torch.int64), torch.ones(8, 16, 16, 16))
    for first in range(0, 200, 8):
        bank.write(range(first, first + 8), records)
        bank.read(range(first, first + 8))
    assert str(folder) not in Path("/proc/self/maps").read_text()
    assert not any(
        str(folder) in os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
    )


def test_read_ahead_asks_for_the_bytes_of_the_records(folder: Path, monkeypatch: pytest.MonkeyPatch):
    bank, found = new_bank(folder), b""
    for tag in (1, 2):
        bank.write([65], drawn(1, tag))
        bank.flush()
        bank.committed()
    data = (folder / "codes-00001.safetensors").read_bytes()

    def advise(_: int, start: int, length: int, __: int) -> None:
        nonlocal found
        found += data[start : start + length]

    records = bank.read([65])
    monkeypatch.setattr(os, "posix_fadvise", advise, raising=False)
    monkeypatch.setattr(code_bank, "_AHEAD", 100)
    bank.expect([65, 3])  # the other object is not on the disk
    parts = [getattr(records, name).numpy().tobytes() for name in NAMES]
    assert len(found) == sum(map(len, parts))
    assert all(part in found for part in parts)


def test_a_new_bank_replaces_an_old_one(folder: Path):
    new_bank(folder).write([1], drawn(1, 1))
    (folder / "notes.txt").write_text("not ours")
    small = CodeBank.create(folder, 2, SHAPE, CELLS)
    assert {path.name for path in folder.iterdir()} == {
        code_bank.DOCUMENT, code_bank.MEAN_FILE, "codes-00000.safetensors", "notes.txt",
    }  # fmt: skip
    assert not small.read([0, 1]).code.any()


def test_a_creation_that_was_stopped_leaves_no_bank(folder: Path, monkeypatch: pytest.MonkeyPatch):
    new_bank(folder)

    def stop(_: CodeBank) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(CodeBank, "_save_document", stop)
    with pytest.raises(KeyboardInterrupt):
        CodeBank.create(folder, 5, SHAPE, CELLS)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"no code bank .* bank.json is missing"):
        CodeBank.open(folder)
    CodeBank.create(folder, 5, SHAPE, CELLS)
    assert CodeBank.open(folder).count == 5
