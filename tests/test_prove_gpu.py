"""The script that proves what a GPU does, in its form for a machine without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "prove_gpu.py"


def run(*words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """The script in a process of its own. before: Python that is run first, such as what breaks something."""
    start = f"import runpy, sys\nsys.path.insert(0, {str(SCRIPT.parent)!r})\n{before}\n"
    code = (
        start + f"sys.argv = {[str(SCRIPT), *words]!r}\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_every_block_holds_on_the_cpu(tmp_path):
    figures, table = tmp_path / "figures.json", tmp_path / "table.md"
    done = run("--device", "cpu", "--json", str(figures), "--markdown", str(table))
    assert done.returncode == 0, done.stdout + done.stderr
    blocks = json.loads(figures.read_text())
    for name, block in blocks.items():
        assert block["musts"] > 0, name
        assert f"{name}: {block['musts']} of {block['musts']} hold" in done.stdout
    assert table.read_text().strip().splitlines()[-1] in done.stdout


@pytest.mark.parametrize(
    ("block", "broken"),
    [
        (
            "splatting",
            "from threedgen.renderers.backends import native\n"
            "splat = native.splat\n"
            "native.splat = lambda *given: tuple(0.99 * part for part in splat(*given))",
        ),
        ("volume", "from threedgen.renderers.backends import native_volume\ndel native_volume.render"),
    ],
)
def test_a_renderer_that_is_wrong_fails_its_block(block, broken):
    done = run("--device", "cpu", "--only", block, before=broken)
    assert done.returncode == 1
    assert f"{block} FAILED: " in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so():
    done = run()
    assert done.returncode == 2
    assert done.stderr.startswith("prove_gpu: --device cuda: ")
    assert len(done.stderr.splitlines()) == 1
