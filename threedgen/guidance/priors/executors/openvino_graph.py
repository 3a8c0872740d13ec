"""A network of torch, at given shapes of its inputs, as a graph of OpenVINO."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from openvino import opset13 as op
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from threedgen.guidance.priors.executors.openvino_ops import HEAVY, TABLE
from threedgen.guidance.priors.executors.openvino_values import Unsupported, node, type_of

Model: Any = ov.Model  # its stubs contradict each other
_FEW = 8  # channels of pixels or latents, with a picture beside them
_EXACT = "float32/"  # the beginning of the names of operations that stay in float32


class _First(nn.Module):
    """A network of diffusers with its first output alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, **arguments: Any) -> Tensor:
        return self.network(**arguments, return_dict=False)[0]


@torch.no_grad()
def graph_of(network: nn.Module, arguments: Mapping[str, Any]) -> Any:
    """The graph (ov.Model) of a network of diffusers, for inputs of the shapes and types of `arguments`.

    Its inputs are the tensors in `arguments` in the order of `identity.tensors_of`, and its one output is the first
    of the network. What does not depend on them is computed here. Raises Unsupported for an operation that the
    table lacks, and whatever torch raises for a network that it cannot trace.
    """
    program = torch.export.export(_First(network).eval(), (), dict(arguments), strict=False)
    if any(str(item.target) == "aten.copy_.default" for item in program.graph.nodes):
        # Writing into a part of a tensor becomes the computation of a new one.
        program = program.run_decompositions({})
    signature = program.graph_signature
    stored: dict[str, str] = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    tensors = {**program.state_dict, **program.constants}
    values: dict[torch.fx.Node, Any] = {}
    fresh: set[torch.fx.Node] = set()  # what no heavy operation has touched
    inputs: list[Any] = []
    for item in program.graph.nodes:
        if item.op == "placeholder":
            if item.name in stored:
                values[item] = tensors[stored[item.name]].detach()
            elif isinstance(item.meta["val"], Tensor):
                example = item.meta["val"]
                inputs.append(op.parameter(list(example.shape), type_of(example.dtype), name=item.name))
                values[item] = inputs[-1].output(0)
                fresh.add(item)
        elif item.op == "call_function":
            values[item] = _call(item, values)
            before = [x for x in item.all_input_nodes if _depends(values[x])]
            if before and fresh.issuperset(before):
                _refine(item, values, fresh)
        else:
            assert item.op == "output", item.op
            results: Any = item.args[0]
            output = node(values[results[0]])
    return Model([output], inputs, "network")


def _call(item: torch.fx.Node, values: Mapping[torch.fx.Node, Any]) -> Any:
    """The value of one operation: computed by torch if it depends on no input, else a part of the graph."""

    def look_up(argument: Any) -> Any:
        return values.get(argument) if isinstance(argument, torch.fx.Node) else argument

    arguments: Any = torch.fx.map_arg(item.args, look_up)
    options: Any = torch.fx.map_arg(dict(item.kwargs), look_up)
    function: Any = item.target
    if not _depends(arguments) and not _depends(options):
        return function(*arguments, **options)
    name = str(item.target)
    if name == "<built-in function getitem>":
        return arguments[0][arguments[1]]
    if name.startswith("aten._assert"):
        return None
    if name in ("aten.empty_like.default", "aten.zeros_like.default"):
        return torch.zeros(item.meta["val"].shape, dtype=item.meta["val"].dtype)
    if name not in TABLE:
        raise Unsupported(name)
    try:
        return TABLE[name](*arguments, **options)
    except TypeError as error:  # an argument that the table does not know
        raise Unsupported(f"{name} ({error})") from error


def _refine(item: torch.fx.Node, values: Mapping[torch.fx.Node, Any], fresh: set[torch.fx.Node]) -> None:
    """Keeps the first operations on the inputs in float32 if they are cheap, as a convolution of few channels is.

    In bfloat16 a time of 979 is one of 980, and noise that is small beside the picture is rounded away.
    """
    name = str(item.target)
    if name not in HEAVY:
        fresh.add(item)
    result, cheap = values[item], name not in HEAVY and "val" in item.meta
    if not isinstance(result, ov.Output):
        return
    if name.startswith("aten.conv"):
        cheap = item.all_input_nodes[0].meta["val"].shape[1] <= _FEW
    if cheap and (name.startswith("aten.conv") or len(result.shape) <= 2):
        known = {values[x].get_node() for x in item.all_input_nodes if isinstance(values[x], ov.Output)}
        todo = [result.get_node()]
        while todo:
            part = todo.pop()
            if part in known or part.get_type_name() == "Constant":
                continue
            known.add(part)
            part.set_friendly_name(f"{_EXACT}{part.get_friendly_name()}")
            todo += [source.get_source_output().get_node() for source in part.inputs()]


def save_graph(model: Any, path: Path) -> None:
    """Writes a graph as XML and the weights beside it."""
    ov.save_model(model, path, compress_to_fp16=False)
    document = ElementTree.parse(path)
    for layer in document.iter("layer"):
        if layer.get("name", "").startswith(_EXACT):
            # OpenVINO's mark for this, which its bindings for Python cannot set.
            information = layer.find("rt_info")
            if information is None:
                information = ElementTree.Element("rt_info")
                layer.insert(0 if layer.find("data") is None else 1, information)
            ElementTree.SubElement(information, "attribute", {"name": "precise", "version": "0"})
    document.write(path)


def _depends(argument: Any) -> bool:
    return any(isinstance(leaf, ov.Output) for leaf in pytree.tree_leaves(argument))
