"""The choice between calling a frozen network and a compiled form of it."""

from __future__ import annotations

import importlib.util
import math
import platform
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from threedgen.core import cache, machine, memory
from threedgen.core.errors import UserError
from threedgen.guidance.priors.base import WrappedPrior
from threedgen.guidance.priors.executors import compiled, inductor
from threedgen.guidance.priors.executors.compiled import Graph
from threedgen.guidance.priors.executors.deferred import DeferredNetwork
from threedgen.guidance.priors.executors.identity import identity_of, signature, tensors_of
from threedgen.guidance.priors.executors.inductor import CompiledPass
from threedgen.guidance.priors.executors.store import GraphStore
from threedgen.guidance.priors.folder.files import first_line

Choice = Literal["auto", "eager", "openvino", "compile"]
EXTRA = "pip install threedgen[openvino]"
SHORTEST = 100
"""Steps of the shortest run for which a graph is made: the first time that takes as long as 50 passes."""
SEEN = 50
"""Passes at some shapes before a graph is made if nobody said how many there will be."""
_LARGEST = 4e9  # bytes of weights, which a graph keeps a second time
_MOST = 8  # graphs of one network


Form = Graph | CompiledPass
"""What computes the passes of a network for one shape of its arguments."""


class Executor:
    """Computes the passes of a frozen network, in the way that its settings, the machine and the network allow.

    network: a frozen model of diffusers, called as `network(**arguments, return_dict=False)[0]`, or what stands for
    one. prior: its name in the report. choice: auto takes a graph if that is possible and pays; eager never;
    openvino from the first pass; compile takes torch.compile from the first pass, on a GPU too. exact: a graph of
    OpenVINO must be in float32, because the user asked for that. why: a reason of the caller for calling the
    network, or "".

    Raises UserError if OpenVINO is asked for and not installed.
    """

    def __init__(
        self,
        network: nn.Module | DeferredNetwork,
        prior: str,
        choice: Choice,
        exact: bool = False,
        why: str = "",
    ) -> None:
        if choice == "openvino" and not installed():
            raise UserError(f"the executor openvino is not installed: {EXTRA}, or set executor: auto")
        self._network, self._prior = network, prior
        self._choice, self._exact = choice, exact
        self._why = why or _obstacle(network, choice)
        self._patience = SEEN if choice == "auto" else 0
        self._answers = False  # whether the network has answered once
        self._few = "few passes of the same shape"
        self._seen: Counter[str] = Counter()
        self._graphs: dict[str, tuple[Form | None, dict[str, Any]]] = {}
        self._shapes: set[str] = set()  # for which graphs were used
        self._identity: dict[str, Any] | None = None
        self._used: dict[str, dict[str, Any]] = {}
        self._recorded: list[Mapping[str, Any]] = []

    def begin(self, passes: int, recorded: Sequence[Mapping[str, Any]] = ()) -> None:
        """A run of so many passes begins or is resumed, so the choice is made now and depends on nothing else.

        recorded: what `used` said in the part of the run that is resumed. A network that was called is called
        again, and a graph has the same precision again, as far as that is possible: else `change` says so.
        """
        self._seen.clear()
        self._used.clear()
        self._shapes.clear()
        self._recorded = [facts for facts in recorded if facts.get("prior", self._prior) == self._prior]
        if self._choice in ("auto", "compile"):
            called = self._recorded and all(facts["executor"] == "eager" for facts in self._recorded)
            short = self._choice == "auto" and passes < SHORTEST
            self._patience = math.inf if called or short else 0
            self._few = f"a run of fewer than {SHORTEST} steps"
            if called:  # the report of a resumed run says what that of an uninterrupted one does
                self._few = self._recorded[0].get("why", self._few)

    @property
    def used(self) -> list[dict[str, Any]]:
        """How the passes since `begin` were computed, as JSON: one entry for each way. While there was none, those
        before it."""
        return list(self._used.values()) or [dict(facts) for facts in self._recorded]

    @property
    def change(self) -> str:
        """A sentence for the user if a resumed run is not computed as before, else ""."""
        before, now = ({_way(facts) for facts in all_facts} for all_facts in (self._recorded, self.used))
        if not before or now <= before:
            return ""
        return (
            f"the prior {self._prior} was computed by {' and '.join(sorted(before))} and continues with "
            f"{' and '.join(sorted(now))}: the last bits may differ from an uninterrupted run's"
        )

    def __call__(self, *, return_dict: bool = False, **arguments: Any) -> tuple[Tensor]:
        """The first output of the network, as its call with return_dict=False has it."""
        assert not return_dict
        graph = None if self._must_call(arguments) else self._graph(arguments)
        if graph is not None:
            return (graph(arguments),)
        self._note("eager", why=self._why or self._few)
        return (self._called(arguments),)

    def _called(self, arguments: Mapping[str, Any]) -> Tensor:
        """The network's own answer. Configs that do not fit one another can make the first one fail in any way."""
        if self._answers:
            return self._network(**arguments, return_dict=False)[0]
        try:
            answer = self._network(**arguments, return_dict=False)[0]
        except Exception as error:
            if isinstance(error, UserError) or memory.ran_out(error):
                raise
            raise UserError(
                f"the network of the prior '{self._prior}' cannot be computed ({type(error).__name__}: "
                f"{first_line(error)}), so its configs do not fit one another: copy it again"
            ) from error
        self._require_numbers(arguments, answer)
        self._answers = True
        return answer

    def _require_numbers(self, arguments: Mapping[str, Any], answer: Tensor) -> None:
        """Raises UserError if no sample of an answer to finite numbers is finite: no other setting helps."""
        asked = (tensor for tensor in tensors_of(arguments) if tensor.is_floating_point())
        rows = answer.isfinite().flatten(1).all(dim=1)
        if bool(rows.any()) or not all(bool(tensor.isfinite().all()) for tensor in asked):
            return
        dtype = str(answer.dtype).removeprefix("torch.")
        cause = (
            "its weights are damaged" if answer.dtype == torch.float32 else f"{dtype} is too narrow for it"
        )
        raise UserError(
            f"the prior '{self._prior}' answers in {dtype} with numbers that are not finite: {cause}, so "
            + ("copy it again" if answer.dtype == torch.float32 else "set its dtype to bfloat16 or float32")
        )

    def _must_call(self, arguments: Mapping[str, Any]) -> bool:
        if self._why:
            return True
        return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors_of(arguments))

    def _graph(self, arguments: Mapping[str, Any]) -> Form | None:
        """The graph for such arguments, or None if there is none yet, or never."""
        key = f"{signature(arguments)} {torch.get_num_threads()}"
        if key not in self._graphs:
            self._seen[key] += 1
            if self._seen[key] <= self._patience or len(self._graphs) >= _MOST:
                return None
            compiling = self._choice == "compile"
            self._graphs[key] = self._compile(arguments) if compiling else self._find(arguments)
        if self._patience == math.inf:
            return None
        graph, facts = self._graphs[key]
        if graph is None:
            self._note("eager", **facts)
        else:
            self._shapes.add(key)
            entry = self._note("compile" if isinstance(graph, CompiledPass) else "openvino", **facts)
            entry["shapes"] = len(self._shapes)
        return graph

    def _compile(self, arguments: Mapping[str, Any]) -> tuple[CompiledPass | None, dict[str, Any]]:
        network = self._network
        assert isinstance(network, nn.Module)  # none is deferred for this choice, see `can_defer`
        why, compiled_pass = inductor.missing(network), None
        if not why:
            warnings.warn(
                f"torch compiles the network of the prior {self._prior} for this shape, which can take minutes",
                RuntimeWarning,
                stacklevel=2,
            )
            with torch.no_grad():
                expected = self._called(arguments)
            compiled_pass, why = inductor.compile_pass(network, arguments, expected)
            if compiled_pass is not None:
                precision = inductor.precision_of(expected)
                return compiled_pass, {"version": str(torch.__version__), "precision": precision}
        warnings.warn(f"the network of the prior {self._prior} is not compiled: {why}", stacklevel=2)
        return None, {"why": why}

    def _find(self, arguments: Mapping[str, Any]) -> tuple[Graph | None, dict[str, Any]]:
        if self._identity is None:
            network = self._network
            self._identity = (
                network.identity if isinstance(network, DeferredNetwork) else identity_of(network)
            )
        recorded = {facts.get("precision") for facts in self._recorded} - {None}
        exact = self._exact or recorded == {compiled.FLOAT32}
        precision = compiled.FLOAT32 if exact else compiled.best_precision()
        store = GraphStore(cache.user_folder("graphs"))
        graph, facts = compiled.find_graph(self._network, arguments, precision, self._identity, store)
        if graph is not None:
            return graph, {"version": machine.version("openvino"), **facts}
        why = facts.get("why", "its stored graph cannot be used")
        if self._choice == "openvino" or "OpenVINO" in why or "differs" in why:
            warnings.warn(f"the network of the prior {self._prior} is not compiled: {why}", stacklevel=2)
        return None, {"why": why}

    def _note(self, executor: str, **facts: Any) -> dict[str, Any]:
        return self._used.setdefault(
            f"{executor} {facts.get('precision')}", {"prior": self._prior, "executor": executor, **facts}
        )


