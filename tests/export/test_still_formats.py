"""Meshes that stand still in every format, read back by programs that are not ours: places, colours, textures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from corners import SIDES, arms
from khronos import issues
from PIL import Image

from threedgen.core.errors import UserError
from threedgen.core.pictures import srgb_from_linear
from threedgen.export import suffixes, write
from threedgen.export.names import holds_splats
from threedgen.export.seams import smooth_normals, welds

BOTH = pytest.mark.parametrize("textured", [False, True], ids=["colours", "texture"])
USD = (".usdz", ".usda", ".usdc")


def read(path: Path) -> trimesh.Trimesh:
    (found,) = trimesh.load_scene(path, process=False).geometry.values()
    assert isinstance(found, trimesh.Trimesh)
    return found


def colors_at(uvs: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """The colours [V, 3] of a texture [H, W, 3] in [0, 1] at uvs whose v = 0 is at its lower edge."""
    height, width, _ = picture.shape
    across = (uvs[:, 0] * width).astype(int)
    down = ((1.0 - uvs[:, 1]) * height).astype(int)
    return picture[down, across]


def far_tips(vertices: np.ndarray) -> list[int]:
    """The vertices that are farthest along x, y and z."""
    return vertices.argmax(axis=0).tolist()


@BOTH
@pytest.mark.parametrize("suffix", [".glb", ".gltf", ".obj"])
def test_trimesh_reads_places_and_colors(tmp_path: Path, suffix: str, textured: bool) -> None:
    path = tmp_path / f"asset{suffix}"
    write(arms(textured), path)
    found = read(path)
    np.testing.assert_allclose(found.bounds, SIDES.T, atol=1e-6)
    tips = far_tips(found.vertices)
    visual: Any = found.visual
    if textured:
        material = visual.material
        image = material.image if suffix == ".obj" else material.baseColorTexture
        colors = colors_at(np.asarray(visual.uv), np.asarray(image.convert("RGB")) / 255.0)
    elif suffix == ".obj":
        colors = visual.vertex_colors[:, :3] / 255.0
    else:
        colors = srgb_from_linear(np.asarray(visual.vertex_attributes["color"])[:, :3])
    np.testing.assert_allclose(colors[tips], np.eye(3), atol=0.01)


@BOTH
def test_the_khronos_validator_finds_nothing_in_a_gltf(tmp_path: Path, textured: bool) -> None:
    write(arms(textured), tmp_path / "asset.gltf", note={"prompt": "größer"})
    assert [path.name for path in tmp_path.iterdir()] == ["asset.gltf"]
    found = issues(tmp_path / "asset.gltf")
    assert (found["numErrors"], found["numWarnings"]) == (0, 0), found["messages"]


def test_an_stl_stands_upright_where_z_is_up(tmp_path: Path) -> None:
    write(arms(textured=False), tmp_path / "asset.stl")
    found = read(tmp_path / "asset.stl")
    x, y, z = SIDES
    np.testing.assert_allclose(found.bounds.T, [x, -z[::-1], y], atol=1e-6)
    found.merge_vertices()
    assert found.is_watertight
    assert found.volume == pytest.approx(read_volume())  # positive: not turned inside out


def read_volume() -> float:
    mesh = arms(textured=False)
    return float(trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy()).volume)


def opened(path: Path) -> Any:
    from pxr import Usd

    return Usd.Stage.Open(str(path))  # pyright: ignore[reportAttributeAccessIssue]


@BOTH
@pytest.mark.parametrize("suffix", USD)
def test_usd_core_reads_places_and_colors(tmp_path: Path, suffix: str, textured: bool) -> None:
    pytest.importorskip("pxr")
    path = tmp_path / f"asset{suffix}"
    mesh = arms(textured)
    write(mesh, path, note={"prompt": "arms"})
    stage = opened(path)
    assert stage.GetMetadata("upAxis") == "Y"
    assert not stage.HasAuthoredTimeCodeRange()
    assert stage.GetRootLayer().customLayerData["threedgen"] == {"prompt": "arms"}
    surface = stage.GetPrimAtPath("/asset/mesh")
    values = {name: np.array(surface.GetAttribute(name).Get()) for name in ("points", "normals", "extent")}
    np.testing.assert_array_equal(values["points"], mesh.vertices.numpy())
    np.testing.assert_allclose(values["extent"], SIDES.T, atol=1e-6)
    assert mesh.normals is not None
    np.testing.assert_allclose(values["normals"], mesh.normals.numpy(), atol=1e-6)
    if textured:
        image = stage.GetPrimAtPath("/asset/surface/texture").GetAttribute("inputs:file").Get()
        uvs = np.array(surface.GetAttribute("primvars:st").Get())
        colors = colors_at(uvs, picture_of(image.resolvedPath))
    else:
        colors = srgb_from_linear(np.array(surface.GetAttribute("primvars:displayColor").Get()))
    np.testing.assert_allclose(colors[far_tips(values["points"])], np.eye(3), atol=0.01)


def picture_of(resolved: str) -> np.ndarray:
    """The picture [H, W, 3] of a path as usd-core resolves it, which may lie in a package."""
    from pxr import Ar

    content = Ar.GetResolver().OpenAsset(Ar.ResolvedPath(resolved)).GetBuffer()  # pyright: ignore
    import io

    return np.asarray(Image.open(io.BytesIO(bytes(content))).convert("RGB")) / 255.0


@BOTH
@pytest.mark.parametrize("suffix", USD)
def test_the_validators_of_usd_find_nothing(tmp_path: Path, suffix: str, textured: bool) -> None:
    UsdValidation = pytest.importorskip("pxr.UsdValidation")
    write(arms(textured), tmp_path / f"asset{suffix}")
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(validators) > 10
    found = UsdValidation.ValidationContext(validators).Validate(opened(tmp_path / f"asset{suffix}"))
    assert [error.GetErrorAsString() for error in found] == []


def test_a_picture_beside_a_usda_does_not_replace_one_of_the_user(tmp_path: Path) -> None:
    pytest.importorskip("pxr")
    Image.new("RGB", (3, 3), "white").save(tmp_path / "asset.png")
    before = (tmp_path / "asset.png").read_bytes()
    for _ in range(2):  # the second time the picture is one of ours
        write(arms(textured=True), tmp_path / "asset.usda")
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["asset-2.png", "asset.png", "asset.usda"]
    assert (tmp_path / "asset.png").read_bytes() == before
    assert "asset-2.png" in (tmp_path / "asset.usda").read_text()


@pytest.mark.parametrize("suffix", [suffix for suffix in suffixes() if not holds_splats(Path(f"a{suffix}"))])
def test_a_mesh_that_no_file_can_hold_is_refused(tmp_path: Path, suffix: str) -> None:
    mesh = arms(textured=False)
    with pytest.raises(UserError, match="not finite"):
        write(replace(mesh, vertices=mesh.vertices / 0), tmp_path / f"asset{suffix}")
    assert list(tmp_path.iterdir()) == []


def cut_ball() -> trimesh.Trimesh:
    """A ball whose faces share no vertices, as if its texture had a chart for each of them."""
    whole = trimesh.creation.icosphere(subdivisions=2)
    whole.unmerge_vertices()
    return whole


def test_normals_do_not_show_where_a_texture_is_cut(tmp_path: Path) -> None:
    body = cut_ball()
    vertices = torch.from_numpy(np.array(body.vertices)).float()
    cut = replace(
        arms(textured=True),
        vertices=vertices,
        faces=torch.from_numpy(np.array(body.faces)).long(),
        normals=None,
        uvs=torch.rand(len(vertices), 2),
    )
    write(cut, tmp_path / "asset.glb")
    normals = read(tmp_path / "asset.glb").vertex_normals  # those of the file
    assert (normals * body.vertices).sum(axis=1).min() > 0.999
    # A mesh without uvs has doubled vertices where it has an edge, which stays sharp.
    assert (welds(replace(cut, uvs=None, texture=None)) == np.arange(len(vertices))).all()


def test_a_sharp_edge_of_a_mesh_with_normals_stays_sharp() -> None:
    box = trimesh.creation.box()
    box.unmerge_vertices()
    vertices, faces = torch.from_numpy(np.array(box.vertices)), torch.from_numpy(np.array(box.faces))
    flat = np.repeat(box.face_normals, 3, axis=0)
    mesh = replace(
        arms(textured=True),
        vertices=vertices.float(),
        faces=faces,
        normals=torch.from_numpy(flat).float(),
        uvs=torch.rand(len(vertices), 2),
    )
    same = welds(mesh)
    assert len(set(same.tolist())) == 24
    np.testing.assert_allclose(smooth_normals(vertices.numpy(), faces.numpy(), same), flat, atol=1e-9)
