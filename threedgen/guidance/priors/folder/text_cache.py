"""Encoded texts on disk, so that a second run of a prompt does not load a text encoder of several gigabytes.

A cache, nothing more: the folder may be deleted at any time, whatever is wrong with it costs time only, and any
number of processes may share it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor

from threedgen.core.errors import UserError

Rows = dict[str, Tensor]

_FORMAT = "threedgen encoded text 1"


def cache_folder() -> Path | None:
    """Where this user's encoded texts are kept; None where there is no home directory either.

    $THREEDGEN_CACHE/text if that is set, else threedgen/text in the platform's folder for such files:
    $XDG_CACHE_HOME or ~/.cache, on macOS ~/Library/Caches, on Windows %LOCALAPPDATA%.
    """
    chosen = os.environ.get("THREEDGEN_CACHE")
    try:
        return (Path(chosen).expanduser() if chosen else _platform_folder() / "threedgen") / "text"
    except RuntimeError:  # no home directory
        return None


def _platform_folder() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    chosen = os.environ.get(variable, "")
    # The XDG specification has relative paths ignored.
    return Path(chosen) if os.path.isabs(chosen) else Path.home() / ".cache"


class TextCache:
    """One safetensors file a text, named by what decides its content: the encoder's fingerprint and the text.

    folder: made when first written. fingerprint: see TextEmbedder. limit: bytes; `prune` deletes the files that
    were not used for longest beyond it.
    """

    def __init__(self, folder: Path, fingerprint: str, limit: int = 2 * 1024**3) -> None:
        self._folder, self._fingerprint, self._limit = folder, fingerprint, limit
        self._writable = True

    def path(self, text: str) -> Path:
        """The file of a text. Texts that look alike but differ in a character have different ones."""
        identity = json.dumps([_FORMAT, self._fingerprint, text])
        return self._folder / f"{hashlib.sha256(identity.encode()).hexdigest()}.safetensors"

    def read(self, text: str) -> Rows | None:
        """What was written for `text`; None when nothing was, or when it is not what was written."""
        import safetensors
        import safetensors.torch

        path = self.path(text)
        try:
            content = path.read_bytes()
            rows = safetensors.torch.load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        except (OSError, ValueError, KeyError, safetensors.SafetensorError):
            return None
        if header != self._header(text, rows):
            return None
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            os.utime(path)
        return rows

    def write(self, text: str, rows: Rows) -> None:
        """Keep `rows`, whole or not at all. A folder that cannot be written is a warning, once."""
        if not self._writable:
            return
        import safetensors
        import safetensors.torch

        from threedgen.core.atomic import replacing

        rows = {name: row.cpu() for name, row in rows.items()}
        try:
            with replacing(self.path(text)) as temporary:
                safetensors.torch.save_file(rows, temporary, self._header(text, rows))
        except (UserError, OSError, safetensors.SafetensorError) as error:
            self._writable = False
            warnings.warn(
                f"encoded texts are not kept for the next run ({error}); "
                "the environment variable THREEDGEN_CACHE names another folder",
                stacklevel=2,
            )

    def prune(self) -> None:
        """Delete the files that were not used for longest until the folder is within its limit."""
        files = []
        with contextlib.suppress(OSError):
            for path in self._folder.glob("*.safetensors"):
                with contextlib.suppress(OSError):  # another process prunes too
                    status = path.stat()
                    files.append((status.st_mtime, status.st_size, path))
        excess = sum(size for _, size, _ in files) - self._limit
        for _, size, path in sorted(files):
            if excess <= 0:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            excess -= size

    def _header(self, text: str, rows: Rows) -> dict[str, str]:
        """What a file says about itself: enough to tell a foreign or damaged one."""
        digest = hashlib.sha256()
        for name in sorted(rows):
            row = rows[name]
            digest.update(f"{name} {row.dtype} {list(row.shape)}".encode())
            digest.update(row.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return {
            "format": _FORMAT,
            "encoder": self._fingerprint,
            "text": text,
            "sha256": digest.hexdigest(),
        }
