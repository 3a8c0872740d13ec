"""What decides the content of a compiled graph, as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from threedgen.core import machine

_SOURCES = ("openvino_values.py", "openvino_ops.py", "openvino_graph.py", "../folder/plain_unet.py")
_PACKAGES = ("torch", "diffusers", "openvino")


def signature(arguments: Mapping[str, Any]) -> str:
    """The names of the arguments of a network, the shapes and types of its tensors, and all other values."""
    leaves, structure = pytree.tree_flatten(dict(arguments))
    forms = [f"{leaf.dtype}{list(leaf.shape)}" if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves]
    return f"{structure} {forms}"


def tensors_of(arguments: Mapping[str, Any]) -> list[Tensor]:
    """The tensors among the arguments of a network, also those inside of tuples and dictionaries."""
    return [leaf for leaf in pytree.tree_leaves(dict(arguments)) if isinstance(leaf, Tensor)]


def identity_of(network: nn.Module) -> dict[str, Any]:
    """The part of the identity that is the same for all shapes of inputs: the network and its environment."""
    return {
        "network": type(network).__name__,
        "config": _digest(_config(network).encode()),
        "weights": _weights(network),
        "processors": sorted({_described(p) for p in _processors(network)}),
        **environment(),
    }


def environment() -> dict[str, Any]:
    """The versions and the processor."""
    here = Path(__file__).parent
    return {
        "versions": {name: machine.version(name) for name in _PACKAGES},
        "sources": [_digest((here / name).read_bytes()) for name in _SOURCES],
        "processor": machine.processor(),
    }


def _config(network: nn.Module) -> str:
    config = {k: v for k, v in config_of(network).items() if k != "_name_or_path"}
    return json.dumps(config, sort_keys=True, default=str)


def config_of(network: Any) -> dict[str, Any]:
    """The config of a network as a dictionary."""
    config = getattr(network, "config", {})
    return vars(config) if isinstance(config, SimpleNamespace) else dict(config)


def _weights(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        flat = tensor.detach().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _processors(network: nn.Module) -> list[Any]:
    found = (getattr(module, "processor", None) for module in network.modules())
    return [processor for processor in found if processor is not None]


def _described(processor: Any) -> str:
    """How attention is computed: a class and its settings, which may be another such object."""
    if isinstance(processor, bool | int | float | str | None):
        return repr(processor)
    values = {name: _described(value) for name, value in sorted(getattr(processor, "__dict__", {}).items())}
    return f"{type(processor).__module__}.{type(processor).__qualname__}{values}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
