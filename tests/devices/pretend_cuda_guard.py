"""The compiled part of the pretend GPU: with it, torch's autograd accepts a device that is not there.

This module must not import torch: the guard has to be loaded before torch, which asks once what devices there are.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
from pathlib import Path

from threedgen.core.atomic import replacing
from threedgen.core.cache import user_folder

_SOURCE = Path(__file__).with_name("guard.cpp")


def compiler() -> str | None:
    """The C++ compiler that builds the guard, or None."""
    return shutil.which("c++") or shutil.which("g++")


def build_guard() -> Path:
    """The library, built in the user's cache in half a minute at most, or found there."""
    torch, cache = _torch(), user_folder("pretend-cuda")
    assert cache is not None
    made_of = _SOURCE.read_bytes() + importlib.metadata.version("torch").encode()
    library = cache / f"{hashlib.sha256(made_of).hexdigest()[:16]}.so"
    if not library.is_file():
        includes = [torch / "include", torch / "include/torch/csrc/api/include"]
        command = [
            *(str(compiler()), "-O0", "-shared", "-fPIC", "-std=c++20", str(_SOURCE), f"-L{torch / 'lib'}"),
            *(part for path in includes for part in ("-isystem", str(path))),
            *("-ltorch_cpu", "-lc10", "-o"),
        ]
        with replacing(library) as made:
            subprocess.run([*command, str(made)], check=True)
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
