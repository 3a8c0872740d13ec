"""Passes that torch.compile computes: compiled by its inductor, and on a GPU replayed as a CUDA graph."""

from __future__ import annotations

import importlib.util
import inspect
import os
import shutil
import sys
import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from threedgen.guidance.priors.executors.compiled import TOLERANCE, difference
from threedgen.guidance.priors.executors.identity import tensors_of
from threedgen.guidance.priors.folder.files import first_line


class CompiledPass:
    """A network that torch.compile compiles at the first call, for one shape of its arguments. Calls from several
    threads wait for each other.

    It computes on tensors of its own, into which those of a call are copied: otherwise torch would compile it again
    where only the strides differ, or where a tensor requires a gradient, of which nothing is tracked here.
    """

    def __init__(self, network: nn.Module, arguments: Mapping[str, Any]) -> None:
        leaves, structure = pytree.tree_flatten(dict(arguments))
        own = [torch.empty_like(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._arguments = pytree.tree_unflatten(own, structure)
        self._inputs = tensors_of(self._arguments)
        self._replayed = _device(network).type == "cuda"
        # Isolated, because torch refuses to compile anything a ninth time, and networks share code.
        compiler: Any = torch.compile  # whose hints want one type for modules and functions
        self._network = compiler(
            network,
            fullgraph=True,
            dynamic=False,
            mode="reduce-overhead" if self._replayed else "default",
            isolate_recompiles=True,
        )
        self._lock = threading.Lock()

    def __call__(self, arguments: Mapping[str, Any]) -> Tensor:
        """The output of the network, which later calls leave alone."""
        with self._lock, torch.no_grad():
            for own, given in zip(self._inputs, tensors_of(arguments), strict=True):
                own.copy_(given)
            if self._replayed:
                torch.compiler.cudagraph_mark_step_begin()
            output = self._network(**self._arguments, return_dict=False)[0]
            return output.clone()  # a CUDA graph writes each output to the same place


def missing(network: nn.Module) -> str:
    """What torch.compile lacks on this machine for the device of a network, or ""."""
    if "isolate_recompiles" not in inspect.signature(torch.compile).parameters:
        return "torch.compile of this version lacks isolate_recompiles (pip install torch==2.13.0)"
    if _device(network).type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "torch.compile needs Triton on a GPU (pip install triton)"
        names = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
        return "" if any(shutil.which(name) for name in names) else f"Triton needs a C compiler ({names[0]})"
    if sys.platform == "win32":
        usual = "cl"
    else:
        usual = "clang++" if sys.platform == "darwin" else "g++"
    name = os.environ.get("CXX", usual)
    return "" if shutil.which(name) else f"torch.compile needs a C++ compiler ({name})"


def compile_pass(
    network: nn.Module, arguments: Mapping[str, Any], expected: Tensor
) -> tuple[CompiledPass | None, str]:
    """The compiled network for such arguments, or None and why there is none.

    expected: the network's own output for them, from which that of the compiled one may differ by TOLERANCE.
    """
    try:
        compiled = CompiledPass(network, arguments)
        output = compiled(arguments)
    except Exception as error:  # noqa: BLE001  torch, Triton and compilers raise anything
        return None, f"torch cannot compile it ({type(error).__name__}: {first_line(error)})"
    error = difference(output, expected)
    if error > TOLERANCE[precision_of(expected)]:
        return None, f"compiled it differs from itself by {error:.2g} of the output"
    return compiled, ""


def precision_of(output: Tensor) -> str:
    """The type in which a network answers, such as float32."""
    return str(output.dtype).removeprefix("torch.")


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
