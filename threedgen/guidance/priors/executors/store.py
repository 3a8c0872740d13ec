"""Compiled graphs on disk, so that a second run neither traces nor compiles a network nor checks it again."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from threedgen.core import cache
from threedgen.core.atomic import replacing
from threedgen.core.errors import UserError

_FORMAT = "threedgen graph 1"
_SUFFIX = ".graph"
_LENGTH = 8  # bytes that hold the length of the header


class Stored(NamedTuple):
    """What was found out about a network at some shapes of its inputs.

    facts: JSON. graph: empty if it has none that agrees with the network.
    """

    facts: dict[str, Any]
    graph: bytes


class GraphStore:
    """One file per identity: a header with the identity, the facts and a digest, and then the graph.

    folder: created by the first `write`; None stores nothing. limit: bytes; beyond it, `write` deletes the files
    whose last use is longest ago, and a graph of more than half of it is not stored.
    """

    def __init__(self, folder: Path | None, limit: int = 2 * 1024**3) -> None:
        self._folder, self._limit = folder, limit

    def path(self, identity: Mapping[str, Any]) -> Path | None:
        """The file of an identity, which is anything that JSON can hold."""
        name = hashlib.sha256(_text([_FORMAT, identity]).encode()).hexdigest()
        return None if self._folder is None else self._folder / f"{name}{_SUFFIX}"

    def read(self, identity: Mapping[str, Any]) -> Stored | None:
        """What was written for `identity`; None if nothing was, or if the file is damaged or foreign."""
        path = self.path(identity)
        if path is None:
            return None
        try:
            content = path.read_bytes()
            end = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
            header = json.loads(content[_LENGTH:end])
            stored = Stored(header["facts"], content[end:])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if header != _header(identity, stored):
            return None
        cache.mark_used(path)
        return stored

    def write(self, identity: Mapping[str, Any], stored: Stored) -> None:
        """Store completely or not at all. Warns if the folder cannot be written."""
        path = self.path(identity)
        if path is None or 2 * len(stored.graph) > self._limit:
            return
        header = _text(_header(identity, stored)).encode()
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                file.write(len(header).to_bytes(_LENGTH, "little"))
                file.write(header)
                file.write(stored.graph)
        except (UserError, OSError) as error:
            warnings.warn(
                f"a compiled network is not stored for the next run ({error}); "
                "the environment variable THREEDGEN_CACHE names another folder",
                stacklevel=2,
            )
        else:
            cache.prune(path.parent, f"*{_SUFFIX}", self._limit)


def _header(identity: Mapping[str, Any], stored: Stored) -> dict[str, Any]:
    digest = hashlib.sha256(_text(stored.facts).encode())
    digest.update(stored.graph)
    # Through JSON, so that tuples compare equal to the lists that are read back.
    plain = json.loads(_text(identity))
    return {"format": _FORMAT, "identity": plain, "facts": stored.facts, "sha256": digest.hexdigest()}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
