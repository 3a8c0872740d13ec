"""Transparency: materials, textures with holes, the order of depth, and files that mean the opposite."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from threedgen.cameras.orbit import orbit
from threedgen.datasets.mesh_files import opaque, read_mesh, read_painted, render
from threedgen.datasets.painted_mesh import fragments

RED, BLUE = (0.8, 0.1, 0.1), (0.1, 0.2, 0.9)


def square(z: float, half: float, first: int) -> str:
    corners = [(-half, -half), (half, -half), (half, half), (-half, half)]
    lines = [f"v {x} {y} {z}" for x, y in corners] + ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1"]
    index = [f"{first + i}/{first + i}" for i in range(4)]
    return "\n".join([*lines, f"f {' '.join(index)}"]) + "\n"


def write_obj(folder, squares, materials):
    """squares: of material, z and half a side. materials: the lines of each."""
    text = "mtllib m.mtl\n"
    for number, (name, z, half) in enumerate(squares):
        text += f"usemtl {name}\n" + square(z, half, 4 * number + 1)
    (folder / "s.obj").write_text(text)
    (folder / "m.mtl").write_text("".join(f"newmtl {name}\n{lines}\n" for name, lines in materials.items()))
    return folder / "s.obj"


def kd(color, more="") -> str:
    return f"Kd {color[0]} {color[1]} {color[2]}\n{more}"


def front(size=33, azimuth=0.0):
    return orbit(torch.tensor([azimuth]), torch.zeros(1), torch.full((1,), 20.0), 6.0, size, size)


def middle(path, azimuth=0.0):
    """The colour on white and the alpha in the middle of a picture from afar."""
    pictures = render(read_painted(path), front(azimuth=azimuth))
    return [*pictures.images[0, 16, 16].tolist(), float(pictures.alpha[0, 16, 16])]


def over(*layers) -> list[float]:
    """Layers of colour and opacity, from the front to the back, on white."""
    color, left = np.zeros(3), 1.0
    for rgb, opacity in layers:
        color += left * opacity * np.array(rgb)
        left *= 1.0 - opacity
    return [*(color + left), 1.0 - left]


def test_glass_shows_what_is_behind_it(tmp_path):
    path = write_obj(
        tmp_path,
        [("glass", 0.5, 1.0), ("wall", 0.0, 0.5)],
        {"glass": kd(BLUE, "d 0.25"), "wall": kd(RED)},
    )
    assert middle(path) == pytest.approx(over((BLUE, 0.25), (RED, 1.0)), abs=5e-3)
    assert middle(path, azimuth=180.0) == pytest.approx(over((RED, 1.0)), abs=5e-3)
    pictures = render(read_painted(path), front())
    assert float(pictures.alpha[0, 16, 8]) == pytest.approx(0.25, abs=1e-4)  # only glass
    assert read_mesh(path).vertices.shape[1] == 3


def test_panes_cover_one_another_by_depth_and_not_by_their_place_in_the_file(tmp_path):
    materials = {"a": kd(BLUE, "d 0.5"), "b": kd(RED, "d -halo 0.75")}
    near, far = ("a", 0.5, 1.0), ("b", 0.0, 1.0)
    for number, squares in enumerate(([near, far], [far, near])):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = write_obj(folder, squares, materials)
        assert middle(path) == pytest.approx(over((BLUE, 0.5), (RED, 0.75)), abs=5e-3)
        assert middle(path, 180.0) == pytest.approx(over((RED, 0.75), (BLUE, 0.5)), abs=5e-3)


@pytest.mark.parametrize(
    ("lines", "opacity"),
    [
        ("", 1.0),
        ("Tr 0.75", 0.25),
        ("d 0.25\nTr 0.25", 0.25),
        ("d 7", 1.0),
        ("d nan", 1.0),
        ("d", 1.0),
        ("d 0.0", 1.0),  # nothing would be visible
        ("Tr 1.0", 1.0),
    ],
)
def test_what_materials_say_of_transparency(lines, opacity, tmp_path):
    path = write_obj(tmp_path, [("m", 0.0, 1.0)], {"m": kd(RED, lines)})
    assert middle(path)[3] == pytest.approx(opacity, abs=1e-4)


def test_a_face_of_no_opacity_is_absent_beside_others(tmp_path):
    path = write_obj(
        tmp_path, [("none", 0.5, 1.0), ("wall", 0.0, 0.5)], {"none": kd(BLUE, "d 0.001"), "wall": kd(RED)}
    )
    assert middle(path) == pytest.approx(over((RED, 1.0)), abs=5e-3)


def leaf(path, inside=255, outside=0):
    """A picture whose left half has one alpha and its right half another; what is clear there is white."""
    pixels = np.full((16, 16, 4), 255, np.uint8)
    pixels[:, :8, :3] = (np.array(RED) * 255).round()
    pixels[:, :8, 3], pixels[:, 8:, 3] = inside, outside
    Image.fromarray(pixels).save(path)


def test_the_holes_of_a_texture_are_holes(tmp_path):
    leaf(tmp_path / "leaf.png")
    path = write_obj(
        tmp_path,
        [("leaf", 0.5, 1.0), ("wall", 0.0, 1.0)],
        {"leaf": "map_Kd leaf.png", "wall": kd(BLUE)},
    )
    pictures = render(read_painted(path), front(64))
    left, right = pictures.images[0, 32, 26], pictures.images[0, 32, 38]
    assert left.tolist() == pytest.approx(RED, abs=5e-3)
    assert right.tolist() == pytest.approx(BLUE, abs=5e-3)
    row = pictures.images[0, 32, 20:44]
    assert float(row[:, 1].max()) < 0.21  # no white shines through at the edge of the leaf
    assert read_painted(path).alphas[0] is not None


def test_an_opaque_texture_costs_nothing(tmp_path):
    leaf(tmp_path / "leaf.png", 255, 255)
    path = write_obj(tmp_path, [("leaf", 0.0, 1.0)], {"leaf": "map_Kd leaf.png"})
    painted = read_painted(path)
    assert painted.alphas == (None,)
    assert not bool(painted.clear.any())
    weights = fragments(painted, front()).weight
    assert bool((weights == 1.0).all())


def glb(path, image, **options):
    mesh = trimesh.creation.box(extents=(1, 1, 1))
    uv = np.tile([[0.25, 0.5]], (len(mesh.vertices), 1))
    mesh.visual = TextureVisuals(uv=uv, material=PBRMaterial(baseColorTexture=image, **options))
    mesh.export(path)
    return path


@pytest.mark.parametrize(
    ("options", "alpha"),
    [
        ({"alphaMode": "OPAQUE", "baseColorFactor": [1.0, 1.0, 1.0, 0.2]}, 1.0),
        ({"alphaMode": "BLEND", "baseColorFactor": [1.0, 1.0, 1.0, 1.0]}, 1.0 - 0.6**2),
        ({"alphaMode": "MASK", "alphaCutoff": 0.3}, 1.0),
        ({}, 1.0),
    ],
)
def test_the_alpha_mode_of_a_glb_decides(options, alpha, tmp_path):
    leaf(tmp_path / "leaf.png", inside=102, outside=255)
    path = glb(tmp_path / "box.glb", Image.open(tmp_path / "leaf.png"), **options)
    assert middle(path)[3] == pytest.approx(alpha, abs=0.01)  # a front and a back side


def test_the_colour_of_a_blended_glb_without_texture_has_opacity(tmp_path):
    path = glb(tmp_path / "box.glb", None, alphaMode="BLEND", baseColorFactor=[1.0, 0.0, 0.0, 0.4])
    assert middle(path)[3] == pytest.approx(1.0 - 0.6**2, abs=0.01)


def test_opaque_takes_transparency_away(tmp_path):
    path = write_obj(tmp_path, [("m", 0.0, 1.0)], {"m": kd(RED, "d 0.5")})
    assert not bool(opaque(read_painted(path)).clear.any())


def test_glass_outside_the_picture_is_no_error(tmp_path):
    path = write_obj(tmp_path, [("m", 0.0, 1.0)], {"m": kd(RED, "d 0.5")})
    away = orbit(torch.zeros(1), torch.zeros(1), torch.full((1,), 0.02), 6.0, 8, 8)
    assert float(render(read_painted(path), away).alpha.max()) == 0.0


def test_a_texture_without_coordinates_leaves_the_colour_of_its_material(tmp_path):
    leaf(tmp_path / "leaf.png")
    (tmp_path / "s.obj").write_text("mtllib m.mtl\nusemtl m\nv -1 -1 0\nv 1 -1 0\nv 0 1 0\nf 1 2 3\n")
    (tmp_path / "m.mtl").write_text(f"newmtl m\n{kd(BLUE)}map_Kd leaf.png\n")
    assert middle(tmp_path / "s.obj") == pytest.approx(over((BLUE, 1.0)), abs=5e-3)
