"""Mesh files: displayed colours, a place in the unit sphere, merged pieces, no downloads."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from threedgen.core.errors import UserError
from threedgen.core.pictures import srgb_from_linear
from threedgen.core.types import TriMesh
from threedgen.datasets import mesh_files
from threedgen.datasets.mesh_files import RADIUS, fibonacci_views, read_painted, render
from threedgen.export.gltf import write_glb

COLOR = np.array([204, 102, 51], dtype=np.uint8)


def box(size=(2.0, 4.0, 6.0)) -> Any:
    return trimesh.creation.box(extents=size)


def picture_color(path, texture=None, size=24):
    """The mean colour of opaque pixels, from the front."""
    pictures = render(read_painted(path, texture), fibonacci_views(3, size)[1:2])
    return pictures.images[pictures.alpha[..., 0] > 0.999].mean(0)


def close(color, expected):
    torch.testing.assert_close(
        color.double(), torch.as_tensor(np.asarray(expected, dtype=np.float64)), atol=3e-3, rtol=0
    )


@pytest.mark.parametrize("suffix", [".glb", ".gltf", ".obj", ".ply", ".stl", ".off"])
def test_every_suffix_is_read_and_placed(suffix, tmp_path):
    path = tmp_path / f"box{suffix.upper() if suffix == '.ply' else suffix}"
    mesh = box()
    mesh.apply_translation([10.0, -3.0, 0.5])
    mesh.export(path, file_type=suffix[1:])
    painted = read_painted(path)
    assert len(painted.mesh.faces) == 12
    vertices = painted.mesh.vertices
    assert vertices.norm(dim=1).max().item() == pytest.approx(RADIUS, rel=1e-5)
    torch.testing.assert_close(vertices.amin(0), -vertices.amax(0))
    extents = vertices.amax(0) - vertices.amin(0)
    torch.testing.assert_close(extents / extents[0], torch.tensor([1.0, 2.0, 3.0]), rtol=1e-4, atol=1e-4)
    assert painted.plain


def test_vertex_and_face_colours_are_shown_as_they_are(tmp_path):
    mesh = box()
    mesh.visual.vertex_colors = np.tile([*COLOR, 255], (8, 1))
    mesh.export(tmp_path / "vertex.ply")
    close(picture_color(tmp_path / "vertex.ply"), COLOR / 255.0)
    corners = torch.tensor(mesh.vertices, dtype=torch.float32)
    ours = TriMesh(corners, torch.tensor(mesh.faces), torch.tensor(COLOR / 255.0).float().expand(8, 3))
    write_glb(tmp_path / "vertex.glb", ours)  # linear light in the file
    torch.testing.assert_close(
        picture_color(tmp_path / "vertex.glb"), torch.tensor(COLOR / 255.0).float(), atol=0.02, rtol=0
    )
    faces = box()
    faces.visual.face_colors = np.tile([[*COLOR, 255], [0, 0, 255, 255]], (6, 1))
    faces.export(tmp_path / "face.ply")
    painted = read_painted(tmp_path / "face.ply")
    assert not painted.plain
    close(painted.corner_colors[0], np.tile(COLOR / 255.0, (3, 1)))


def textured(image, material):
    mesh = box()
    uv = np.tile([[0.25, 0.25]], (len(mesh.vertices), 1))
    mesh.visual = TextureVisuals(uv=uv, material=material(image))
    return mesh


def quarters():
    """COLOR in the lower left quarter of the picture, which contains (u, v) = (0.25, 0.25); blue elsewhere."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., 2] = 255
    pixels[4:, :4] = COLOR
    return Image.fromarray(pixels)


def test_textures_of_glb_and_obj_and_one_named_apart(tmp_path):
    textured(quarters(), lambda i: PBRMaterial(baseColorTexture=i)).export(tmp_path / "t.glb")
    close(picture_color(tmp_path / "t.glb"), COLOR / 255.0)
    half = lambda i: PBRMaterial(baseColorTexture=i, baseColorFactor=[0.5, 0.5, 0.5, 1.0])  # noqa: E731
    textured(quarters(), half).export(tmp_path / "half.glb")
    linear = (COLOR / 255.0 + 0.055) / 1.055
    dimmed = srgb_from_linear(0.5 * linear**2.4)
    torch.testing.assert_close(
        picture_color(tmp_path / "half.glb").double(), torch.from_numpy(dimmed), atol=0.01, rtol=0
    )
    (tmp_path / "obj").mkdir()
    textured(quarters(), lambda i: SimpleMaterial(image=i)).export(tmp_path / "obj/t.obj")
    close(picture_color(tmp_path / "obj/t.obj"), COLOR / 255.0)
    quarters().save(tmp_path / "apart.png")
    for material in (tmp_path / "obj").glob("*.mtl"):
        material.unlink()
    with pytest.warns(UserWarning, match=r"'material\.mtl' is not in its folder"):
        assert read_painted(tmp_path / "obj/t.obj").plain
    close(picture_color(tmp_path / "obj/t.obj", tmp_path / "apart.png"), COLOR / 255.0)