def _way(facts: Mapping[str, Any]) -> str:
    """A way in which passes are computed, as far as it decides their bits."""
    if facts["executor"] == "eager":
        return "torch"
    name = "torch.compile" if facts["executor"] == "compile" else "OpenVINO"
    return f"{name} {facts['version']} in {facts['precision']}"


def installed() -> bool:
    """Whether OpenVINO is there; it is not imported."""
    return importlib.util.find_spec("openvino") is not None


def unavailable() -> str:
    """Why auto compiles no network on this machine, or ""."""
    if not installed():
        return f"OpenVINO is not installed ({EXTRA})"
    if platform.machine() not in ("x86_64", "AMD64"):
        return "the gain is not known on this kind of processor (executor: openvino takes the graph)"
    return ""


def try_out() -> str:
    """Compiles and computes one layer; returns the precision of the graphs. Raises what OpenVINO raises."""
    from threedgen.guidance.priors.executors.openvino_ops import one_layer

    precision = compiled.best_precision()
    one_layer(compiled.properties_of(precision))
    return precision


def can_defer(choice: Choice, size: float) -> bool:
    """Whether a network on the CPU whose graphs are stored need not be loaded. size: GB of its weights."""
    return choice == "openvino" or (choice == "auto" and not unavailable() and size * 2**30 <= _LARGEST)


