"""The backends that compute the renders. Whether one is available, or why not, is detected once.

`native` is C++ on the CPU; `gsplat`, `nerfacc`, `pytorch3d` and `nvdiffrast` run on CUDA; `torch` computes the
same as all of them in plain torch: exact, in float32 or float64, and slow. `auto` never takes nvdiffrast, whose
licence is not free, nor nerfacc, which adds nothing to plain torch on CUDA. No CUDA library is imported unless
`torch.cuda.is_available()`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType

# Not `import torch`: the submodule of that name would replace it in this namespace.
from torch import cuda
from torch import device as Device

from threedgen import kernels
from threedgen.core.errors import UserError
from threedgen.renderers.backends import gsplat_kernels


def _native_reason() -> str | None:
    reason = kernels.why_absent()
    if reason is None:
        return None
    return (
        f"the compiled kernels are missing ({reason}); install a C++17 compiler, then run pip install again"
    )


def _cuda_reason(package: str, advice: str) -> str | None:
    """Why a CUDA library cannot be used, found without importing it; None if it can."""
    if not cuda.is_available():
        return "no CUDA device"
    if importlib.util.find_spec(package) is None:
        return f"not installed: {advice}"
    return None


def _gsplat_reason() -> str | None:
    return _cuda_reason("gsplat", _EXTRA) or gsplat_kernels.missing()


_EXTRA = "pip install 'threedgen[cuda]'"
_FROM_SOURCE = "build it from source for your torch and CUDA (it is not on PyPI)"


# (module, a function that says why it cannot be used, the types of device on which it runs). The preferred are
# first.
_Backend = tuple[str, Callable[[], str | None], tuple[str, ...]]
_HERE = "threedgen.renderers.backends"
_CPU, _CUDA, _ANY = ("cpu",), ("cuda",), ("cpu", "cuda", "mps")
_BACKENDS: Mapping[str, Mapping[str, _Backend]] = MappingProxyType(
    {
        "splatting": {
            "gsplat": (f"{_HERE}.gsplat", _gsplat_reason, _CUDA),
            # A GPU waits for the CPU then, which is still far faster than plain torch.
            "native": (f"{_HERE}.native", _native_reason, ("cpu", "cuda")),
            "torch": (f"{_HERE}.torch", lambda: None, _ANY),
        },
        "volume": {
            "native": (f"{_HERE}.native_volume", _native_reason, _CPU),
            "torch": (f"{_HERE}.torch_volume", lambda: None, _ANY),
            "nerfacc": (f"{_HERE}.nerfacc", lambda: _cuda_reason("nerfacc", _EXTRA), _CUDA),
        },
        "mesh": {
            "native": (f"{_HERE}.native_mesh", _native_reason, _CPU),
            "pytorch3d": (f"{_HERE}.pytorch3d", lambda: _cuda_reason("pytorch3d", _FROM_SOURCE), _CUDA),
            "torch": (f"{_HERE}.torch_mesh", lambda: None, _ANY),
            "nvdiffrast": (f"{_HERE}.nvdiffrast", lambda: _cuda_reason("nvdiffrast", _FROM_SOURCE), _CUDA),
        },
    }
)
BY_NAME_ONLY = ("nvdiffrast", "nerfacc")
# What has to be done once, and says why it failed, before a backend that seems to be available is used.
_PREPARE: Mapping[str, Callable[[], str | None]] = MappingProxyType({"gsplat": gsplat_kernels.build})


@functools.cache
def available(kind: str) -> Mapping[str, str | None]:
    """The backends of a renderer ("splatting", "volume", "mesh") by name: None if it can be used, else why not.
    Detected once; nothing is compiled for that."""
    return MappingProxyType({name: probe() for name, (_, probe, _) in _BACKENDS[kind].items()})


def choose(kind: str, name: str, device: Device | str) -> str:
    """The backend that `name` means on a device; "auto" is the fastest one that is available.

    Raises UserError if a named backend is unknown, not available, or runs on another type of device.
    """
    backends, device_type = _BACKENDS[kind], Device(device).type
    if name == "auto":
        for candidate, (_, _, devices) in backends.items():
            if candidate in BY_NAME_ONLY:
                continue
            if device_type in devices and _why_not(kind, candidate) is None:
                _warn_slow(kind, candidate, device_type)
                return candidate
        raise UserError(f"no {kind} backend runs on '{device_type}': use device=cpu")
    if name not in backends:
        raise UserError(f"unknown {kind} backend '{name}': use auto, {', '.join(backends)}")
    if device_type not in backends[name][2] and available(kind)[name] is None:
        devices = " or ".join(backends[name][2])
        raise UserError(f"the {kind} backend '{name}' runs on {devices}, not on {device_type}: use auto")
    if (reason := _why_not(kind, name)) is not None:
        raise UserError(f"the {kind} backend '{name}' is not available: {reason}")
    return name


def _why_not(kind: str, name: str) -> str | None:
    """Why a backend cannot be used, after it was prepared for use; None if it can."""
    reason = available(kind)[name]
    if reason is None and name in _PREPARE:
        reason = _PREPARE[name]()
    return reason


def load(kind: str, name: str) -> ModuleType:
    """The module of a backend that `choose` returned."""
    return importlib.import_module(_BACKENDS[kind][name][0])


@functools.cache
def _warn_slow(kind: str, name: str, device_type: str) -> None:
    """A warning if `name`, which was chosen, is much slower than a backend that is absent."""
    through_cpu = name == "native" and device_type != "cpu"
    # Volumes in plain torch are as fast as their networks on a GPU.
    if not through_cpu and (name != "torch" or (kind == "volume" and device_type == "cuda")):
        return
    absent = [
        f"{other}: {reason}"
        for other, (_, _, devices) in _BACKENDS[kind].items()
        if other not in BY_NAME_ONLY and device_type in devices and (reason := _why_not(kind, other))
    ]
    how = "the compiled kernels of the CPU" if through_cpu else "the plain torch backend"
    slower = "slower than a GPU" if through_cpu else "about 100 times slower"
    warnings.warn(
        f"{kind} runs on {how}, which is {slower} ({'; '.join(absent)})", RuntimeWarning, stacklevel=3
    )
