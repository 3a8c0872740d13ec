"""GLB files with WebP textures and with Draco, read back by trimesh, DracoPy and the validator of Khronos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from clouds import ball
from corners import SIDES, arms
from khronos import issues
from movements import rising_ball
from scipy.spatial import KDTree

from threedgen.core.errors import UserError
from threedgen.core.pictures import srgb_from_linear
from threedgen.core.types import TriMesh
from threedgen.export import packing, write
from threedgen.export.gltf import read_glb
from threedgen.export.packing import Packing

DRACO = Packing(draco=True)
WEBP = Packing(texture="webp")
BOTH = pytest.mark.parametrize("textured", [False, True], ids=["colours", "texture"])
SUFFIXES = pytest.mark.parametrize("suffix", [".glb", ".gltf"])


def read(path: Path) -> trimesh.Trimesh:
    (found,) = trimesh.load_scene(path, process=False).geometry.values()
    assert isinstance(found, trimesh.Trimesh)
    return found


def smooth_picture() -> TriMesh:
    """The arms with a picture that a lossy format keeps."""
    down, across = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 48), indexing="ij")
    return replace(arms(textured=True), texture=torch.stack([down, across, 1.0 - down], dim=2))


@SUFFIXES
def test_a_webp_texture_is_read_by_trimesh(tmp_path: Path, suffix: str) -> None:
    mesh = smooth_picture()
    assert mesh.texture is not None
    write(mesh, tmp_path / f"asset{suffix}", packing=WEBP)
    visual: Any = read(tmp_path / f"asset{suffix}").visual
    image = visual.material.baseColorTexture
    assert image.format == "WEBP"
    assert image.size == (48, 64)
    difference = np.asarray(image.convert("RGB")) / 255.0 - mesh.texture.numpy()
    assert np.abs(difference).mean() < 0.02


@SUFFIXES
@BOTH
def test_what_draco_compressed_is_read_by_trimesh(tmp_path: Path, suffix: str, textured: bool) -> None:
    pytest.importorskip("DracoPy")
    mesh = arms(textured)
    write(mesh, tmp_path / f"asset{suffix}", packing=DRACO)
    found = read(tmp_path / f"asset{suffix}")
    step = 3.3 / 16383
    np.testing.assert_allclose(found.bounds, SIDES.T, atol=step)
    order = np.abs(found.vertices[:, None] - mesh.vertices.numpy()).sum(axis=2).argmin(axis=1)
    assert sorted(order) == list(range(6))
    assert {tuple(face) for face in order[found.faces]} <= {
        tuple(np.roll(face, turn)) for face in mesh.faces.numpy() for turn in range(3)
    }
    assert len(found.faces) == len(mesh.faces)
    assert mesh.normals is not None
    assert (found.vertex_normals * mesh.normals.numpy()[order]).sum(axis=1).min() > 0.9999
    visual: Any = found.visual
    if textured:
        assert mesh.uvs is not None
        uvs = mesh.uvs.numpy()[order] * [1.0, -1.0] + [0.0, 1.0]
        np.testing.assert_allclose(visual.uv, uvs, atol=1.0 / 4095)
    else:
        assert mesh.vertex_colors is not None
        linear = np.asarray(visual.vertex_attributes["color"]) / 65535.0
        np.testing.assert_allclose(srgb_from_linear(linear), mesh.vertex_colors.numpy()[order], atol=1e-3)


@BOTH
def test_the_khronos_validator_finds_no_errors(tmp_path: Path, textured: bool) -> None:
    pytest.importorskip("DracoPy")
    path = tmp_path / "asset.glb"
    write(arms(textured), path, packing=Packing("webp", draco=True))
    found = issues(path)
    assert found["numErrors"] == 0, found["messages"]


def test_draco_makes_a_file_small_and_keeps_places(tmp_path: Path) -> None:
    pytest.importorskip("DracoPy")
    body = trimesh.creation.icosphere(subdivisions=4)
    vertices = torch.from_numpy(np.array(body.vertices)).float()
    mesh = TriMesh(vertices, torch.from_numpy(np.array(body.faces)).long(), 0.5 * vertices + 0.5, vertices)
    write(mesh, tmp_path / "plain.glb")
    write(mesh, tmp_path / "small.glb", packing=DRACO)
    assert (tmp_path / "small.glb").stat().st_size < 0.2 * (tmp_path / "plain.glb").stat().st_size
    distance, _ = KDTree(body.vertices).query(read(tmp_path / "small.glb").vertices)
    assert distance.max() < 2.0 / 16383  # the ball is 2 units wide


def test_a_moving_asset_takes_a_webp_texture_and_no_draco(tmp_path: Path) -> None:
    pytest.importorskip("DracoPy")
    asset = rising_ball()
    assert asset.write(tmp_path / "anim.gltf", WEBP) is asset.surface[0]
    found = issues(tmp_path / "anim.gltf")
    assert (found["numErrors"], found["numWarnings"]) == (0, 0), found["messages"]
    with pytest.raises(UserError, match=r"anim.glb: Draco is for what stands still"):
        asset.write(tmp_path / "anim.glb", DRACO)


def test_what_cannot_be_packed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("asset.obj", "asset.usdz", "asset.ply"):
        with pytest.raises(UserError, match=r"WebP textures and Draco are for \.glb and \.gltf"):
            write(arms(textured=True), tmp_path / name, packing=WEBP)
    with pytest.raises(UserError, match=r"WebP textures and Draco are for \.glb and \.gltf"):
        rising_ball().write(tmp_path / "anim.usdz", WEBP)
    for packed in (WEBP, DRACO):  # glTF too, but of Gaussians
        with pytest.raises(UserError, match=r"a\.splats\.glb: .* that hold a mesh"):
            write(ball(), tmp_path / "a.splats.glb", packing=packed)
    with pytest.raises(UserError, match="unknown format of textures 'jpeg': use png or webp"):
        Packing("jpeg")  # type: ignore[arg-type]
    monkeypatch.setattr(packing, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'Draco needs DracoPy, pip install "threedgen\[draco\]"'):
        write(arms(textured=True), tmp_path / "asset.glb", packing=DRACO)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_read_here_is_named(tmp_path: Path) -> None:
    write(arms(textured=True), tmp_path / "asset.glb", packing=WEBP)
    with pytest.raises(UserError, match="it needs EXT_texture_webp, which is not read here"):
        read_glb(tmp_path / "asset.glb")
