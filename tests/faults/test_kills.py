"""The script that kills commands, on the smallest of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_training_that_is_killed_ends_with_the_same_files(tmp_path):
    words = ["--kills", "1", "--seed", "3", "--jobs", "train nerfdiff", "--work", str(tmp_path / "work")]
    script = str(Path(__file__).with_name("kills.py"))
    result = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "| train nerfdiff | " in result.stdout
