"""The compiled part of the pretend GPU: with it, torch's autograd accepts a device that is not there.

This module must not import torch: the guard has to be loaded before torch, which asks once what devices there are.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("guard.cpp")


def compiler() -> str | None:
    """The C++ compiler that builds the guard, or None."""
    return shutil.which("c++") or shutil.which("g++")


def build_guard(folder: Path) -> Path:
    """The library, built in `folder` in a few seconds, or found there."""
    library, torch = folder / "guard.so", _torch()
    if not library.is_file():
        includes = [torch / "include", torch / "include/torch/csrc/api/include"]
        command = [
            *(str(compiler()), "-O0", "-shared", "-fPIC", "-std=c++20", str(_SOURCE), f"-L{torch / 'lib'}"),
            *(part for path in includes for part in ("-isystem", str(path))),
            *("-ltorch_cpu", "-lc10", "-o", str(library)),
        ]
        subprocess.run(command, check=True)
    return library


def load_guard(library: Path) -> None:
    """Loads it in this process, for good."""
    for name in ("libtorch_global_deps.so", "libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(_torch() / "lib" / name), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def _torch() -> Path:
    """The folder of the package torch, found without importing it."""
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0])
