"""Code banks of small objects, for tests."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch

from threedgen.core.random import generator
from threedgen.ssdnerf import code_bank
from threedgen.ssdnerf.code_bank import CodeBank, Records

SHAPE, CELLS = (3, 2, 4, 4), 3
COUNT = code_bank.OBJECTS_PER_SHARD + 3  # two shards, the second one shorter
NAMES = [field.name for field in fields(Records)]


def new_bank(folder: Path, count: int = COUNT, seed: int = 7, scale: float = 0.5) -> CodeBank:
    bank = CodeBank.create(folder, count, SHAPE, CELLS)
    bank.initialise(seed, scale)
    return bank


def drawn(count: int, tag: int) -> Records:
    """Records that differ for every tag."""
    rng = generator(0, "records", tag)
    code, first, second = torch.randn(3, count, *SHAPE, generator=rng)
    density = torch.rand(count, CELLS, CELLS, CELLS, generator=rng).half()
    return Records(code, first, second, torch.full((count,), tag), density)


def commit(bank: CodeBank) -> torch.Tensor:
    bank.flush()
    bank.committed()
    return bank.slots


def assert_same(got: Records, expected: Records) -> None:
    for name in NAMES:
        left, right = getattr(got, name), getattr(expected, name)
        assert left.dtype == right.dtype, name
        assert torch.equal(left, right), name
