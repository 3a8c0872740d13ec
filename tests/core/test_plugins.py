"""Names to classes: built-in, package.module:Class, entry points, and the complaints."""

from __future__ import annotations

import importlib
import sys

import pytest

from threedgen.core import plugins
from threedgen.core.errors import UserError
from threedgen.guidance.priors.load import PriorConfig, load_prior


@pytest.mark.parametrize("family", plugins.FAMILIES)
def test_every_builtin_name_is_a_class_with_a_config(family):
    assert plugins.names(family)
    for name in plugins.names(family):
        found = plugins.find(family, name)
        assert callable(found) if family == "prior" else found.Config


def test_a_class_by_its_path():
    found = plugins.find("guidance", "threedgen.guidance.given_pictures:Pictures")
    assert found.__name__ == "Pictures"


def test_a_class_of_threedgen_where_an_earlier_version_had_it():
    assert plugins.find("guidance", "threedgen.losses:Pictures").__name__ == "Pictures"


def test_an_entry_point(tmp_path, monkeypatch):
    """An installed package's declaration is found by the real metadata machinery."""
    (tmp_path / "their_losses.py").write_text("class Theirs:\n    def __call__(self):\n        pass\n")
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[threedgen.guidance]\nmy-loss = their_losses:Theirs\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    assert plugins.find("guidance", "my-loss").__name__ == "Theirs"
    assert "my-loss" in plugins.names("guidance")
    sys.modules.pop("their_losses")


def test_an_entry_point_that_is_a_prior(tmp_path, monkeypatch):
    """It is called with the whole config (its path too) and the device."""
    (tmp_path / "their_priors.py").write_text("def theirs(config, device):\n    return config, device\n")
    info = tmp_path / "their_priors-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-priors\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[threedgen.prior]\nmy-prior = their_priors:theirs\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    config = PriorConfig(name="my-prior", path="anything")
    given, device = load_prior(config, "cpu")  # type: ignore[misc]
    assert given == config
    assert device.type == "cpu"
    assert "my-prior" in plugins.names("prior")
    sys.modules.pop("their_priors")


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        ("guidance", "score-distilation", "did you mean 'score-distillation'"),
        ("prior", "embeded", "did you mean 'embedded'"),
        ("renderer", "raytracing", "known: splatting"),
        ("flavour", "x", "unknown family 'flavour'"),
        ("guidance", "no_such_module:Loss", "cannot import 'no_such_module:Loss'"),
        ("guidance", "threedgen.loop.background:Foreground", "has no class 'Foreground'"),
        ("guidance", "threedgen.loop.background:ColorBackground", "is no guidance"),
        ("guidance", "threedgen.renderers.mesh:MeshRenderer", "is no guidance"),
        ("prior", "threedgen.commands.main:main", "is no prior"),
        ("objective", "threedgen.core.plugins:find", "is no objective"),
        ("representation", "fractions:Fraction", "is no representation"),
        ("renderer", "fractions:Fraction", "is no renderer"),
    ],
)
def test_complaints(family, name, message):
    with pytest.raises(UserError, match=message):
        plugins.find(family, name)


def test_a_bug_inside_a_plug_in_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_plugin.py").write_text("raise ZeroDivisionError\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        plugins.find("guidance", "broken_plugin:Loss")