def _obstacle(network: nn.Module | DeferredNetwork, choice: Choice) -> str:
    """Why the network must be called, or ""."""
    if isinstance(network, DeferredNetwork):  # it had none when it was loaded
        return ""
    weights = list(network.parameters())
    if choice == "eager":
        return "the recipe asks for it"
    if choice != "compile" and any(weight.device.type != "cpu" for weight in weights):
        return "it is on a GPU"
    if choice != "compile" and any(weight.dtype != torch.float32 for weight in weights):
        return "its weights are not float32"
    if any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()):
        return "it has hooks"
    if choice == "auto" and unavailable():
        return unavailable()
    if choice == "auto" and sum(weight.nbytes for weight in weights) > _LARGEST:
        return "its graph would take too much memory (executor: openvino takes it anyway)"
    return ""


def executors_of(guidances: Iterable[Any]) -> list[Executor]:
    """The executors of the priors of guidances, each once."""
    found: dict[int, Executor] = {}
    for guide in guidances:
        prior = getattr(guide, "prior", None)
        while isinstance(prior, WrappedPrior):
            prior = prior.prior
        executor = getattr(prior, "executor", None)
        if isinstance(executor, Executor):
            found[id(executor)] = executor
    return list(found.values())


def used_by(guidances: Iterable[Any]) -> list[dict[str, Any]]:
    """How the networks of guidances are computed, as JSON."""
    return [facts for executor in executors_of(guidances) for facts in executor.used]
