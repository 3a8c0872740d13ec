"""Whether gsplat has its CUDA kernels. Its package on PyPI brings only their source, which it compiles at its first
use with nvcc and a C++ compiler; PyTorch's packages bring neither."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import shutil
import warnings
from pathlib import Path

import torch

_MODULE = "gsplat.cuda._backend"


def missing() -> str | None:
    """What gsplat, which is installed, lacks to have kernels; None if nothing is missing, as far as can be told
    without importing it."""
    if _prebuilt():
        return None
    wanted = [
        (_nvcc(), f"nvcc (the CUDA toolkit {torch.version.cuda or 'of this torch'})"),
        (shutil.which(os.environ.get("CXX", "c++")), "a C++ compiler (g++)"),
    ]
    absent = [name for found, name in wanted if not found]
    if not absent:
        return None
    return f"its CUDA kernels are compiled at the first use, which needs {' and '.join(absent)}: install that"


@functools.cache
def build() -> str | None:
    """Loads the kernels, and compiles them if that was not done before; says so, because it takes minutes. Returns
    why it failed, or None."""
    if not (_prebuilt() or _compiled()):
        warnings.warn(
            "gsplat compiles its CUDA kernels now, once for this user: that takes some minutes",
            RuntimeWarning,
            stacklevel=2,
        )
    try:
        found = importlib.import_module(_MODULE)._C
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        return f"its CUDA kernels cannot be compiled ({first}): see https://docs.gsplat.studio"
    return None if found is not None else "its CUDA kernels were not compiled: install the CUDA toolkit"


def _prebuilt() -> bool:
    """Whether the installed package has compiled kernels in it, as gsplat's own wheels have."""
    found = importlib.util.find_spec("gsplat")
    places = found.submodule_search_locations if found is not None else None
    return any(list(Path(place).glob("csrc.*")) for place in places or ())


def _compiled() -> bool:
    """Whether the kernels lie where torch keeps what it compiled."""
    from torch.utils.cpp_extension import _get_build_directory

    return any(Path(_get_build_directory("gsplat_cuda", False)).glob("gsplat_cuda.*"))


def _nvcc() -> str | None:
    """The compiler where torch and gsplat look for it."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    return shutil.which("nvcc") or shutil.which("nvcc", path=str(Path(home) / "bin"))
