"""What this process runs on: the device, and the versions of installed packages."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

from threedgen.core.errors import UserError


def choose_device(name: str) -> str:
    """The device, "cpu" or "cuda", for "auto", "cpu" or "cuda". Raises UserError if CUDA is named but missing."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda
        why = "torch sees no GPU" if built else "this torch is a CPU build"
        raise UserError(f"--device cuda: {why}; use --device cpu, or see `threedgen doctor`")
    return name


def version(package: str) -> str | None:
    """The installed version of a distribution, None if it is not installed; nothing is imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The kind of the processor and what it can compute, as far as the system tells."""
    return f"{platform.machine()} {platform.processor()} {' '.join(_cpu_flags())}".strip()


def computes_in_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself (avx512_bf16 or AMX), as far as Linux tells; else False."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpu_flags())


def _cpu_flags() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []  # not Linux
    return next((sorted(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), [])
