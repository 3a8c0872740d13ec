"""`executor: compile` against the network itself, and what happens where nothing can be compiled."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_executors import ask, ways
from torch import nn

from threedgen.guidance.priors.executors import executor, inductor
from threedgen.guidance.priors.executors.executor import Executor
from threedgen.guidance.priors.load import PriorConfig, load_prior

pytestmark = pytest.mark.filterwarnings("ignore:torch compiles the network:RuntimeWarning")
needs_torch = pytest.mark.skipif(
    bool(inductor.missing(nn.Linear(1, 1))), reason="torch.compile lacks something on this machine"
)


class Small(nn.Module):
    """A network of one layer, called like those of diffusers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 8)
        self.requires_grad_(False)

    def forward(self, sample: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
        assert not return_dict
        return (torch.nn.functional.silu(self.layer(sample)).sin() + sample,)


def load(folder: Any, choice: str = "compile", **options: Any) -> Any:
    return load_prior(PriorConfig(path=str(folder), executor=choice, dtype="float32", **options))  # type: ignore[arg-type]


class Compiler:
    """Stands for torch.compile. made: what was asked of it."""

    def __init__(self, backend: Callable[..., Callable[..., Any]]) -> None:
        self.made: list[dict[str, Any]] = []
        self._backend = backend

    def __call__(self, network: Any, *, isolate_recompiles: bool = False, **settings: Any) -> Any:
        self.made.append(settings)
        return self._backend(network)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """The network itself is its compiled form."""
    stand_in = Compiler(lambda network: network)
    monkeypatch.setattr(torch, "compile", stand_in)
    monkeypatch.setattr(inductor, "missing", lambda network: "")
    return stand_in


@needs_torch
def test_a_network_that_inductor_compiled_gives_the_same():
    network = Small()
    compiled = Executor(network, "small", "compile")
    for learns in (False, True):
        x = torch.randn(4, 8, requires_grad=learns)
        with torch.no_grad():
            (answer,) = compiled(sample=x)
        torch.testing.assert_close(answer, network(x, return_dict=False)[0], rtol=1e-5, atol=1e-6)
        assert not answer.requires_grad
    version = str(torch.__version__)
    assert compiled.used == [
        {"prior": "small", "executor": "compile", "version": version, "precision": "float32", "shapes": 1}
    ]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What torch traced for networks, which it compiles without inductor, because that takes half a minute."""
    own: Any = torch.compile
    traced: list[Any] = []

    def keep(graph: Any, inputs: Any) -> Any:
        traced.append(graph)
        return graph.forward

    def compile_by_tracing(network: Any, *, mode: str, isolate_recompiles: bool, **settings: Any) -> Any:
        return own(network, backend=keep, isolate_recompiles=isolate_recompiles, **settings)

    monkeypatch.setattr(torch, "compile", compile_by_tracing)
    return traced


@needs_torch
def test_many_networks_of_the_same_code_are_compiled(graphs):
    """Torch by itself refuses the ninth."""
    for rows in range(2, 14):
        compiled = Executor(Small(), "small", "compile")
        with torch.no_grad():
            compiled(sample=torch.randn(rows, 8))
        assert compiled.used[0]["executor"] == "compile", compiled.used
    assert len(graphs) == 12


@needs_torch
@pytest.mark.parametrize("kind", ["sd1", "sd3"])
def test_torch_traces_a_denoiser_as_one_graph(kind, pipelines, graphs):
    prior = load(pipelines[kind])
    answers = [ask(prior) for _ in range(2)]
    exact = ask(load(pipelines[kind], "eager"))
    for answer in answers:
        torch.testing.assert_close(answer.eps, exact.eps, rtol=1e-5, atol=1e-6)
    assert ways(prior) == ["compile"]
    assert len(graphs) == 1


def test_each_shape_is_compiled_once_and_the_report_counts_them(pipelines, compiler):
    prior = load(pipelines["sd1"])
    prior.executor.begin(10)
    for count in (4, 4, 2, 4, 2):
        ask(prior, count)
    assert compiler.made == [{"fullgraph": True, "dynamic": False, "mode": "default"}] * 2
    assert prior.executor.used[0]["shapes"] == 2
    prior.executor.begin(10)
    ask(prior, 2)
    assert len(compiler.made) == 2
    assert prior.executor.used[0]["shapes"] == 1


def test_the_user_is_told_that_it_takes_long(pipelines, compiler):
    with pytest.warns(RuntimeWarning, match="torch compiles the network of the prior .* can take minutes"):
        ask(load(pipelines["sd1"]))


def test_answers_are_not_overwritten_by_the_next_call(monkeypatch):
    """A CUDA graph writes each output to the same memory."""
    place = torch.empty(4, 8)

    def replayed(network: Any) -> Any:
        return lambda **arguments: (place.copy_(network(**arguments)[0]),)

    monkeypatch.setattr(torch, "compile", Compiler(replayed))
    monkeypatch.setattr(inductor, "missing", lambda network: "")
    network = Small()
    compiled = Executor(network, "small", "compile")
    inputs = [torch.randn(4, 8) for _ in range(3)]
    with torch.no_grad():
        answers = [compiled(sample=x)[0] for x in inputs]
    assert compiled.used[0]["executor"] == "compile"
    for x, answer in zip(inputs, answers, strict=True):
        assert torch.equal(answer, network(x, return_dict=False)[0])


def test_a_gpu_replays_cuda_graphs(monkeypatch, compiler):
    """On a device that is only said to be one."""
    marks = []
    monkeypatch.setattr(inductor, "_device", lambda network: torch.device("cuda"))
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(1))
    compiled = Executor(Small(), "small", "compile")
    with torch.no_grad():
        for _ in range(2):
            compiled(sample=torch.randn(4, 8))
    assert [settings["mode"] for settings in compiler.made] == ["reduce-overhead"]
    assert len(marks) == 3  # the first call computes once more, to be compared


def test_a_gradient_needs_the_network(compiler):
    compiled = Executor(Small(), "small", "compile")
    x = torch.randn(4, 8, requires_grad=True)
    compiled(sample=x)[0].sum().backward()
    assert x.grad is not None
    assert not compiler.made
    assert compiled.used[0]["executor"] == "eager"


@pytest.mark.parametrize(
    ("device", "absent", "said"),
    [
        ("cpu", "compiler", r"torch.compile needs a C\+\+ compiler"),
        ("cuda", "triton", r"torch.compile needs Triton on a GPU \(pip install triton\)"),
        ("cuda", "compiler", r"Triton needs a C compiler \(gcc\)"),
    ],
)
def test_what_is_missing_is_said_and_the_network_is_called(device, absent, said, pipelines, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(inductor, "_device", lambda network: torch.device(device))
    monkeypatch.setattr(
        inductor.importlib.util, "find_spec", lambda name: None if absent == "triton" else name
    )
    monkeypatch.setattr(shutil, "which", lambda name: None if absent == "compiler" else name)
    network = Small()
    prior = Executor(network, "small", "compile")
    x = torch.randn(4, 8)
    with torch.no_grad(), pytest.warns(UserWarning, match=f"prior small is not compiled: {said}"):
        (answer,) = prior(sample=x)
    assert torch.equal(answer, network(x, return_dict=False)[0])
    (facts,) = prior.used
    assert facts["executor"] == "eager"
    assert "needs" in facts["why"]


def test_a_torch_that_is_too_old(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, fullgraph=False: model)
    assert "this version lacks isolate_recompiles" in inductor.missing(Small())


def _fails(network: Any) -> Any:
    raise RuntimeError("no such instruction\nand a page of more")


def _off(network: Any) -> Any:
    return lambda **arguments: (network(**arguments)[0] * 1.001,)


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        (_fails, "torch cannot compile it (RuntimeError: no such instruction)"),
        (_off, "compiled it differs from itself by 0.001 of the output"),
    ],
)
def test_a_compilation_that_fails_or_is_wrong_costs_no_run(backend, why, monkeypatch):
    monkeypatch.setattr(torch, "compile", Compiler(backend))
    monkeypatch.setattr(inductor, "missing", lambda network: "")
    network = Small()
    compiled = Executor(network, "small", "compile")
    x = torch.randn(4, 8)
    with torch.no_grad(), pytest.warns(UserWarning, match="is not compiled"):
        (answer,) = compiled(sample=x)
    assert torch.equal(answer, network(x, return_dict=False)[0])
    assert compiled.used == [{"prior": "small", "executor": "eager", "why": why}]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"attention_slicing": True}, "its memory is limited"),
        ({"memory": 8.0}, "its memory is limited"),
        ({"control": "controlnet"}, "it has a ControlNet"),
    ],
)
def test_settings_that_rule_it_out(settings, why, pipelines, compiler):
    if "control" in settings:
        settings = {"control": str(pipelines["controlnet"])}
    prior = load(pipelines["sd1"], **settings)
    prior.executor.begin(1000)
    ask(prior)
    (facts,) = prior.executor.used
    assert why in facts["why"]
    assert not compiler.made


def test_auto_never_compiles_in_this_way(pipelines, compiler, monkeypatch):
    monkeypatch.setattr(executor, "installed", lambda: False)
    prior = load(pipelines["sd1"], "auto")
    prior.executor.begin(100_000)
    assert ways(prior, 3) == ["eager"]
    assert not compiler.made


def test_a_resumed_run_goes_on_as_it_began_or_says_so(compiler, monkeypatch):
    x = torch.randn(4, 8)

    def resumed(recorded: dict[str, Any]) -> Executor:
        prior = Executor(Small(), "small", "compile")
        prior.begin(10, [{"prior": "small", **recorded}])
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prior(sample=x)
        return prior

    before = {"executor": "compile", "version": str(torch.__version__), "precision": "float32", "shapes": 1}
    assert resumed(before).used == [{"prior": "small", **before}]
    assert resumed(before).change == ""
    older = resumed({**before, "version": "2.0"}).change
    assert "was computed by torch.compile 2.0 in float32 and continues with torch.compile 2." in older
    eager = resumed({"executor": "eager", "why": "torch.compile needs a C++ compiler (g++)"})
    assert (eager.used[0]["executor"], eager.change) == ("eager", "")
    assert eager.used[0]["why"] == "torch.compile needs a C++ compiler (g++)"
    monkeypatch.setattr(inductor, "missing", lambda network: "nothing compiles here")
    lost = resumed(before).change
    assert "was computed by torch.compile" in lost
    assert "continues with torch: the last bits may differ" in lost
