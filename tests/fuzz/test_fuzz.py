"""Every kind of input, damaged in some dozens of ways, is accepted or refused in one line; and the fuzzer notices
what is neither.

`make fuzz MINUTES=10` tries other ways, and says how to repeat one that ends badly.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random

import pytest
import yaml

from fuzz import mutations, sandbox
from fuzz.campaign import tally_of
from fuzz.kinds import KINDS
from fuzz.mutations import FOREIGN

SEED = 17_000_000
TRIES = {
    **dict.fromkeys(("recipes", "overrides", "meshes", "pictures", "data sets"), 30),
    **dict.fromkeys(("runs", "scenes", "models"), 15),
    **dict.fromkeys(("films", "diffusers models", "ssdnerf"), 8),
}
RARE = 3  # tries of the other kinds


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    """A process of one thread that forks the tries: this one may have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
            executor.submit(os.getpid).result()  # it starts with the first call
            yield executor


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and time are those of Linux")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_are_read_or_refused_in_one_line(kind: str, process: ProcessPoolExecutor) -> None:
    tries = TRIES.get(kind, RARE)
    tally = process.submit(tally_of, kind, SEED, tries).result()
    assert not tally.findings, "\n".join(map(str, tally.findings))
    assert tally.counts.total() == tries


def crash() -> None:
    raise ValueError("two\nlines")


def two_lines() -> None:
    from threedgen.core.errors import UserError

    raise UserError("one\ntwo")


def refuse() -> None:
    from threedgen.core.errors import UserError

    Path("tmp/left.bin").write_bytes(b"x")
    Path("tmp/left.bin").unlink()
    raise UserError("this is wrong: do that")


def spin() -> None:
    while True:
        pass


def wait() -> None:
    time.sleep(60.0)


def fill() -> None:
    bytearray(5 * 1024**3)


def leave() -> None:
    Path("tmp/left.bin").write_bytes(b"x")


def spoil() -> None:
    Path("inputs/a").write_bytes(b"y")


def stray() -> None:
    Path("../stray").write_bytes(b"x")


def unpickle() -> None:
    import pickle

    data = b""
    while not data.startswith(b"c"):
        data = mutations.foreign(Random(len(data)), b"")
    pickle.loads(data)


def untrusted_yaml() -> None:
    yaml.unsafe_load(f"!!python/object/apply:{FOREIGN}.run [1]\n")


def result() -> int:
    Path("out").mkdir()
    Path("out/made").write_bytes(b"x")
    return 0


def verdict_on(use: sandbox.Use, place: Path, seconds: int, wall: float) -> str:
    sandbox.SECONDS, sandbox.WALL = seconds, wall
    (place / "inputs").mkdir()
    (place / "inputs" / "a").write_bytes(b"x")
    try:
        return sandbox.attempt(use, place).verdict
    finally:
        shutil.rmtree(place)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and time are those of Linux")
@pytest.mark.parametrize(
    ("use", "verdict"),
    [
        (result, sandbox.ACCEPTED),
        (refuse, sandbox.ONE_LINE),
        (two_lines, sandbox.TRACEBACK),
        (crash, sandbox.TRACEBACK),
        (os.abort, sandbox.TRACEBACK),
        (spin, sandbox.HANG),
        (wait, sandbox.HANG),
        (fill, sandbox.MEMORY),
        (leave, sandbox.LEFT),
        (spoil, sandbox.LEFT),
        (stray, sandbox.LEFT),
        (unpickle, sandbox.CODE),
        (untrusted_yaml, sandbox.CODE),
    ],
)
def test_what_a_try_comes_to(
    use: sandbox.Use, verdict: str, process: ProcessPoolExecutor, tmp_path: Path
) -> None:
    (tmp_path / "try").mkdir()
    assert process.submit(verdict_on, use, tmp_path / "try", 1, 1.5).result() == verdict


def test_the_same_seed_damages_a_folder_in_the_same_way(tmp_path: Path) -> None:
    def damaged(seed: int, root: Path) -> tuple[str, list[bytes]]:
        root.mkdir(parents=True)
        (root / "x.json").write_text('{"a": [1, 2.5, {"b": "c"}]}')
        (root / "y.txt").write_text("1 2 3\n4 5 6\n7 8 9\n")
        deed = mutations.damage(Random(seed), root)
        return deed, [path.read_bytes() for path in sorted(root.iterdir()) if path.is_file()]

    results = []
    for seed in range(20):
        one, two = (damaged(seed, tmp_path / name / str(seed)) for name in ("a", "b"))
        assert one == two
        results.append(one[0])
    assert len(set(results)) > 10