def test_a_material_s_colour_is_linear_light_in_a_glb(tmp_path):
    mesh = box()
    mesh.visual = TextureVisuals(material=PBRMaterial(baseColorFactor=[0.2, 0.4, 0.6, 1.0]))
    mesh.export(tmp_path / "factor.glb")
    torch.testing.assert_close(
        picture_color(tmp_path / "factor.glb").double(),
        torch.from_numpy(srgb_from_linear(np.array([0.2, 0.4, 0.6]))),
        atol=0.01,
        rtol=0,
    )


def test_parts_of_a_scene_keep_their_places_and_colours(tmp_path):
    scene = trimesh.Scene()
    for place, color in ((-3.0, [255, 0, 0, 255]), (3.0, [0, 0, 255, 255])):
        piece = box((2.0, 2.0, 2.0))
        piece.visual.vertex_colors = np.tile(color, (8, 1))
        scene.add_geometry(piece, transform=trimesh.transformations.translation_matrix([place, 0, 0]))
    scene.export(tmp_path / "two.glb")
    painted = read_painted(tmp_path / "two.glb")
    assert len(painted.mesh.faces) == 24
    picture = render(
        painted, mesh_files.orbit(torch.zeros(1), torch.zeros(1), torch.full((1,), 2.85), 40.0, 32, 32)
    )
    left, right = picture.images[0, 16, 4:10].mean(0), picture.images[0, 16, 22:28].mean(0)
    assert left[0] > left[2]
    assert right[2] > right[0]


def test_a_cube_covers_what_it_should_and_light_darkens_the_far_side(tmp_path):
    box().export(tmp_path / "box.stl")
    painted = read_painted(tmp_path / "box.stl")
    camera = mesh_files.orbit(torch.zeros(1), torch.zeros(1), torch.full((1,), 50.0), 3.0, 64, 64)
    pictures = render(painted, camera)
    half = painted.mesh.vertices.amax(0)
    pixel = 2 * (50.0 - half[2]) * np.tan(np.deg2rad(1.5)) / 64
    assert float(pictures.alpha.sum()) * pixel**2 == pytest.approx(4 * float(half[0] * half[1]), rel=0.02)
    assert float(pictures.images[0, 0, 0].min()) == 1.0
    flat = pictures.images[pictures.alpha[..., 0] == 1]
    assert float(flat.max() - flat.min()) < 1e-6
    up, down = (
        render(painted, mesh_files.orbit(torch.zeros(1), e, torch.full((1,), 2.85), 40.0, 16, 16), light=0.6)
        for e in (torch.tensor([80.0]), torch.tensor([-80.0]))
    )
    shown = [float(p.images[p.alpha[..., 0] == 1].mean()) for p in (up, down)]
    assert shown[0] > shown[1] + 0.1


def test_views_are_spread_over_the_whole_sphere():
    directions = torch.nn.functional.normalize(fibonacci_views(32, 8).centers, dim=1)
    assert directions.mean(0).norm() < 0.05
    nearest = torch.rad2deg(torch.acos((directions @ directions.T - 2 * torch.eye(32)).amax(1).clamp(-1, 1)))
    assert nearest.min() > 25
    assert nearest.max() < 45


