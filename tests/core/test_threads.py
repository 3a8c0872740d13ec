"""How many threads a command takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from threedgen.core import threads

_CODE = """
import json, os, sys
from pathlib import Path
from typing import Any
from threedgen.core import threads
threads._STATE = Path(sys.argv[1])
threads.available_cores = lambda: 4
choice = threads.choose(int(sys.argv[2]) if sys.argv[2] else None)
settings = [os.environ.get(name) for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")]
import torch
print(json.dumps([choice.count, choice.why, choice.asked, *settings, torch.get_num_threads(), threads.may_be(2)]))
"""


def choose(folder: Path, running: int, asked: str = "", **environment: str) -> list[Any]:
    state = folder / "stat"
    state.write_text(f"cpu 1 2 3\nprocs_running {running}\nprocs_blocked 0\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "GOMP", "KMP"))}
    done = subprocess.run(
        [sys.executable, "-c", _CODE, str(state), asked],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_quiet_machine_leaves_the_number_to_torch_and_lets_threads_sleep(tmp_path: Path) -> None:
    count, why, asked, number, policy, _, may = choose(tmp_path, 1)
    assert (count, why, asked, number, policy, may) == (0, "torch's default", False, None, "passive", True)


@pytest.mark.parametrize(("running", "expected"), [(2, 3), (3, 2), (4, 1), (12, 1)])
def test_cores_that_others_use_are_left_to_them(running: int, expected: int, tmp_path: Path) -> None:
    count, why, asked, number, _, torchs, _ = choose(tmp_path, running)
    assert (count, asked, number) == (expected, False, str(expected))
    assert 1 <= torchs <= expected  # torch takes no more threads than there are processors
    assert why.endswith("computed when the command began")


def test_what_the_user_says_counts(tmp_path: Path) -> None:
    count, why, asked, number, policy, torchs, may = choose(tmp_path, 9, "1", OMP_WAIT_POLICY="active")
    assert (count, why, asked, number, policy, torchs) == (1, "--threads", True, "1", "active", 1)
    assert not may
    count, why, asked, number, policy, torchs, may = choose(tmp_path, 9, OMP_NUM_THREADS="1")
    assert (count, why, asked, number, torchs, may) == (0, "OMP_NUM_THREADS", True, "1", 1, False)


def test_a_system_that_does_not_say_what_is_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_STATE", tmp_path / "none")
    assert threads.running() == 0
    (tmp_path / "none").write_text("cpu 1 2 3\n")
    assert threads.running() == 0
