"""Meshes of OpenUSD: their places, polygons, instances, colours and textures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from threedgen.core.errors import UserError
from threedgen.core.pictures import srgb_from_linear
from threedgen.core.types import TriMesh
from threedgen.datasets.mesh_files import read_mesh, read_painted
from threedgen.export import write

pytest.importorskip("pxr")

CUBE = """#usda 1.0
(
    upAxis = "{up}"
)
def Xform "root"
{{
    {place}
    def Mesh "box"
    {{
        {more}
        point3f[] points = [(0,0,0), (1,0,0), (1,2,0), (0,2,0)]
        int[] faceVertexCounts = [4]
        int[] faceVertexIndices = [0, 1, 2, 3]
    }}
}}
{rest}
"""


def usda(folder: Path, up: str = "Y", place: str = "", more: str = "", rest: str = "") -> Path:
    path = folder / "a.usda"
    path.write_text(CUBE.format(up=up, place=place, more=more, rest=rest))
    return path


def sides(path: Path) -> list[float]:
    """The sides of the bounding box, as shares of the largest."""
    vertices = read_painted(path).mesh.vertices
    size = vertices.amax(0) - vertices.amin(0)
    return (size / size.max()).tolist()


def up_front(path: Path) -> list[list[float]]:
    """The directions in which the triangles look."""
    mesh = read_painted(path).mesh
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    return torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1).tolist()


@pytest.mark.parametrize("suffix", [".usda", ".usdc", ".usdz"])
@pytest.mark.parametrize("textured", [False, True])
def test_what_threedgen_writes_it_reads(tmp_path: Path, suffix: str, textured: bool) -> None:
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 2, 0], [0, 2, 0.5]])
    colors = torch.tensor([[1.0, 0, 0], [0, 0.5, 0], [0, 0, 1], [0.2, 0.3, 0.4]])
    mesh = TriMesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]), colors)
    if textured:
        picture = torch.zeros(16, 16, 3)
        picture[:8, :, 0] = 1.0  # red above, blue below
        picture[8:, :, 2] = 1.0
        uvs = torch.tensor([[0.5, 0.25]] * 3 + [[0.5, 0.75]])  # v = 0 at the top
        mesh = TriMesh(corners, mesh.faces, uvs=uvs, texture=picture)
        colors = torch.tensor([[1.0, 0, 0]] * 3 + [[0.0, 0, 1]])
    write(mesh, tmp_path / f"a{suffix}")
    found = read_mesh(tmp_path / f"a{suffix}")
    assert found.vertex_colors is not None
    size = found.vertices.amax(0) - found.vertices.amin(0)
    torch.testing.assert_close(size / size.max(), torch.tensor([0.5, 1.0, 0.25]), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(found.vertex_colors, colors, atol=0.01, rtol=0.0)


def test_z_is_up_where_the_file_says_so_and_places_are_those_of_the_prims(tmp_path: Path) -> None:
    assert sides(usda(tmp_path)) == pytest.approx([0.5, 1.0, 0.0])
    assert up_front(usda(tmp_path)) == pytest.approx(np.array([[0, 0, 1], [0, 0, 1]]))
    assert sides(usda(tmp_path, up="Z")) == pytest.approx([0.5, 0.0, 1.0])
    assert up_front(usda(tmp_path, up="Z")) == pytest.approx(np.array([[0, 1, 0], [0, 1, 0]]))
    scaled = 'double3 xformOp:scale = (-4, 1, 1)\nuniform token[] xformOpOrder = ["xformOp:scale"]'
    assert sides(usda(tmp_path, place=scaled)) == pytest.approx([1.0, 0.5, 0.0])
    assert up_front(usda(tmp_path, place=scaled)) == pytest.approx(np.array([[0, 0, 1], [0, 0, 1]]))
    left = 'uniform token orientation = "leftHanded"'
    assert up_front(usda(tmp_path, more=left)) == pytest.approx(np.array([[0, 0, -1], [0, 0, -1]]))


OTHER = """def Mesh "other"
{{
    {more}
    point3f[] points = [(0,0,0), (0,0,8), (1,0,0)]
    int[] faceVertexCounts = [3]
    int[] faceVertexIndices = [0, 1, 2]
}}
"""


@pytest.mark.parametrize("more", ['token visibility = "invisible"', 'uniform token purpose = "guide"'])
def test_what_is_not_shown_is_left_out(tmp_path: Path, more: str) -> None:
    assert len(read_painted(usda(tmp_path, rest=OTHER.format(more=more))).mesh.faces) == 2
    assert len(read_painted(usda(tmp_path, rest=OTHER.format(more=""))).mesh.faces) == 3


def test_concave_polygons_and_holes(tmp_path: Path) -> None:
    (tmp_path / "a.usda").write_text(
        """#usda 1.0
