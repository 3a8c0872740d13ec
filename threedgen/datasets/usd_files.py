"""OpenUSD files (.usd, .usda, .usdc, .usdz), which usd-core reads: `pip install "threedgen[usd]"` installs it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from threedgen.core.errors import UserError

SUFFIXES = (".usd", ".usda", ".usdc", ".usdz")


def modules(path: Path, *names: str) -> list[ModuleType]:
    """Modules of usd-core. path: of the file that needs them. Raises UserError where it is not installed."""
    try:
        return [import_module(f"pxr.{name}") for name in names]
    except ImportError as error:
        raise UserError(f'{path} needs usd-core: pip install "threedgen[usd]"') from error


def opened(path: Path) -> Any:
    """The stage of a file. Raises UserError without usd-core, and if it cannot be read."""
    Usd, Tf = modules(path, "Usd", "Tf")
    try:
        return Usd.Stage.Open(str(path))
    except Tf.ErrorException as error:  # its messages are pages about its own files
        raise UserError(f"{path} is no USD file, or damaged") from error


def z_is_up(stage: Any) -> bool:
    """Whether the world of a stage has Z up, and not Y."""
    UsdGeom = import_module("pxr.UsdGeom")
    return UsdGeom.GetStageUpAxis(stage) == UsdGeom.Tokens.z
