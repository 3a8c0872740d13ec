"""Networks that are loaded at their first use, which does not come if their graphs are stored.

A graph is a second copy of the weights, and computes without the first. What is known of a network is stored by the
content of its files, once it was loaded from them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from threedgen.core import cache
from threedgen.guidance.priors.executors.identity import config_of, environment, identity_of
from threedgen.guidance.priors.executors.store import GraphStore, Stored

_LIMIT = 64 * 1024**2  # bytes of all that is known of networks, some kilobytes of each


class Known(NamedTuple):
    """config: of the network, with the values that its library fills in. identity: see `identity_of`."""

    config: dict[str, Any]
    identity: dict[str, Any]


class DeferredNetwork:
    """Stands for a frozen network of diffusers in float32 until it is called.

    known: of this network. load: makes it.
    """

    dtype = torch.float32

    def __init__(self, known: Known, load: Callable[[], Any]) -> None:
        self.config = SimpleNamespace(**known.config)
        self._known, self._load = known, load

    @cached_property
    def loaded(self) -> Any:
        """The network."""
        return self._load()

    @property
    def identity(self) -> dict[str, Any]:
        """That of the network as it is, which may have been changed since it was loaded."""
        return identity_of(self.loaded) if "loaded" in vars(self) else self._known.identity

    def __call__(self, **arguments: Any) -> Any:
        return self.loaded(**arguments)


def loaded(network: Any) -> Any:
    """A network, which is loaded now if it was not yet."""
    return network.loaded if isinstance(network, DeferredNetwork) else network


class KnownNetworks:
    """What is known of the networks of this user, as files; in no folder nothing is."""

    def __init__(self) -> None:
        self._store = GraphStore(cache.user_folder("networks"), _LIMIT)

    def find(self, name: str, part: Path) -> Known | None:
        """What is known of the network of the class `name` that the files of the folder `part` hold."""
        stored = self._store.read(_source(name, part))
        return None if stored is None else Known(**stored.facts)

    def add(self, name: str, part: Path, network: Any) -> None:
        """Stores what is known of a network that was loaded from the folder `part`, unless JSON cannot hold it."""
        facts = {"config": config_of(network), "identity": identity_of(network)}
        try:
            json.dumps(facts)
        except TypeError:
            return
        self._store.write(_source(name, part), Stored(facts, b""))


def _source(name: str, part: Path) -> dict[str, Any]:
    """What decides a network that is loaded from a folder, as JSON."""
    digest = hashlib.sha256()
    for file in sorted(part.iterdir()):
        if file.suffix in (".safetensors", ".json"):
            digest.update(f"{file.name} {file.stat().st_size} ".encode())
            with file.open("rb") as stream:
                while piece := stream.read(1 << 20):
                    digest.update(piece)
    return {"class": name, "files": digest.hexdigest(), **environment()}
