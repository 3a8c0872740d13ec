"""USD files, read back with usd-core: topology, points at every time, units, colours and the loop flag."""

from __future__ import annotations

import sys
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from corners import arms
from movements import rising_ball

from threedgen.core.errors import UserError
from threedgen.core.pictures import linear_from_srgb
from threedgen.export.animation import Animation
from threedgen.export.usd import write_usd

pytest.importorskip("pxr")


def opened(path) -> Any:
    from pxr import Usd

    return Usd.Stage.Open(str(path))  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("suffix", [".usdz", ".usda"])
def test_a_mesh_that_moves_keeps_its_texture(tmp_path, suffix):
    UsdValidation = pytest.importorskip("pxr.UsdValidation")
    mesh = arms(textured=True)
    assert mesh.normals is not None
    frames = torch.stack([mesh.vertices, mesh.vertices + 1.0])
    motion = Animation(torch.tensor([0.0, 0.5]), frames, mesh.normals.expand_as(frames))
    write_usd(tmp_path / f"anim{suffix}", mesh, motion, fps=2.0)
    stage = opened(tmp_path / f"anim{suffix}")
    assert stage.GetEndTimeCode() == 1.0
    surface = stage.GetPrimAtPath("/asset/mesh")
    np.testing.assert_array_equal(np.array(surface.GetAttribute("points").Get(1.0)), frames[1].numpy())
    assert len(surface.GetAttribute("primvars:st").Get()) == len(mesh.vertices)
    assert not surface.GetAttribute("primvars:displayColor").HasAuthoredValue()
    picture = stage.GetPrimAtPath("/asset/surface/texture").GetAttribute("inputs:file").Get()
    assert picture.path == ("./texture.png" if suffix == ".usdz" else "./anim.png")
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    found = UsdValidation.ValidationContext(validators).Validate(stage)
    assert [error.GetErrorAsString() for error in found] == []


@pytest.mark.parametrize("suffix", [".usdz", ".usda", ".usdc"])
def test_the_mesh_and_its_motion_come_back(tmp_path, suffix):
    asset = rising_ball({"prompt": "a ball rising", "seed": 2**40}, loop=False)
    mesh, motion = asset.surface
    asset.write(tmp_path / f"anim{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"anim{suffix}"]
    stage = opened(tmp_path / f"anim{suffix}")
    assert stage.GetTimeCodesPerSecond() == 6.0
    assert (stage.GetStartTimeCode(), stage.GetEndTimeCode()) == (0.0, 6.0)
    assert stage.GetMetadata("upAxis") == "Y"
    assert stage.GetMetadata("metersPerUnit") == 1.0
    assert stage.GetDefaultPrim().GetPath() == "/asset"
    custom = stage.GetRootLayer().customLayerData["threedgen"]
    assert custom == {"loop": False, "prompt": "a ball rising", "seed": 2**40}
    surface = stage.GetPrimAtPath("/asset/mesh")

    def read(name: str, time: float | None = None) -> Any:
        attribute = surface.GetAttribute(name)
        return attribute.Get() if time is None else np.array(attribute.Get(time))

    assert read("subdivisionScheme") == "none"
    np.testing.assert_array_equal(read("faceVertexCounts"), 3)
    np.testing.assert_array_equal(read("faceVertexIndices"), mesh.faces.numpy().reshape(-1))
    for frame, vertices in enumerate(motion.vertices.numpy()):
        np.testing.assert_array_equal(read("points", frame), vertices)
        np.testing.assert_array_equal(read("normals", frame), motion.normals[frame].numpy())
        np.testing.assert_array_equal(read("extent", frame), [vertices.min(0), vertices.max(0)])
    between = (0.5 * (motion.vertices[2] + motion.vertices[3])).numpy()
    np.testing.assert_allclose(read("points", 2.5), between, atol=1e-6)
    assert mesh.vertex_colors is not None
    np.testing.assert_allclose(
        np.array(read("primvars:displayColor")), linear_from_srgb(mesh.vertex_colors.numpy()), atol=1e-6
    )


def test_the_validators_of_usd_find_nothing(tmp_path):
    UsdValidation = pytest.importorskip("pxr.UsdValidation")
    rising_ball().write(tmp_path / "anim.usdz")
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(validators) > 10
    found = UsdValidation.ValidationContext(validators).Validate(opened(tmp_path / "anim.usdz"))
    assert [error.GetErrorAsString() for error in found] == []
    with zipfile.ZipFile(tmp_path / "anim.usdz") as package:
        assert package.testzip() is None
        assert package.namelist() == ["asset.usdc"]


def test_without_usd_core_the_message_names_the_package(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name == "pxr" or name.startswith("pxr.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pxr", None)
    with pytest.raises(UserError, match=r'USD needs usd-core, pip install "threedgen\[usd\]"'):
        rising_ball().write(tmp_path / "anim.usdz")
    assert list(tmp_path.iterdir()) == []
