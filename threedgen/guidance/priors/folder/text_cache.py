"""A cache of encoded texts on disk, so that a second run of a prompt need not load a text encoder of several GB.

The folder may be deleted at any time, damage to it costs nothing but time, and any number of processes may share
it.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import torch
from torch import Tensor

from threedgen.core import cache
from threedgen.core.errors import UserError

Rows = dict[str, Tensor]

_FORMAT = "threedgen encoded text 1"


def cache_folder() -> Path | None:
    """The folder of the encoded texts of this user, see `cache.user_folder`."""
    return cache.user_folder("text")


class TextCache:
    """One safetensors file per text, named after what decides its content: the fingerprint of the encoder and the
    text.

    folder: created by the first `write`. fingerprint: see TextEmbedder. limit: bytes; beyond it, `prune` deletes
    the files whose last use is longest ago.
    """

    def __init__(self, folder: Path, fingerprint: str, limit: int = 2 * 1024**3) -> None:
        self._folder, self._fingerprint, self._limit = folder, fingerprint, limit
        self._writable = True

    def path(self, text: str) -> Path:
        """The file of a text. Two texts that differ in any character have different files."""
        identity = json.dumps([_FORMAT, self._fingerprint, text])
        return self._folder / f"{hashlib.sha256(identity.encode()).hexdigest()}.safetensors"

    def read(self, text: str) -> Rows | None:
        """What was written for `text`; None if nothing was, or if the file is damaged or foreign."""
        import safetensors
        import safetensors.torch

        path = self.path(text)
        try:
            content = path.read_bytes()
            rows = safetensors.torch.load(content)
        except (OSError, safetensors.SafetensorError):
            return None
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        if header.get("__metadata__") != self._header(text, rows):
            return None
        cache.mark_used(path)
        return rows

    def write(self, text: str, rows: Rows) -> None:
        """Store `rows`, completely or not at all. Warns once if the folder cannot be written."""
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
                f"encoded texts are not stored for the next run ({error}); "
                "the environment variable THREEDGEN_CACHE names another folder",
                stacklevel=2,
            )

    def prune(self) -> None:
        """Delete the files whose last use is longest ago until the folder is within its limit."""
        cache.prune(self._folder, "*.safetensors", self._limit)

    def _header(self, text: str, rows: Rows) -> dict[str, str]:
        """The metadata of a file, by which a foreign or damaged file is recognised."""
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
