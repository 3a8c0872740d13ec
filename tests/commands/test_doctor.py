"""`threedgen doctor`: every backend is there or says why not; one failure hides no other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import torch

from threedgen import export
from threedgen.commands import doctor
from threedgen.commands.doctor import CORE, KINDS, OPTIONAL, PACKAGE, _render_small, examine
from threedgen.commands.main import main
from threedgen.renderers import backends
from threedgen.renderers.backends import native


@pytest.fixture(scope="module")
def findings():
    return {finding.name: finding for finding in examine()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_backend_is_there_or_says_why_not(kind, findings):
    for name, reason in backends.available(kind).items():
        finding = findings[f"{kind}: {name}"]
        if reason is None:
            assert finding.ok is True, finding
            assert "renders in" in finding.text
        else:
            assert (finding.ok, finding.text) == (None, reason)
    torch_version = str(torch.__version__).split("+")[0]
    assert torch_version in findings[f"{kind}: torch"].text


@pytest.mark.parametrize("kind", KINDS)
def test_the_small_scene_is_to_be_seen(kind):
    picture = _render_small(kind, "torch")
    assert picture.shape == (1, 32, 32, 3)
    assert bool((picture[0, 0, 0] == 1).all())
    assert float(picture[0, 12:20, 12:20].std()) > 0.05


def test_a_wrong_picture_is_a_problem(monkeypatch):
    real = native.splat
    monkeypatch.setattr(native, "splat", lambda *a: (0.9 * real(*a)[0], *real(*a)[1:]))
    found = {finding.name: finding for finding in doctor._backends()}
    assert found["splatting: native"].ok is False
    assert "difference from the torch backend" in found["splatting: native"].text
    assert found["mesh: native"].ok is True


def test_a_test_that_raises_is_a_finding_and_the_rest_follows(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no such\ninstruction")

    monkeypatch.setattr(native, "splat", broken)
    monkeypatch.setattr(export, "write", broken)
    found = {finding.name: finding for finding in examine()}
    assert found["splatting: native"].ok is False
    assert found["splatting: native"].text.endswith("is there but fails: RuntimeError: no such instruction")
    assert found["export"].ok is False
    assert found["volume: torch"].ok is True
    assert "embedded prior of things" in found


def test_export_is_tried(findings):
    assert findings["export"].ok is True
    assert "written and read back" in findings["export"].text


def test_all_that_the_project_depends_on_is_looked_for(findings):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[<>=~!;\[ ]", line)[0] for line in project["dependencies"]}
    assert {PACKAGE.get(name, name) for name in CORE} | {"torch", "numpy"} == needed
    assert {"xatlas", "scipy"} <= set(findings)


def test_every_package_of_an_extra_is_looked_for():
    """But for protobuf, which comes with sentencepiece to read its files."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = {key: value for key, value in project["optional-dependencies"].items() if key != "test"}
    wanted = {re.split(r"[<>=~!;\[ ]", line)[0] for lines in extras.values() for line in lines}
    assert wanted - {PACKAGE.get(name, name) for name in OPTIONAL} == {"protobuf"}
    named = set(re.findall(r"threedgen\[(\w+)\]", " ".join(OPTIONAL.values())))
    assert named == set(extras)


def test_a_missing_dependency_is_a_problem(monkeypatch):
    find = doctor.importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda name: None if name == "xatlas" else find(name)
    )
    found = {name: doctor._library(name, None) for name in ("xatlas", "scipy")}
    assert (found["xatlas"].ok, found["scipy"].ok) == (False, True)
    assert "missing: pip install threedgen again" in found["xatlas"].text


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (None, 0), (False, 1)])
def test_the_exit_code_says_whether_everything_needed_is_there(ok, code, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda: iter([doctor.Finding("part", ok, "how it is")]))
    assert main(["doctor"]) == code
    assert ("everything needed is there" in capsys.readouterr().out) == (code == 0)


@pytest.mark.parametrize("there", [True, False])
def test_the_executor_on_the_cpu_is_named(there, monkeypatch):
    from threedgen.guidance.priors.executors import executor

    if there:
        pytest.importorskip("openvino")
    monkeypatch.setattr(executor, "installed", lambda: there)
    finding = doctor._executor()
    if there:
        assert finding.ok is True
        assert re.match(r"OpenVINO in (bfloat16|float32), for runs of 100 steps and more", finding.text)
    else:
        assert finding.ok is None
        assert "OpenVINO is not installed (pip install threedgen[openvino])" in finding.text


def test_an_openvino_that_fails_is_a_problem(monkeypatch):
    from threedgen.guidance.priors.executors import executor

    def broken() -> str:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(executor, "installed", lambda: True)
    monkeypatch.setattr(executor, "try_out", broken)
    finding = doctor._executor()
    assert finding.ok is False
    assert "no such instruction" in finding.text
