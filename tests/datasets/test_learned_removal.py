"""Networks that remove backgrounds are read from where their user installed them, or refused in one line."""

from __future__ import annotations

import hashlib
import importlib.machinery
import json
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from threedgen.core.errors import UserError
from threedgen.datasets import learned_removal
from threedgen.datasets.cut_outs import cut_out_of
from threedgen.datasets.learned_removal import ISNET, learned_alpha

SIDE = 96
MODEL = b"the weights of a network"


class Session:
    """Instead of onnxruntime's: everything that is brighter than grey is object."""

    def __init__(self, model, options, providers):
        if model != MODEL:
            raise RuntimeError("no protobuf")
        assert options.intra_op_num_threads > 0

    def get_inputs(self):
        return [types.SimpleNamespace(name="input")]

    def get_outputs(self):
        return [types.SimpleNamespace(name="output"), types.SimpleNamespace(name="inner")]

    def run(self, wanted, given):
        assert wanted == ["output"]
        assert given["input"].shape == (1, 3, 1024, 1024)
        assert given["input"].dtype == np.float32
        assert -0.5 <= given["input"].min() <= given["input"].max() < 0.5
        return [(given["input"].mean(axis=1, keepdims=True) > 0.0).astype(np.float32)]


@pytest.fixture(autouse=True)
def _onnxruntime(monkeypatch):
    fake = types.ModuleType("onnxruntime")
    fake.InferenceSession, fake.SessionOptions = Session, types.SimpleNamespace  # type: ignore[attr-defined]
    fake.__spec__ = importlib.machinery.ModuleSpec("onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    learned_removal._session.cache_clear()
    yield
    learned_removal._session.cache_clear()


def photo() -> np.ndarray:
    """A bright disc that reaches the border, on dark grey: what the border shows would not do."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    inside = np.hypot(columns - 60, rows - 60) < 36
    return np.where(inside[..., None], [250, 240, 230], [30, 30, 30]).astype(np.uint8)


@pytest.fixture
def package(tmp_path):
    """The folder in which somebody installed the package of npm: a model in two chunks."""
    dist = tmp_path / "node_modules" / "@imgly" / "background-removal-node" / "dist"
    dist.mkdir(parents=True)
    names = []
    for chunk in (MODEL[:9], MODEL[9:]):
        names.append(hashlib.sha256(chunk).hexdigest())
        (dist / names[-1]).write_bytes(chunk)
    model = {"chunks": [{"hash": name} for name in names], "size": len(MODEL)}
    (dist / "resources.json").write_text(json.dumps({"/models/medium": model}))
    return dist


@pytest.mark.parametrize("above", [0, 1, 4])
def test_isnet_is_read_from_the_package_of_npm(tmp_path, monkeypatch, package, above):
    monkeypatch.setenv(ISNET, str([package, *package.parents][above]))
    Image.fromarray(photo()).save(tmp_path / "a.png")
    made = cut_out_of(tmp_path / "a.png")
    assert made.source == "isnet"
    assert "ISNet told it from the background" in made.about
    found = learned_alpha(photo())
    assert found is not None
    assert (np.abs(found[0].astype(int) - 255 * (photo()[..., 0] > 200)) > 127).mean() < 0.01


def test_isnet_is_read_from_a_file(tmp_path, monkeypatch):
    (tmp_path / "isnet.onnx").write_bytes(MODEL)
    monkeypatch.setenv(ISNET, str(tmp_path / "isnet.onnx"))
    found = learned_alpha(photo())
    assert found is not None
    assert found[1] == "isnet"


def test_it_says_if_there_is_no_object(tmp_path, monkeypatch, package):
    monkeypatch.setenv(ISNET, str(package))
    Image.fromarray(photo() // 4).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"no object stands out.*--mask"):
        cut_out_of(tmp_path / "a.png")


def test_what_cannot_be_used_is_one_line(tmp_path, monkeypatch, package):
    def refused(place, message):
        monkeypatch.setenv(ISNET, str(place))
        with pytest.raises(UserError, match=message) as caught:
            learned_alpha(photo())
        assert "\n" not in str(caught.value)

    refused(tmp_path / "gone", "is neither an .onnx file nor the folder of the npm package")
    (tmp_path / "other.onnx").write_bytes(b"no model")
    refused(tmp_path / "other.onnx", "holds no model that onnxruntime can read")
    listed = package / "resources.json"
    chunk = package / json.loads(listed.read_text())["/models/medium"]["chunks"][0]["hash"]
    chunk.write_bytes(b"cut")
    refused(package, "is damaged: install the package again")
    chunk.unlink()
    refused(package, "cannot read .*No such file")
    for text in ("{}", "[", "[1]", json.dumps({"/models/medium": {"chunks": [{"hash": "../../secret"}]}})):
        listed.write_text(text)
        refused(package, "lists no model that is known")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(package, r"onnxruntime is not installed: pip install 'threedgen\[isnet\]'")


@pytest.fixture
def rembg(monkeypatch, tmp_path):
    """Instead of rembg 2.0.86, which looks for a model in $U2NET_HOME/models/NAME and in $U2NET_HOME."""
    monkeypatch.delenv(ISNET, raising=False)
    for name in ("U2NET_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REMBG_HOME", str(tmp_path / "rembg"))
    asked = []

    def new_session(name):
        home = Path(os.environ["U2NET_HOME"])
        assert any((place / f"{name}.onnx").is_file() for place in (home / "models" / name, home))
        asked.append(name)
        return name

    def remove(picture, session, only_mask):
        assert only_mask
        if session == "u2net":
            raise RuntimeError("Got invalid dimensions for input")
        return picture.convert("L").point(lambda value: 255 if value > 127 else 0)

    fake = types.ModuleType("rembg")
    fake.new_session, fake.remove = new_session, remove  # type: ignore[attr-defined]
    fake.__spec__ = importlib.machinery.ModuleSpec("rembg", None)
    monkeypatch.setitem(sys.modules, "rembg", fake)
    return asked


def keep(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.onnx").write_bytes(MODEL)


def test_rembg_is_used_with_the_best_model_that_it_has(tmp_path, rembg):
    assert learned_alpha(photo()) is None
    for name in ("isnet-general-use", "bria-rmbg"):
        keep(tmp_path / "rembg" / "models" / name, name)
        found = learned_alpha(photo())
        assert found is not None
        assert found[1] == "rembg"
        assert (found[0] == 255 * (photo()[..., 0] > 200)).all()
    assert rembg == ["isnet-general-use", "bria-rmbg"]


def test_a_model_that_rembg_cannot_run_is_one_line(tmp_path, rembg):
    keep(tmp_path / "rembg" / "models" / "u2net", "u2net")
    with pytest.raises(UserError, match=r"rembg cannot use its model '.*u2net\.onnx' \(RuntimeError\)"):
        learned_alpha(photo())
