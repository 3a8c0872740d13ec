"""What this process runs on: device choice, peak memory, versions."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from threedgen.errors import UserError

REPORTED = ("threedgen", "torch", "numpy", "diffusers", "transformers", "safetensors")


def choose_device(name: str) -> str:
    """ "cpu" or "cuda" from auto, cpu or cuda. UserError when CUDA is asked for and not there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda
        why = "torch sees no GPU" if built else "this torch is a CPU build"
        raise UserError(f"--device cuda: {why}; use --device cpu, or see `threedgen doctor`")
    return name


def peak_memory_mb() -> float | None:
    """The most resident memory this process has had, in MB (10^6 bytes); None where that is unknown."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions(packages: Sequence[str] = REPORTED) -> dict[str, str | None]:
    """Installed versions, and Python's and the platform's."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: version(package) for package in packages},
    }