def Mesh "arrow" {
    point3f[] points = [(0,0,0), (2,0,0), (1,0.5,0), (1,2,0), (5,0,0), (5,1,0), (6,0,0)]
    int[] faceVertexCounts = [4, 3]
    int[] faceVertexIndices = [1, 3, 0, 2, 4, 5, 6]
    int[] holeIndices = [1]
}
"""
    )
    mesh = read_painted(tmp_path / "a.usda").mesh
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    area = 0.5 * torch.linalg.cross(b - a, c - a).norm(dim=1).sum()
    box = float((mesh.vertices.amax(0) - mesh.vertices.amin(0))[:2].prod())
    assert float(area) / box == pytest.approx(1.5 / 4, rel=1e-5)


@pytest.mark.parametrize(
    ("interpolation", "values", "corners"),
    [
        ("constant", [(0.5, 0, 0)], [(0.5, 0, 0)] * 4),
        ("uniform", [(0, 0.5, 0)], [(0, 0.5, 0)] * 4),
        (
            "vertex",
            [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)],
            [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)],
        ),
        (
            "faceVarying",
            [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)],
            [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)],
        ),
    ],
)
def test_colours_of_any_interpolation(tmp_path: Path, interpolation: str, values: Any, corners: Any) -> None:
    more = f'color3f[] primvars:displayColor = {values} (interpolation = "{interpolation}")'
    colors = read_mesh(usda(tmp_path, more=more)).vertex_colors
    assert colors is not None
    expected = torch.from_numpy(srgb_from_linear(np.array(corners, np.float64))).float()
    torch.testing.assert_close(colors, expected, atol=1e-4, rtol=0.0)


SURFACES = """def Scope "looks"
{
    def Material "paint"
    {
        token outputs:surface.connect = </looks/paint/shader.outputs:surface>
        def Shader "shader"
        {
            uniform token info:id = "UsdPreviewSurface"
            color3f inputs:diffuseColor = (0.25, 0, 0)
            color3f inputs:emissiveColor = (0, 1, 0)
            float inputs:opacity = 0.5
            token outputs:surface
        }
    }
    def Material "picture"
    {
        token outputs:surface.connect = </looks/picture/shader.outputs:surface>
        def Shader "shader"
        {
            uniform token info:id = "UsdPreviewSurface"
            color3f inputs:diffuseColor.connect = </looks/picture/image.outputs:rgb>
            token outputs:surface
        }
        def Shader "image"
        {
            uniform token info:id = "UsdUVTexture"
            asset inputs:file = @t.png@
            float2 inputs:st.connect = </looks/picture/reader.outputs:result>
            token inputs:wrapS = "mirror"
            token inputs:wrapT = "clamp"
            float3 outputs:rgb
        }
        def Shader "reader"
        {
            uniform token info:id = "UsdPrimvarReader_float2"
            string inputs:varname = "map1"
            float2 outputs:result
        }
    }
}
"""
BOUND = """prepend apiSchemas = ["MaterialBindingAPI"]
        rel material:binding = </looks/{name}>
        texCoord2f[] primvars:map1 = [(0.2, 0.5), (0.8, 0.5), (1.2, 0.5), (-0.4, 0.5)] (interpolation = "vertex")
