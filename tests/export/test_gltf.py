"""GLB files: round trips, other readers, the validator of Khronos, and files that cannot be read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from clouds import torus
from khronos import issues

from threedgen.core.errors import UserError
from threedgen.core.pictures import linear_from_srgb, srgb_from_linear
from threedgen.core.random import generator
from threedgen.core.types import TriMesh
from threedgen.export.gltf import read_glb, write_glb
from threedgen.export.mesh import MeshConfig, extract_mesh, vertex_normals


def icosphere(textured: bool = False) -> TriMesh:
    body = trimesh.creation.icosphere(subdivisions=2)
    vertices, faces = np.asarray(body.vertices), np.asarray(body.faces)
    count = len(vertices)
    rng = generator(0, "gltf-test", 0)
    return TriMesh(
        vertices=torch.from_numpy(vertices).float(),
        faces=torch.from_numpy(faces).long(),
        vertex_colors=torch.rand(count, 3, generator=rng),
        normals=torch.from_numpy(vertex_normals(vertices, faces)).float(),
        uvs=torch.rand(count, 2, generator=rng) if textured else None,
        texture=torch.rand(5, 7, 3, generator=rng) if textured else None,
    )


@pytest.mark.parametrize("textured", [False, True])
def test_round_trip(tmp_path: Path, textured: bool) -> None:
    mesh = icosphere(textured)
    extras = {"prompt": 'a "red" cube, größer', "seed": 7}
    back, found = read_glb(write_glb(tmp_path / "a.glb", mesh, extras))
    assert found == extras
    assert torch.equal(back.vertices, mesh.vertices)
    assert torch.equal(back.faces, mesh.faces)
    assert mesh.normals is not None
    assert torch.equal(back.normals, mesh.normals)  # type: ignore[arg-type]
    if textured:
        assert back.vertex_colors is None  # a viewer would multiply the texture by them
        assert torch.equal(back.uvs, mesh.uvs)  # type: ignore[arg-type]
        torch.testing.assert_close(back.texture, mesh.texture, atol=0.5 / 255 + 1e-6, rtol=0.0)
    else:
        torch.testing.assert_close(back.vertex_colors, mesh.vertex_colors, atol=1e-6, rtol=0.0)
        assert back.uvs is None
        assert back.texture is None


def test_round_trip_of_a_mesh_without_attributes(tmp_path: Path) -> None:
    mesh = replace(icosphere(), vertex_colors=None, normals=None)
    back, extras = read_glb(write_glb(tmp_path / "a.glb", mesh))
    assert back.vertex_colors is None
    assert back.normals is None
    assert extras == {}


@pytest.mark.parametrize("textured", [False, True])
def test_the_khronos_validator_finds_nothing(tmp_path: Path, textured: bool) -> None:
    found = issues(write_glb(tmp_path / "a.glb", icosphere(textured), {"prompt": "größer"}))
    assert (found["numErrors"], found["numWarnings"]) == (0, 0), found["messages"]


def test_the_khronos_validator_finds_nothing_in_an_extracted_mesh(tmp_path: Path) -> None:
    mesh = extract_mesh(torus(), MeshConfig(resolution=32, faces=2000))
    found = issues(write_glb(tmp_path / "a.glb", mesh, {"prompt": "a torus"}))
    assert (found["numErrors"], found["numWarnings"]) == (0, 0), found["messages"]


def test_the_validator_finds_a_broken_file(tmp_path: Path) -> None:
    mesh = icosphere()
    assert mesh.normals is not None
    path = write_glb(tmp_path / "a.glb", replace(mesh, normals=2 * mesh.normals))
    assert issues(path)["numErrors"] > 0


def test_trimesh_and_pygltflib_read_the_same(tmp_path: Path) -> None:
    pygltflib = pytest.importorskip("pygltflib")
    mesh = icosphere()
    assert mesh.vertex_colors is not None
    path = write_glb(tmp_path / "a.glb", mesh, {"prompt": "a ball"})
    read = trimesh.load(path, force="mesh", process=False)
    assert isinstance(read, trimesh.Trimesh)
    np.testing.assert_array_equal(read.vertices.astype(np.float32), mesh.vertices.numpy())
    np.testing.assert_array_equal(read.faces, mesh.faces.numpy())
    document = pygltflib.GLTF2().load(str(path))
    assert document.asset.generator == "threedgen"
    assert document.asset.extras == {"prompt": "a ball"}
    accessor = document.accessors[document.meshes[0].primitives[0].attributes.COLOR_0]
    view = document.bufferViews[accessor.bufferView]
    raw = document.binary_blob()[view.byteOffset : view.byteOffset + view.byteLength]
    linear = np.frombuffer(raw, "<f4").reshape(-1, 3)
    # glTF colours are linear: middle grey on screen, 0.5, is stored as 0.214.
    np.testing.assert_allclose(linear, linear_from_srgb(mesh.vertex_colors.numpy()), rtol=1e-6)
    assert float(linear_from_srgb(np.array(0.5))) == pytest.approx(0.2140, abs=1e-4)


def test_srgb_curve_inverts() -> None:
    values = np.linspace(0.0, 1.0, 1001)
    np.testing.assert_allclose(srgb_from_linear(linear_from_srgb(values)), values, atol=1e-7)
    assert (np.diff(linear_from_srgb(values)) > 0).all()


def test_bad_meshes_and_files_are_refused(tmp_path: Path) -> None:
    mesh = icosphere()
    with pytest.raises(UserError, match="no faces"):
        write_glb(tmp_path / "a.glb", replace(mesh, faces=mesh.faces[:0]))
    with pytest.raises(UserError, match="not finite"):
        write_glb(tmp_path / "a.glb", replace(mesh, vertices=mesh.vertices * float("nan")))
    assert list(tmp_path.iterdir()) == []
    path = write_glb(tmp_path / "a.glb", mesh)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="cut short"):
        read_glb(path)
    raw = bytearray(
        write_glb(tmp_path / "a.glb", replace(mesh, vertex_colors=None, normals=None)).read_bytes()
    )
    raw[-12:-8] = (10**6).to_bytes(4, "little")  # the indices are the last of the file
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"cannot read .* names vertex 1000000"):
        read_glb(path)
    for content in (b"no mesh", b"not a mesh but twenty bytes or more"):
        (tmp_path / "b.glb").write_bytes(content)
        with pytest.raises(UserError, match=r"cannot read .* as a mesh: no glTF 2\.0 binary, or cut short"):
            read_glb(tmp_path / "b.glb")
    with pytest.raises(UserError, match=r"cannot read .*missing\.glb: No such file"):
        read_glb(tmp_path / "missing.glb")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document.update(meshes=[]), "list index out of range"),
        (lambda document: document.pop("meshes"), "'meshes'"),
        (lambda document: document["accessors"][0].update(count=10**6), "buffer is smaller"),
        (lambda document: document["accessors"][1].update(count=1), "normals must be"),
        (lambda document: document["bufferViews"][-1].update(byteLength=20), "its texture is no PNG"),
    ],
)
def test_a_glb_of_another_layout_is_refused(tmp_path: Path, change, message: str) -> None:
    raw = write_glb(tmp_path / "a.glb", icosphere(textured=True)).read_bytes()
    length = int.from_bytes(raw[12:16], "little")
    document = json.loads(raw[20 : 20 + length])
    change(document)
    text = json.dumps(document).encode()
    size = 20 + len(text) + len(raw) - 20 - length
    sizes = [number.to_bytes(4, "little") for number in (size, len(text))]
    (tmp_path / "b.glb").write_bytes(raw[:8] + sizes[0] + sizes[1] + raw[16:20] + text + raw[20 + length :])
    with pytest.raises(UserError, match=f"cannot read .* as a mesh: .*{message}"):
        read_glb(tmp_path / "b.glb")