def test_bad_files(tmp_path):
    box().export(tmp_path / "box.stl")
    for name in ("mesh.blend", "mesh.zip", "mesh.tar.gz", "noise.glb", "noise.obj"):
        (tmp_path / name).write_bytes(b"\x00\x01nothing")
    trimesh.PointCloud(np.eye(3)).export(tmp_path / "points.ply")
    (tmp_path / "nan.obj").write_text("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (tmp_path / "dot.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    facet = struct.pack("<12fH", *[0.0] * 12, 0)
    (tmp_path / "cut.stl").write_bytes(b"\0" * 80 + struct.pack("<I", 2) + facet)
    (tmp_path / "not.png").write_text("no picture")
    for name, texture, message in (
        ("nowhere.obj", None, "there is no file or folder"),
        ("mesh.blend", None, "is neither a mesh .*: export it as .glb, for example with Blender"),
        ("mesh.zip", None, "is an archive: unpack it"),
        ("mesh.tar.gz", None, "is an archive: unpack it"),
        ("noise.glb", None, "cannot read"),
        ("noise.obj", None, "cannot read the mesh|holds no triangles"),
        ("cut.stl", None, "cannot read the mesh|holds no triangles"),
        ("points.ply", None, "holds no triangles"),
        ("nan.obj", None, "NaN or infinite"),
        ("dot.obj", None, "no extent"),
        ("box.stl", "not.png", "cannot read the texture"),
        ("box.stl", "nowhere.png", "cannot read the texture"),
        ("x" * 5000, None, "cannot look at .*too long"),
        ("a\0.ply", None, "cannot look at .*null"),
        ("box.stl", "x" * 5000, "cannot read the texture"),
    ):
        with pytest.raises(UserError, match=message) as error:
            read_painted(tmp_path / name, None if texture is None else tmp_path / texture)
        assert "\n" not in str(error.value)
    Image.new("RGB", (2, 2)).save(tmp_path / "fine.png")
    with pytest.raises(UserError, match="no texture coordinates"):
        read_painted(tmp_path / "box.stl", tmp_path / "fine.png")


def test_a_reference_out_of_the_folder_is_not_followed(tmp_path):
    """An .obj is read without a material outside its folder and without a texture on the web."""
    (tmp_path / "in").mkdir()
    quarters().save(tmp_path / "secret.png")
    (tmp_path / "out.mtl").write_text("newmtl m\nKd 1 0 0\nmap_Kd secret.png\n")
    (tmp_path / "in/web.mtl").write_text("newmtl w\nmap_Kd http://127.0.0.1:9/x.png\n")
    body = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0.2 0.2\nusemtl {}\nf 1/1 2/1 3/1\n"
    (tmp_path / "in/out.obj").write_text("mtllib ../out.mtl\n" + body.format("m"))
    (tmp_path / "in/web.obj").write_text("mtllib web.mtl\n" + body.format("w"))
    for name in ("out", "web"):
        with pytest.warns(UserWarning, match="is not in its folder"):
            painted = read_painted(tmp_path / f"in/{name}.obj")
        for texture in painted.textures:
            assert texture.shape[0] < 8


def ply(vertices, faces, colors=None) -> str:
    """An ASCII PLY with any indices and colours."""
    lines = ["ply", "format ascii 1.0", f"element vertex {len(vertices)}"]
    lines += [f"property float {name}" for name in ("x", "y", "z")]
    lines += [f"property float {name}" for name in ("red", "green", "blue") if colors is not None]
    lines += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    rows = vertices if colors is None else np.concatenate([vertices, colors], axis=1)
    lines += [" ".join(map(str, row)) for row in np.asarray(rows).tolist()]
    lines += [" ".join(map(str, (3, *face))) for face in np.asarray(faces).tolist()]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("index", [3, 77, -5])
def test_triangles_of_corners_that_are_not_there_are_named(index, tmp_path):
    path = tmp_path / "range.ply"
    path.write_text(ply(np.eye(3), [[0, 1, 2], [0, 1, index]]))
    with pytest.raises(UserError, match=rf"corners that are not there: triangle 1 is \[0, 1, {index}\]"):
        read_painted(path)


def test_a_glb_with_an_index_past_the_end_is_named(tmp_path):
    write_glb(tmp_path / "good.glb", TriMesh(torch.eye(3), torch.tensor([[0, 1, 2]])))
    raw = bytearray((tmp_path / "good.glb").read_bytes())
    raw[-12:-8] = struct.pack("<I", 10**6)  # the indices are at the end of the file
    (tmp_path / "range.glb").write_bytes(raw)
    assert len(read_painted(tmp_path / "good.glb").mesh.faces) == 1
    with pytest.raises(UserError, match="corners that are not there"):
        read_painted(tmp_path / "range.glb")


@pytest.mark.parametrize("stray", [[1000.0, 0.0, 0.0], [float("nan")] * 3])
def test_corners_that_no_triangle_uses_decide_nothing(stray, tmp_path):
    mesh = box()
    corners = np.concatenate([[stray], mesh.vertices])
    (tmp_path / "stray.ply").write_text(ply(corners, mesh.faces + 1))
    (tmp_path / "box.ply").write_text(ply(mesh.vertices, mesh.faces))
    stray_one, plain = (read_painted(tmp_path / name).mesh for name in ("stray.ply", "box.ply"))
    torch.testing.assert_close(stray_one.vertices, plain.vertices)
    assert torch.equal(stray_one.faces, plain.faces)


@pytest.mark.parametrize(
    "lines",
    [
        ["v 0 0 0", "v 1 0 0", "v 2 0 0", "f 1 2 3"],
        ["v 0.1 0.3 0.7", "v 0.4 0.1 0.9", "v 0.7 -0.1 1.1", "f 1 2 3"],
        ["v 0 0 0", "v 1 0 0", "v 0 1 0", "f 0 1 2"],
        ["v 0 0 0", "v 1 0 0", "v 0 1 0", "f 1 1 2", "f 2 3 3"],
    ],
)
def test_a_mesh_without_area_is_named(lines, tmp_path):
    (tmp_path / "flat.obj").write_text("\n".join(lines))
    with pytest.raises(UserError, match="no area"):
        read_painted(tmp_path / "flat.obj")


@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_sizes_whose_squares_no_float_holds_are_read(size, tmp_path):
    (tmp_path / "size.obj").write_text(f"v 0 0 0\nv {size} 0 0\nv 0 {size} 0\nf 1 2 3\n")
    vertices = read_painted(tmp_path / "size.obj").mesh.vertices
    assert vertices.norm(dim=1).max().item() == pytest.approx(RADIUS, rel=1e-5)


def test_a_mirrored_piece_is_not_inside_out(tmp_path):
    scene = trimesh.Scene()
    piece = box()
    piece.visual.face_colors = np.tile([[*COLOR, 255], [0, 0, 255, 255]], (6, 1))
    scene.add_geometry(piece, transform=np.diag([-1.0, 1.0, 1.0, 1.0]))
    scene.export(tmp_path / "mirror.glb")
    painted = read_painted(tmp_path / "mirror.glb")
    corners = painted.mesh.vertices[painted.mesh.faces]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((normals * corners.mean(1)).sum(1) > 0).all()


def test_the_corners_of_a_mirrored_piece_keep_their_colours(tmp_path):
    mesh, scene = box(), trimesh.Scene()
    mesh.visual.vertex_colors = np.where(mesh.vertices[:, :1] > 0, [[255, 0, 0, 255]], [[0, 0, 255, 255]])
    scene.add_geometry(mesh, transform=np.diag([-1.0, 1.0, 1.0, 1.0]))
    scene.export(tmp_path / "mirror.glb")
    painted = read_painted(tmp_path / "mirror.glb")
    left = painted.mesh.vertices[painted.mesh.faces][..., 0] < 0  # the red corners after the mirroring
    assert torch.equal(painted.corner_colors[..., 0] > 0.5, left)


def test_numbers_that_are_not_finite_in_colours_and_texture_coordinates_are_named(tmp_path):
    colors = np.ones((3, 3))
    (tmp_path / "good.ply").write_text(ply(np.eye(3), [[0, 1, 2]], colors))
    colors[1, 2] = np.nan
    (tmp_path / "bad.ply").write_text(ply(np.eye(3), [[0, 1, 2]], colors))
    read_painted(tmp_path / "good.ply")
    quarters().save(tmp_path / "t.png")
    body = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt {} 0\nvt 0 1\nf 1/1 2/2 3/3\n"
    for name, value in (("good", 1), ("nan", "nan"), ("inf", "inf")):
        (tmp_path / f"{name}.obj").write_text(body.format(value))
    read_painted(tmp_path / "good.obj", tmp_path / "t.png")
    for name, texture in (
        ("bad.ply", None),
        ("nan.obj", tmp_path / "t.png"),
        ("inf.obj", tmp_path / "t.png"),
    ):
        with pytest.raises(UserError, match="colours or texture coordinates with NaN"):
            read_painted(tmp_path / name, texture)


def test_corners_of_two_coordinates_are_one_line(tmp_path):
    (tmp_path / "flat.obj").write_text("v 0 0\nv 1 0\nv 0 1\nf 1 2 3\n")
    with pytest.raises(UserError, match="corners of 2 coordinates"):
        read_painted(tmp_path / "flat.obj")