"""


def bound(folder: Path, name: str) -> Path:
    path = usda(folder, rest=SURFACES)
    header, more = BOUND.format(name=name).split("\n", 1)
    text = path.read_text().replace('def Mesh "box"\n', f'def Mesh "box" (\n{header}\n)\n')
    path.write_text(text.replace("point3f[] points", f"{more}point3f[] points", 1))
    return path


def test_a_preview_surface_shows_its_colour_and_what_shines(tmp_path: Path) -> None:
    painted = read_painted(bound(tmp_path, "paint"))
    expected = torch.from_numpy(srgb_from_linear(np.array([0.25, 1.0, 0.0]))).float()
    torch.testing.assert_close(painted.corner_colors[0, 0], expected, atol=1e-4, rtol=0.0)
    assert painted.opacity.tolist() == [0.5, 0.5]


def test_a_preview_surface_shows_its_texture_by_the_coordinates_that_it_names(tmp_path: Path) -> None:
    path = bound(tmp_path, "picture")
    with pytest.warns(UserWarning, match=r"'t\.png' is not in its folder"):
        assert read_painted(path).plain
    picture = Image.new("RGB", (16, 16), (255, 0, 0))
    picture.paste((0, 0, 255), (8, 0, 16, 16))
    picture.save(tmp_path / "t.png")
    colors = read_mesh(path).vertex_colors
    assert colors is not None
    blue = (colors[:, 2] > 0.9).tolist()
    assert blue == [False, True, True, False]  # mirrored at 1 and at 0
    assert read_painted(path).wraps == (("mirror", "clamp"),)


def test_subsets_have_materials_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.usda"
    path.write_text(
        """#usda 1.0
def Mesh "two" (prepend apiSchemas = ["MaterialBindingAPI"])
{
    point3f[] points = [(0,0,0), (1,0,0), (0,1,0), (1,1,0)]
    int[] faceVertexCounts = [3, 3]
    int[] faceVertexIndices = [0, 1, 2, 1, 3, 2]
    color3f[] primvars:displayColor = [(1, 1, 1)]
    def GeomSubset "half" (prepend apiSchemas = ["MaterialBindingAPI"])
    {
        uniform token elementType = "face"
        uniform token familyName = "materialBind"
        int[] indices = [1]
        rel material:binding = </looks/paint>
    }
}
"""
        + SURFACES
    )
    painted = read_painted(path)
    assert sorted(painted.opacity.tolist()) == [0.5, 1.0]
    assert painted.corner_colors[painted.opacity == 1.0].min() == 1.0


def test_instances_are_where_their_instancer_has_them(tmp_path: Path) -> None:
    path = tmp_path / "a.usda"
    path.write_text(
        """#usda 1.0
def PointInstancer "many"
{
    point3f[] positions = [(0,0,0), (9,0,0), (0,0,4)]
    int[] protoIndices = [0, 0, 0]
    rel prototypes = [</many/one>]
    def Mesh "one"
    {
        point3f[] points = [(0,0,0), (1,0,0), (0,1,0)]
        int[] faceVertexCounts = [3]
        int[] faceVertexIndices = [0, 1, 2]
    }
}
"""
    )
    assert len(read_painted(path).mesh.faces) == 3
    assert sides(path) == pytest.approx([1.0, 0.1, 0.4])


def test_other_shapes_are_said_and_damaged_files_are_one_line(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"holds 1 shapes that are no meshes, such as Sphere /ball"):
        read_painted(usda(tmp_path, rest='def Sphere "ball" {}'))
    (tmp_path / "b.usdc").write_bytes(b"PXR-USDC nothing")
    with pytest.raises(UserError, match="is no USD file, or damaged"):
        read_painted(tmp_path / "b.usdc")
    short = usda(tmp_path)
    short.write_text(short.read_text().replace("[4]", "[9]"))
    with pytest.raises(UserError, match="fewer corners than its faces need"):
        read_painted(short)
    wild = usda(tmp_path)
    wild.write_text(wild.read_text().replace("[0, 1, 2, 3]", "[0, 1, 2, 77]"))
    with pytest.raises(UserError, match="corners that are not there"):
        read_painted(wild)
