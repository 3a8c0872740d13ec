"""glTF as exporters write it: nodes, instances, skins, morphs, sparse arrays, coordinates and kinds of textures."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.core.pictures import srgb_from_linear
from threedgen.datasets.mesh_files import RADIUS, read_mesh, read_painted, render
from threedgen.export import write
from threedgen.export.packing import Packing

SQUARE = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], "<f4")
TWO = np.array([0, 1, 2, 0, 2, 3], "<u2")
UVS = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], "<f4")  # the whole picture, v = 0 at its top
RED, BLUE, BLACK = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)
_WIDTHS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
_KINDS = {"<f4": 5126, "<u2": 5123, "|u1": 5121, "<u4": 5125}


class Gltf:
    """A .gltf with its data inside, built part by part."""

    def __init__(self, **more: Any) -> None:
        self.data = b""
        self.tree: dict[str, Any] = {
            "asset": {"version": "2.0"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "bufferViews": [],
            "accessors": [],
            **more,
        }

    def view(self, content: bytes) -> int:
        self.tree["bufferViews"].append(
            {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)}
        )
        self.data += content + bytes(-len(content) % 4)
        return len(self.tree["bufferViews"]) - 1

    def add(self, values: Any, **more: Any) -> int:
        array = np.asarray(values)
        rows = array.reshape(len(array), -1)
        self.tree["accessors"].append(
            {
                "bufferView": self.view(rows.tobytes()),
                "componentType": _KINDS[rows.dtype.str],
                "count": len(rows),
                "type": _WIDTHS[rows.shape[1]],
                **more,
            }
        )
        return len(self.tree["accessors"]) - 1

    def square(self, extra: Mapping[str, Any] | None = None, **more: Any) -> None:
        """The mesh of the node: a square with texture coordinates."""
        attributes = {"POSITION": self.add(SQUARE), "TEXCOORD_0": self.add(UVS), **(extra or {})}
        self.tree["meshes"] = [{"primitives": [{"attributes": attributes, "indices": self.add(TWO), **more}]}]

    def picture(self, image: Image.Image, kind: str = "PNG") -> None:
        content = io.BytesIO()
        image.save(content, kind)
        self.tree["images"] = [{"bufferView": self.view(content.getvalue()), "mimeType": "image/png"}]
        self.tree["textures"] = [{"source": 0}]

    def save(self, folder: Path) -> Path:
        uri = f"data:application/octet-stream;base64,{base64.b64encode(self.data).decode()}"
        self.tree["buffers"] = [{"byteLength": len(self.data), "uri": uri}]
        (folder / "a.gltf").write_text(json.dumps(self.tree))
        return folder / "a.gltf"


def halves() -> Image.Image:
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", (64, 64), (255, 0, 0))
    picture.paste((0, 0, 255), (32, 0, 64, 64))
    return picture


def shown(path: Path, columns: Sequence[float]) -> list[tuple[float, ...]]:
    """The colours of the square at these places from its left (0) to its right (1), from the front."""
    camera = orbit(torch.zeros(1), torch.zeros(1), torch.full((1,), 20.0), 6.0, 64, 64)
    row = render(read_painted(path), camera).images[0, 32]
    inside = torch.nonzero((row < 0.99).any(1))[:, 0]
    first, last = int(inside[0]), int(inside[-1])
    return [tuple(row[round(first + place * (last - first))].tolist()) for place in columns]


def check(path: Path, *colors: tuple[float, ...]) -> None:
    places = [(number + 0.5) / len(colors) for number in range(len(colors))]
    for found, color in zip(shown(path, places), colors, strict=True):
        assert found == pytest.approx(color, abs=0.02)


def textured(folder: Path, info: Mapping[str, Any] | None = None, **material: Any) -> tuple[Gltf, Path]:
    """The square under the picture of halves."""
    made = Gltf()
    second = made.add(np.array([[0.75, 0.5]] * 4, "<f4"))
    made.square({"TEXCOORD_1": second}, material=0)
    made.picture(halves())
    base = {"baseColorTexture": {"index": 0, **(info or {})}}
    made.tree["materials"] = [{"pbrMetallicRoughness": base, **material}]
    return made, made.save(folder)


def moved(**values: Any) -> dict[str, Any]:
    return {"extensions": {"KHR_texture_transform": values}}


@pytest.mark.parametrize(
    ("info", "colors"),
    [
        ({}, (RED, BLUE)),
        ({"texCoord": 1}, (BLUE, BLUE)),
        (moved(scale=[0.4, 1]), (RED, RED)),
        (moved(offset=[0.5, 0]), (BLUE, RED)),
        (moved(scale=[0.4, 1], offset=[0.55, 0]), (BLUE, BLUE)),
        (moved(rotation=np.pi, offset=[1, 1]), (BLUE, RED)),
        (moved(rotation=np.pi / 2, scale=[1, 0.4]), (RED, RED)),
        ({"texCoord": 0, **moved(texCoord=1)}, (BLUE, BLUE)),
    ],
)
def test_texture_coordinates_are_those_that_the_material_names(tmp_path, info, colors):
    check(textured(tmp_path, info)[1], *colors)


@pytest.mark.parametrize(
    ("wrap", "colors"),
    [
        (10497, (RED, BLUE, RED, BLUE)),
        (33648, (RED, BLUE, BLUE, RED)),
        (33071, (RED, BLUE, BLUE, BLUE)),
    ],
)
def test_a_texture_repeats_is_mirrored_or_ends_as_its_sampler_says(tmp_path, wrap, colors):
    made, _ = textured(tmp_path, moved(scale=[2, 1]))
    made.tree["samplers"] = [{"wrapS": wrap}]
    made.tree["textures"][0]["sampler"] = 0
    check(made.save(tmp_path), *colors)
    color = read_mesh(tmp_path / "a.gltf").vertex_colors  # the corners on the right are at u = 2
    assert color is not None
    assert bool((color[1] - torch.tensor(BLUE)).abs().max() < 0.02) == (wrap == 33071)


@pytest.mark.parametrize(
    ("material", "colors"),
    [
        (
            {"emissiveFactor": [0, 1, 0], "pbrMetallicRoughness": {"baseColorFactor": [0, 0, 0, 1]}},
            [(0, 1, 0)],
        ),
        (
            {
                "emissiveFactor": [1, 1, 1],
                "emissiveTexture": {"index": 0},
                "pbrMetallicRoughness": {"baseColorFactor": [0, 0, 0, 1]},
            },
            [RED, BLUE],
        ),
        (
            {
                "emissiveFactor": [0, 0.25, 0],
                "extensions": {"KHR_materials_emissive_strength": {"emissiveStrength": 4}},
                "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}},
            },
            [(1, 1, 0), (0, 1, 1)],
        ),
        (
            {
                "emissiveFactor": [1, 1, 1],
                "emissiveTexture": {"index": 0},
                "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}},
            },
            [RED, BLUE],
        ),
        ({"pbrMetallicRoughness": {"baseColorFactor": [0.5, 0.5, 0.5, 1]}}, [(0.735, 0.735, 0.735)]),
        (
            {"extensions": {"KHR_materials_pbrSpecularGlossiness": {"diffuseTexture": {"index": 0}}}},
            [RED, BLUE],
        ),
        ({"emissiveTexture": {"index": 0}}, [(0.7, 0.7, 0.7)]),  # without a factor it does not shine
    ],
)
def test_what_shines_is_added_to_the_base_colour(tmp_path, material, colors):
    made, _ = textured(tmp_path)
    made.tree["materials"] = [material]
    check(made.save(tmp_path), *colors)


def test_the_colours_of_corners_multiply_those_of_the_material(tmp_path):
    made = Gltf(materials=[{"pbrMetallicRoughness": {"baseColorFactor": [1, 0.5, 1, 1]}}])
    made.square({"COLOR_0": made.add(np.full((4, 4), 128, np.uint8), normalized=True)}, material=0)
    linear = np.array([1, 0.5, 1]) * 128 / 255
    check(made.save(tmp_path), tuple(srgb_from_linear(linear)))


def size(path: Path) -> list[float]:
    """The sides of the bounding box, the largest as 1."""
    vertices = read_painted(path).mesh.vertices
    assert vertices.norm(dim=1).max().item() == pytest.approx(RADIUS, rel=1e-5)
    sides = vertices.amax(0) - vertices.amin(0)
    return (sides / sides.max()).tolist()


def test_every_instance_of_a_node_is_there(tmp_path):
    made = Gltf()
    places = np.array([[0, 0, 0], [4, 0, 0], [8, 0, 0]], "<f4")
    turn = np.array([[0, 0, 0, 1], [0, 0.70710678, 0, 0.70710678], [0, 0, 0, 1]], "<f4")
    made.square()
    made.tree["nodes"][0] |= {
        "scale": [0.5, 0.5, 0.5],
        "extensions": {
            "EXT_mesh_gpu_instancing": {
                "attributes": {"TRANSLATION": made.add(places), "ROTATION": made.add(turn)}
            }
        },
    }
    made.tree["extensionsRequired"] = ["EXT_mesh_gpu_instancing"]
    path = made.save(tmp_path)
    assert len(read_painted(path).mesh.faces) == 6
    assert size(path) == pytest.approx([1.0, 0.2, 0.2], abs=1e-4)  # the second one stands edge on


def test_sparse_values_are_laid_over_the_base(tmp_path):
    made = Gltf()
    made.square()
    number = made.tree["meshes"][0]["primitives"][0]["attributes"]["POSITION"]
    places, values = made.view(np.array([2], "<u2").tobytes()), np.array([[1, 1, 2]], "<f4")
    made.tree["accessors"][number]["sparse"] = {
        "count": 1,
        "indices": {"bufferView": places, "componentType": 5123},
        "values": {"bufferView": made.view(values.tobytes())},
    }
    assert size(made.save(tmp_path)) == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)


@pytest.mark.parametrize("where", ["mesh", "node"])
def test_morph_targets_have_the_weights_of_the_file(tmp_path, where):
    made = Gltf()
    made.square(targets=[{"POSITION": made.add(SQUARE * np.array([1, 0, 0], "<f4"))}])
    made.tree["meshes"][0]["weights"] = [2.0 if where == "mesh" else 0.0]
    if where == "node":
        made.tree["nodes"][0]["weights"] = [2.0]
    assert size(made.save(tmp_path)) == pytest.approx([1.0, 1 / 3, 0.0], abs=1e-5)


def test_a_skin_moves_its_vertices_as_its_joints_say(tmp_path):
    """A joint that is scaled, below one that is not, and a node whose own place does not count."""
    made = Gltf(
        nodes=[
            {"mesh": 0, "skin": 0, "scale": [7, 1, 1]},
            {"children": [2], "translation": [1, 0, 0]},
            {"translation": [-1, 0, 0], "scale": [1, 3, 1]},
        ]
    )
    joints, weights = np.tile(np.array([[0, 1, 0, 0]], np.uint8), (4, 1)), np.zeros((4, 4), "<f4")
    weights[:, 1] = 1.0
    made.square({"JOINTS_0": made.add(joints), "WEIGHTS_0": made.add(weights)})
    made.tree["scenes"] = [{"nodes": [0, 1]}]
    inverse = np.stack([np.eye(4), np.diag([1.0, 0.5, 1.0, 1.0])]).transpose(0, 2, 1).astype("<f4")
    made.tree["skins"] = [{"joints": [1, 2], "inverseBindMatrices": made.add(inverse.reshape(2, 16))}]
    assert size(made.save(tmp_path)) == pytest.approx([2 / 3, 1.0, 0.0], abs=1e-5)


@pytest.mark.parametrize(("mode", "order"), [(5, [0, 1, 3, 2]), (6, [0, 1, 2, 3])])
def test_strips_and_fans_are_triangles_of_one_side(tmp_path, mode, order):
    made = Gltf()
    made.square(mode=mode)
    made.tree["meshes"][0]["primitives"][0]["indices"] = made.add(np.array(order, "<u2"))
    mesh = read_painted(made.save(tmp_path)).mesh
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    across = torch.linalg.cross(b - a, c - a)
    assert len(mesh.faces) == 2
    assert bool((across[:, 2] > 0.1).all())
    assert float(across.norm(dim=1).sum()) == pytest.approx(2 * 2 * RADIUS**2, rel=1e-5)


def test_only_the_scene_that_is_shown_is_read_and_nodes_move_what_is_below_them(tmp_path):
    made = Gltf(nodes=[{"mesh": 0}, {"children": [2], "scale": [1, 2, 1]}, {"mesh": 0, "scale": [1, 2, 1]}])
    made.square()
    made.tree |= {"scene": 1, "scenes": [{"nodes": [0]}, {"nodes": [1]}]}
    assert size(made.save(tmp_path)) == pytest.approx([0.25, 1.0, 0.0], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"extensionsRequired": ["EXT_meshopt_compression"]},
            "needs EXT_meshopt_compression, which threedgen",
        ),
        ({"extensionsRequired": ["KHR_texture_basisu"]}, "needs KHR_texture_basisu"),
        ({"nodes": [{"mesh": 0, "children": [0]}]}, "cannot read"),
        ({"scenes": [{"nodes": [5]}]}, "names number 5 of its nodes, and there are 1"),
        (
            {"meshes": [{"primitives": [{"attributes": {"POSITION": 77}}]}]},
            "names number 77 of its accessors",
        ),
        ({"asset": {"version": "1.0"}}, "another version of glTF"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, change, words):
    made = Gltf()
    made.square()
    made.tree |= change
    with pytest.raises(UserError, match=words) as error:
        read_painted(made.save(tmp_path))
    assert "\n" not in str(error.value)


def test_a_folder_with_the_name_of_a_mesh_is_one_line(tmp_path):
    (tmp_path / "a.glb").mkdir()
    with pytest.raises(UserError, match=r"cannot read the mesh .*a\.glb: Is a directory"):
        read_painted(tmp_path / "a.glb")


def test_files_beside_a_gltf_are_found_or_said_to_be_missing(tmp_path):
    made, path = textured(tmp_path)
    made.tree["images"] = [{"uri": "half%20and%20half.png"}]
    made.save(tmp_path)
    with pytest.warns(UserWarning, match=r"'half and half\.png' is not in its folder"):
        assert read_painted(path).plain
    halves().save(tmp_path / "half and half.png")
    check(path, RED, BLUE)
    tree = json.loads(path.read_text())
    tree["buffers"][0]["uri"] = "a.bin"
    path.write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"'a\.bin' is not in its folder"):
        read_painted(path)
    (tmp_path / "a.bin").write_bytes(made.data)
    check(path, RED, BLUE)


def test_a_texture_of_a_kind_that_is_not_read_is_said(tmp_path):
    made, _ = textured(tmp_path)
    made.tree["textures"] = [{"extensions": {"KHR_texture_basisu": {"source": 0}}}]
    with pytest.warns(UserWarning, match="'texture 0' is stored as KHR_texture_basisu, which is not read"):
        read_painted(made.save(tmp_path))


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_textures_of_other_kinds(tmp_path, kind):
    made, _ = textured(tmp_path)
    try:
        made.picture(halves(), kind)
    except (KeyError, OSError):
        pytest.skip(f"Pillow cannot write {kind}")
    made.tree["textures"] = [{"extensions": {f"EXT_texture_{kind.lower()}": {"source": 0}}}]
    check(made.save(tmp_path), RED, BLUE)


def test_draco_is_read_and_without_dracopy_it_is_named(tmp_path, monkeypatch):
    pytest.importorskip("DracoPy")
    mesh = read_mesh(textured(tmp_path)[1])
    write(mesh, tmp_path / "small.glb", packing=Packing(draco=True))
    found = read_mesh(tmp_path / "small.glb")
    assert mesh.vertex_colors is not None
    assert found.vertex_colors is not None
    nearest = torch.cdist(mesh.vertices, found.vertices).argmin(dim=1)
    torch.testing.assert_close(found.vertices[nearest], mesh.vertices, atol=1e-3, rtol=0.0)
    torch.testing.assert_close(found.vertex_colors[nearest], mesh.vertex_colors, atol=0.01, rtol=0.0)
    monkeypatch.setitem(__import__("sys").modules, "DracoPy", None)
    with pytest.raises(UserError, match=r"compressed with Draco, which needs DracoPy: pip install"):
        read_mesh(tmp_path / "small.glb")
