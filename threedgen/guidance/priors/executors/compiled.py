"""Compiled graphs of OpenVINO: made from a network and checked against it once, then read from the disk."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from threedgen.core import machine
from threedgen.guidance.priors.executors.deferred import DeferredNetwork, loaded
from threedgen.guidance.priors.executors.identity import signature, tensors_of
from threedgen.guidance.priors.executors.store import GraphStore, Stored

BFLOAT16, FLOAT16, FLOAT32 = "bfloat16", "float16", "float32"
# Of the difference from the network itself, as a share of the norm of the output. A graph is right if it passes in
# float32, where the shipped networks have 1e-6 to 4e-6 and one without a single layer norm 0.03 to 0.1. In bfloat16
# they have 0.005 to 0.01, and up to 0.042 at the least noise, which is rounded away beside the picture.
# float16 has three more bits than bfloat16.
TOLERANCE = {BFLOAT16: 0.06, FLOAT16: 0.0075, FLOAT32: 1e-4}
_HINT = {BFLOAT16: "bf16", FLOAT32: "f32"}
_PATIENCE = 1800.0  # seconds for a trial


class Graph:
    """A compiled graph. Calls from several threads wait for each other."""

    def __init__(self, graph: bytes, properties: Mapping[str, Any]) -> None:
        """Raises RuntimeError if this OpenVINO cannot use the graph."""
        import openvino as ov

        compiled = ov.Core().import_model(graph, "CPU", dict(properties))
        self._request = compiled.create_infer_request()
        # The arrays of the graph, which tensors of torch share: filling them is all that a pass costs beside.
        self._inputs = [
            torch.from_numpy(self._request.get_input_tensor(i).data) for i in range(len(compiled.inputs))
        ]
        self._output = torch.from_numpy(self._request.get_output_tensor(0).data)
        self._lock = threading.Lock()

    def __call__(self, arguments: Mapping[str, Any]) -> Tensor:
        """The output of the network for its arguments."""
        with self._lock:
            for own, given in zip(self._inputs, tensors_of(arguments), strict=True):
                own.copy_(given.detach())
            self._request.infer(share_outputs=True)
            return self._output.clone()


def best_precision() -> str:
    """bfloat16 on a processor that computes in it, else float32."""
    return BFLOAT16 if machine.computes_in_bfloat16() else FLOAT32


def properties_of(precision: str) -> dict[str, Any]:
    """The settings of OpenVINO: as many threads as torch, which are not bound to cores that others may be using."""
    return {
        "INFERENCE_PRECISION_HINT": _HINT[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }


def find_graph(
    network: nn.Module | DeferredNetwork,
    arguments: Mapping[str, Any],
    precision: str,
    identity: Mapping[str, Any],
    store: GraphStore,
) -> tuple[Graph | None, dict[str, Any]]:
    """The graph of a network for such arguments, and facts for the report.

    Without a usable graph the first is None and the facts say `why`. precision: the one that is wanted; bfloat16
    becomes float32 if it is not exact enough. identity: of the network (see `identity_of`).
    """
    asked = {**identity, "inputs": signature(arguments), "precision": precision} | {
        "threads": torch.get_num_threads()
    }
    stored = store.read(asked)
    if stored is not None:
        graph = _usable(stored)
        if graph is not None or "why" in stored.facts:
            return graph, stored.facts
    stored = _make(loaded(network), arguments, precision)
    store.write(asked, stored)
    return _usable(stored), stored.facts


def _usable(stored: Stored) -> Graph | None:
    if not stored.graph:
        return None
    try:
        return Graph(stored.graph, properties_of(stored.facts["precision"]))
    except RuntimeError:  # of another build of OpenVINO, or for another processor
        return None


def _make(network: nn.Module, arguments: Mapping[str, Any], precision: str) -> Stored:
    """Traces, compiles and checks a graph, always in float32 too, which tells a wrong graph from rounding."""
    from threedgen.guidance.priors.executors.openvino_graph import graph_of, save_graph
    from threedgen.guidance.priors.executors.openvino_values import Unsupported

    try:
        model = graph_of(network, arguments)
    except Unsupported as error:
        return Stored({"why": f"its operation {error} is not in the table"}, b"")
    except Exception as error:  # noqa: BLE001  torch raises anything for a network that it cannot trace
        return Stored({"why": f"torch cannot trace it ({type(error).__name__})"}, b"")
    with torch.no_grad():
        expected = network(**arguments, return_dict=False)[0]
    with tempfile.TemporaryDirectory(prefix="threedgen-graph-") as name:
        folder = Path(name)
        save_graph(model, folder / "network.xml")
        np.savez(folder / "inputs.npz", *_arrays(tensors_of(arguments)))
        precisions = list(dict.fromkeys((FLOAT32, precision)))
        _try(folder, precisions)
        best = Stored({"why": "OpenVINO fails on it"}, b"")
        for tried in precisions:
            if not (folder / f"{tried}.npy").is_file():
                break
            error = difference(torch.from_numpy(np.load(folder / f"{tried}.npy")), expected)
            if error <= TOLERANCE[tried]:
                graph = (folder / f"{tried}.bin").read_bytes()
                best = Stored({"precision": tried, "error": float(f"{error:.2g}")}, graph)
            elif tried == FLOAT32:
                return Stored({"why": f"its graph differs from it by {error:.2g} of the output"}, b"")
        return best


def _try(folder: Path, precisions: Sequence[str]) -> None:
    """Leaves the graph in `folder` there in compiled form with its output, as far as OpenVINO gets."""
    settings = {precision: properties_of(precision) for precision in precisions}
    (folder / "trials.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, str(Path(__file__).with_name("trial.py")), str(folder)]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(command, capture_output=True, timeout=_PATIENCE)


def difference(output: Tensor, expected: Tensor) -> float:
    """The distance as a share of the norm; infinite if there are numbers that are not finite."""
    if output.shape != expected.shape or not bool(output.isfinite().all()):
        return float("inf")
    return float((output - expected).norm() / expected.norm().clamp_min(1e-12))


def _arrays(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]
