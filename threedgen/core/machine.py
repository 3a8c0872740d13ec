"""What this process runs on: the device, and the versions of installed packages."""

from __future__ import annotations

from importlib import metadata

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
