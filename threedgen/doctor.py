"""`threedgen doctor`: what works on this machine, what does not, and why."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass

from threedgen import __version__, machine

# Optional libraries and what they would add. Looked up, never imported: some start a compiler when touched.
OPTIONAL = {
    "gsplat": "splatting on CUDA (pip install threedgen[cuda])",
    "nerfacc": "volume rendering on CUDA (not used yet)",
    "pytorch3d": "meshes on CUDA (not used yet)",
    "nvdiffrast": "meshes on CUDA (not used yet; non-commercial licence)",
    "fast_simplification": "mesh decimation",
    "accelerate": "loading large priors with less memory",
    "sentencepiece": "T5 tokenizers (DeepFloyd IF; pip install threedgen[deepfloyd])",
}
CORE = (
    "diffusers",
    "transformers",
    "safetensors",
    "omegaconf",
    "kornia",
    "trimesh",
    "skimage",
    "imageio",
    "rich",
)
_PACKAGE = {"skimage": "scikit-image", "fast_simplification": "fast-simplification"}


@dataclass(frozen=True)
class Finding:
    """One line of the report. ok: True works, None is optional and absent, False is a problem."""

    name: str
    ok: bool | None
    text: str


def examine() -> Iterator[Finding]:
    """Findings, one at a time (importing torch takes a second or two)."""
    yield Finding("python", True, platform.python_version())
    installed = machine.version("threedgen")
    yield Finding("threedgen", True, installed or f"{__version__}, run from its source folder")
    for name in ("torch", "numpy"):
        version = machine.version(name)
        yield Finding(name, version is not None, version or "not installed")
    yield Finding("cores", True, f"{os.cpu_count()} (this process may use {_usable_cores()})")
    yield _kernels()
    yield _cuda()
    yield _torchvision()
    for name in CORE:
        yield _library(name, None)
    for name, purpose in OPTIONAL.items():
        yield _library(name, purpose)
    yield from _backends()
    yield _embedded_prior()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _kernels() -> Finding:
    from threedgen import kernels

    if kernels.load_native() is not None:
        return Finding("compiled kernels", True, "present")
    advice = "the slow torch backend is used; install a C++17 compiler and reinstall threedgen"
    return Finding("compiled kernels", False, f"absent: {kernels.why_absent()}; {advice}")


def _cuda() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding("CUDA", True, f"{torch.version.cuda}: {names}")
    why = "torch sees no GPU" if torch.version.cuda else "this torch is a CPU build"
    return Finding("CUDA", None, f"not available: {why}")


def _torchvision() -> Finding:
    """A torchvision that does not fit torch fails at import and breaks transformers with it."""
    if importlib.util.find_spec("torchvision") is None:
        return Finding("torchvision", True, "not installed (not needed)")
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # noqa: BLE001  any failure of a foreign import is the finding
        reason = " ".join(str(error).split())[:120]
        return Finding(
            "torchvision", False, f"broken, and it breaks transformers: pip uninstall torchvision ({reason})"
        )
    return Finding(
        "torchvision", True, f"{machine.version('torchvision')} imports (threedgen does not need it)"
    )


def _library(name: str, purpose: str | None) -> Finding:
    found = importlib.util.find_spec(name) is not None
    if found:
        return Finding(name, True, machine.version(_PACKAGE.get(name, name)) or "present")
    if purpose is None:
        return Finding(name, False, "missing: pip install threedgen again")
    return Finding(name, None, f"not installed; would give {purpose}")


def _backends() -> Iterator[Finding]:
    from threedgen.renderers import backends

    for name, reason in backends.available("splatting").items():
        yield Finding(f"splatting: {name}", True if reason is None else None, reason or "available")


def _embedded_prior() -> Finding:
    from threedgen.guidance.priors.load import EMBEDDED_WEIGHTS

    if (EMBEDDED_WEIGHTS / "model_index.json").is_file():
        size = sum(file.stat().st_size for file in EMBEDDED_WEIGHTS.rglob("*") if file.is_file())
        return Finding("embedded prior", True, f"{size / 1e6:.1f} MB")
    return Finding("embedded prior", False, "weights missing: reinstall threedgen, or name one with --prior")
