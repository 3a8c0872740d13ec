"""report.json: what was made, how long it took, with which versions of packages, and its scores."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from threedgen.core.atomic import store
from threedgen.core.memory import gpu_in_use, peak_memory

_DIGITS = 3  # after the point of a duration in seconds
_PACKAGES = ("threedgen", "torch", "diffusers", "transformers", "numpy", "scikit-image", "imageio", "gsplat")


def build_report(
    *,
    prompt: str,
    seed: int,
    seconds: Mapping[str, float],
    scores: Mapping[str, float] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The report of one run.

    seconds: wall time of each phase; their sum is added as "total", and all are rounded to milliseconds.
    scores: named measures. more: further entries, which `write_report` must be able to write.
    """
    durations = {**seconds, "total": sum(seconds.values())}
    return {
        "prompt": prompt,
        "seed": seed,
        "seconds": {phase: round(duration, _DIGITS) for phase, duration in durations.items()},
        "peak_memory_bytes": peak_memory(),
        "versions": {"python": platform.python_version(), **versions()},
        "platform": {
            "system": platform.platform(),
            "machine": platform.machine(),
            "processors": os.cpu_count(),
        },
        "gpu": gpu_in_use(),
        "scores": dict(scores or {}),
        **more,
    }


def write_report(path: str | Path, report: Mapping[str, Any]) -> Path:
    """Writes strict JSON: NaN and infinities become null, tensors and numpy numbers plain numbers, paths text.

    Raises TypeError for a value that JSON cannot hold, and UserError if the place cannot be written.
    """
    path = Path(path)
    text = json.dumps(strict(report), indent=2, allow_nan=False, ensure_ascii=False)
    store(path, f"{text}\n".encode())
    return path


def strict(value: Any) -> Any:
    """The value in the types of JSON. Raises TypeError for a value that has no such form."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy and torch, without importing them
        return strict(value.tolist())
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    raise TypeError(f"a report cannot hold {type(value).__name__}")


def versions() -> dict[str, str]:
    """Installed versions of the packages that influence results, read from their metadata without an import."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
