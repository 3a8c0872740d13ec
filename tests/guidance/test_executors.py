"""Compiled networks against the networks themselves, and what happens when they cannot be compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import KINDS, ring
from tiny_video_pipelines import VIDEO_KINDS

from threedgen.core.errors import UserError
from threedgen.guidance.priors.base import Condition, Prediction, ReferenceView
from threedgen.guidance.priors.executors import compiled, executor, identity
from threedgen.guidance.priors.executors.executor import Executor
from threedgen.guidance.priors.load import PriorConfig, load_prior

OPTIONS = {
    "zero123": {"pose": "zero123"},
    "zero123plus": {"size": 16},
    "wan": {"size": 32, "frames": 5},
}
FAMILIES = [kind for kind in (*KINDS, *VIDEO_KINDS) if kind != "controlnet"]


@pytest.fixture(autouse=True)
def graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the compiled graphs of one test."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("THREEDGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "graphs"


def load(folder: Path, choice: str = "openvino", dtype: str = "float32", **options: Any) -> Any:
    return load_prior(PriorConfig(path=str(folder), executor=choice, dtype=dtype, **options))  # type: ignore[arg-type]


def ask(prior: Any, count: int = 4) -> Prediction:
    """The prediction for some samples, which are the same for each prior of a kind."""
    rng = torch.Generator().manual_seed(0)
    frames = prior.frames
    pictures = torch.rand(count * (frames if prior.video else 1), 32, 32, 3, generator=rng)
    x = prior.encode(pictures)
    condition = Condition(
        ("a", "b", "", "") if count == 4 else ("a",) * count,
        cameras=ring(count, 32),
        reference=ReferenceView(pictures[0], 0.0, 15.0, 3.0),
        pictures=pictures[:count],
        times=torch.linspace(0.0, 1.0, frames).expand(count, -1),
    )
    t = torch.tensor([0.2, 0.4, 0.6, 0.8])[:count]
    eps = torch.randn(x.shape, generator=rng)
    return prior.predict(prior.add_noise(x, eps, t), t, condition)


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_gives_the_same_in_float32(kind, pipelines, video_pipelines):
    folder = (video_pipelines if kind in VIDEO_KINDS else pipelines)[kind]
    options = OPTIONS.get(kind, {})
    prior = load(folder, options=options)
    if kind == "cogvideox-2b":  # it makes a table of positions in a way that torch.export refuses
        with pytest.warns(UserWarning, match="is not compiled: torch cannot trace it"):
            ask(prior)
        return
    answer = ask(prior)
    (facts,) = prior.executor.used
    assert facts["executor"] == "openvino", facts
    assert facts["precision"] == "float32"
    torch.testing.assert_close(
        answer.eps, ask(load(folder, "eager", options=options)).eps, rtol=2e-4, atol=2e-5
    )


@pytest.mark.parametrize("name", ["embedded", "embedded-view", "embedded-video"])
def test_the_networks_that_ship_are_close_in_bfloat16(name, monkeypatch):
    monkeypatch.setattr(compiled, "best_precision", lambda: "bfloat16")
    prior: Any = load_prior(PriorConfig(name=name, executor="openvino"))
    answer = ask(prior)
    (facts,) = prior.executor.used
    assert (facts["prior"], facts["precision"]) == (name, "bfloat16")
    exact = ask(load_prior(PriorConfig(name=name, executor="eager")))
    assert 1e-4 < float((answer.v - exact.v).norm() / exact.v.norm()) < 0.02
    assert torch.equal(ask(prior).v, answer.v)


def test_times_are_not_rounded_in_bfloat16(monkeypatch):
    """979 in bfloat16 is 980, which changes what this network says of noise by a tenth."""
    monkeypatch.setattr(compiled, "best_precision", lambda: "bfloat16")
    priors: list[Any] = [
        load_prior(PriorConfig(name="embedded-video", executor=choice)) for choice in ("openvino", "eager")
    ]
    x, t = priors[1].encode(torch.ones(16, 32, 32, 3)), torch.full((2,), 0.98)
    z = priors[1].add_noise(x, torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), t)
    condition = Condition(("a red cube bouncing",) * 2, cameras=ring(2, 32), times=torch.zeros(2, 8))
    close, exact = (prior.predict(z, t, condition).v for prior in priors)
    assert float((close - exact).norm() / exact.norm()) < 0.02


def no_tracing(*_: Any) -> Any:
    raise AssertionError("the network was traced again")


def test_a_second_process_reads_the_graph_and_gives_the_same_bits(pipelines, graphs, monkeypatch):
    answer = ask(load(pipelines["sd1"]))
    (file,) = graphs.iterdir()
    monkeypatch.setattr(compiled, "_make", no_tracing)
    again = load(pipelines["sd1"])
    assert torch.equal(ask(again).eps, answer.eps)
    assert again.executor.used[0]["executor"] == "openvino"
    assert list(graphs.iterdir()) == [file]


def test_a_damaged_graph_is_made_anew(pipelines, graphs):
    answer = ask(load(pipelines["sd1"]))
    (file,) = graphs.iterdir()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-1000] ^= 1
    for content in (bytes(flipped), whole[: len(whole) // 2], b""):
        file.write_bytes(content)
        assert torch.equal(ask(load(pipelines["sd1"])).eps, answer.eps)
        assert len(file.read_bytes()) == len(whole)
        assert file.read_bytes() != content


def test_a_graph_under_the_name_of_another_is_not_used(pipelines, graphs):
    ask(load(pipelines["sd1"]))
    (first,) = graphs.iterdir()

    def other() -> Any:
        prior = load(pipelines["sd1"])
        prior.network.conv_out.bias.data += 1.0
        return prior

    exact = ask(other())
    (second,) = set(graphs.iterdir()) - {first}
    second.write_bytes(first.read_bytes())
    assert torch.equal(ask(other()).eps, exact.eps)
    assert second.read_bytes() != first.read_bytes()


@pytest.mark.parametrize("change", ["weights", "version", "threads", "processor"])
def test_what_decides_the_content_decides_the_file(change, pipelines, graphs, monkeypatch):
    ask(load(pipelines["sd1"]))
    if change == "version":
        own = identity.machine.version
        monkeypatch.setattr(
            identity.machine, "version", lambda name: "2099.1" if name == "openvino" else own(name)
        )
    elif change == "processor":
        monkeypatch.setattr(identity.machine, "processor", lambda: "another one")
    elif change == "threads":
        more = torch.get_num_threads() + 1
        monkeypatch.setattr(torch, "get_num_threads", lambda: more)
    prior = load(pipelines["sd1"])
    if change == "weights":
        next(prior.network.parameters()).data[0] += 1e-3
    ask(prior)
    assert len(list(graphs.iterdir())) == 2


def test_without_openvino_the_network_is_called(pipelines, monkeypatch):
    monkeypatch.setattr(executor, "installed", lambda: False)
    prior = load(pipelines["sd1"], "auto")
    prior.executor.begin(1000)
    ask(prior)
    assert prior.executor.used == [
        {
            "prior": str(pipelines["sd1"]),
            "executor": "eager",
            "why": "OpenVINO is not installed (pip install threedgen[openvino])",
        }
    ]
    with pytest.raises(UserError, match="the executor openvino is not installed"):
        load(pipelines["sd1"])


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"attention_slicing": True}, "its memory is limited"),
        ({"memory": 8.0}, "its memory is limited"),
        ({"dtype": "bfloat16"}, "its weights are not float32"),
        ({"choice": "eager"}, "the recipe asks for it"),
        ({"control": "controlnet"}, "it has a ControlNet"),
    ],
)
def test_settings_that_rule_a_graph_out(settings, why, pipelines, graphs):
    if "control" in settings:
        settings = {"control": str(pipelines["controlnet"])}
    prior = load(pipelines["sd1"], **{"choice": "auto", **settings})
    prior.executor.begin(1000)
    ask(prior)
    (facts,) = prior.executor.used
    assert facts["executor"] == "eager"
    assert why in facts["why"]
    assert not graphs.exists()


def test_a_wrong_graph_is_found_out_and_remembered(pipelines, monkeypatch):
    from threedgen.guidance.priors.executors import openvino_ops

    exact = ask(load(pipelines["sd1"], "eager"))
    with monkeypatch.context() as spoilt:
        spoilt.setitem(openvino_ops.TABLE, "aten.layer_norm.default", lambda x, *_: x)
        with pytest.warns(UserWarning, match="is not compiled: its graph differs from it by"):
            answer = ask(load(pipelines["sd1"]))
    assert torch.equal(answer.eps, exact.eps)
    monkeypatch.setattr(compiled, "_make", no_tracing)
    with pytest.warns(UserWarning, match="is not compiled: its graph differs from it by"):
        ask(load(pipelines["sd1"]))


def test_rounding_that_is_too_large_leaves_float32(pipelines, monkeypatch):
    monkeypatch.setattr(compiled, "best_precision", lambda: "bfloat16")
    monkeypatch.setitem(compiled.TOLERANCE, "bfloat16", 1e-6)
    prior = load(pipelines["sd1"], dtype="auto")
    ask(prior)
    assert prior.executor.used[0]["precision"] == "float32"


def test_an_operation_that_the_table_lacks(pipelines, monkeypatch):
    from threedgen.guidance.priors.executors import openvino_ops

    monkeypatch.delitem(openvino_ops.TABLE, "aten.silu.default")
    prior = load(pipelines["sd1"])
    with pytest.warns(UserWarning, match="its operation aten.silu.default is not in the table"):
        ask(prior)
    assert prior.executor.used[0]["executor"] == "eager"


def test_a_crash_of_openvino_costs_no_run(pipelines, monkeypatch, tmp_path):
    crash = tmp_path / "trial.py"
    crash.write_text("import os\nos.abort()\n")
    own = Path.with_name
    monkeypatch.setattr(
        Path, "with_name", lambda self, name: crash if name == crash.name else own(self, name)
    )
    prior = load(pipelines["sd1"])
    with pytest.warns(UserWarning, match="OpenVINO fails on it"):
        answer = ask(prior)
    assert torch.equal(answer.eps, ask(load(pipelines["sd1"], "eager")).eps)


def test_gradients_need_the_network(pipelines):
    prior = load(pipelines["sd1"])
    network = Executor(prior.network, "sd1", "openvino", exact=True)
    t, states = torch.tensor([500]), torch.zeros(1, 77, 16)
    z = torch.randn(1, 4, 16, 16, requires_grad=True)
    (answer,) = network(sample=z, timestep=t, encoder_hidden_states=states)
    answer.sum().backward()
    assert z.grad is not None
    with torch.no_grad():
        (graph,) = network(sample=z, timestep=t, encoder_hidden_states=states)
    torch.testing.assert_close(graph, answer.detach(), rtol=1e-4, atol=1e-5)
    assert [facts["executor"] for facts in network.used] == ["eager", "openvino"]
    kept = graph.clone()
    with torch.no_grad():
        (other,) = network(sample=2.0 * z, timestep=t, encoder_hidden_states=states)
    assert not torch.equal(other, kept)
    assert torch.equal(graph, kept)


def ways(prior: Any, calls: int = 1) -> list[str]:
    for _ in range(calls):
        ask(prior)
    return [facts["executor"] for facts in prior.executor.used]


def test_auto_compiles_for_long_runs_and_for_many_passes(pipelines, monkeypatch):
    monkeypatch.setattr(executor, "SEEN", 3)
    prior = load(pipelines["sd1"], "auto")
    assert ways(prior, 3) == ["eager"]
    assert ways(prior) == ["eager", "openvino"]
    prior.executor.begin(executor.SHORTEST - 1)
    assert ways(prior, 5) == ["eager"]
    prior.executor.begin(executor.SHORTEST)
    assert ways(prior) == ["openvino"]


def test_a_resumed_run_keeps_its_executor_or_says_so(pipelines):
    prior = load(pipelines["sd1"], "auto")
    name = str(pipelines["sd1"])
    eager = {"prior": name, "executor": "eager", "why": "OpenVINO was not installed"}
    graph = {"prior": name, "executor": "openvino", "version": "2020.1", "precision": "float32"}
    prior.executor.begin(1000, [eager])
    assert ways(prior) == ["eager"]
    assert prior.executor.change == ""
    prior.executor.begin(1000, [{**eager, "prior": "another"}])
    assert ways(prior) == ["openvino"]
    assert prior.executor.change == ""
    prior.executor.begin(1000, [graph])
    assert ways(prior) == ["openvino"]
    assert (
        "was computed by OpenVINO 2020.1 in float32 and continues with OpenVINO 20" in prior.executor.change
    )
