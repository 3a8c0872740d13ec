"""What the colours of exported meshes mean: albedo in a known light, or colours that programs are not to light."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from khronos import issues
from movements import rising_ball
from PIL import Image
from test_gltf import icosphere
from trimesh.visual.material import PBRMaterial

from threedgen.core.errors import UserError
from threedgen.core.material import Material
from threedgen.core.pictures import psnr
from threedgen.core.types import TriMesh
from threedgen.datasets import world
from threedgen.export import write
from threedgen.export.calm_normals import calm_normals
from threedgen.export.materials import Look, dressed, relit, substance_of
from threedgen.export.mesh import MeshConfig, vertex_normals
from threedgen.export.player import write_page
from threedgen.export.views import around
from threedgen.renderers.mesh import MeshRenderer
from threedgen.representations.texture_atlas import bake_vertex_colors

KNOWN = Look(world.FIXED_LIGHT, "its light is known", "a red ball")


def solid(shape: str = "mug", color: str = "red", textured: bool = True) -> TriMesh:
    """A solid as the pictures of its world show it: its colour times the shade."""
    mesh = world.paint(world.canonical(shape, color))
    return bake_vertex_colors(mesh, 128) if textured else mesh


def colors_of(mesh: TriMesh) -> torch.Tensor:
    colors = mesh.texture if mesh.vertex_colors is None else mesh.vertex_colors
    assert colors is not None
    return colors.reshape(-1, 3)


@pytest.mark.parametrize("textured", [False, True])
def test_the_albedo_of_a_solid_is_its_flat_colour(textured):
    painted = solid(textured=textured)
    albedo = dressed(painted, "auto", KNOWN)
    assert albedo.material is not None
    assert (albedo.material.colors, albedo.material.light) == ("albedo", world.FIXED_LIGHT)
    flat = torch.tensor(world.COLORS["red"])
    before, after = ((colors_of(mesh) - flat).abs().mean() for mesh in (painted, albedo))
    assert float(before) > 0.1
    assert float(after) < 0.01


def test_an_albedo_in_its_light_is_what_was_painted():
    """By Lambert's law for each pixel, from the normals that a renderer draws."""
    painted = solid()
    albedo = dressed(painted, "auto", KNOWN)
    assert albedo.material is not None
    light = albedo.material.light
    assert light is not None
    cameras = around(painted, 4, 96)
    with torch.no_grad():
        ours, theirs = (MeshRenderer()(mesh, cameras, torch.zeros(3)) for mesh in (albedo, painted))
    assert ours.normal is not None
    normals = torch.nn.functional.normalize(ours.normal.reshape(-1, 3), dim=1)
    lit = ours.rgb * light.shade(normals).reshape(*ours.rgb.shape[:3], 1)
    assert float(psnr(lit, theirs.rgb).min()) > 36.0
    assert float(psnr(ours.rgb, theirs.rgb).max()) < 28.0
    off = (colors_of(relit(albedo, light)) - colors_of(painted)).abs()
    assert float((off > 1e-5).float().mean()) < 0.01  # colours brighter than white are cut off


def test_colours_brighter_than_white_in_the_light_make_the_light_stronger_and_not_the_asset_darker():
    painted = dataclasses.replace(solid(), texture=torch.full((128, 128, 3), 0.9))
    albedo = dressed(painted, "auto", KNOWN)
    assert albedo.material is not None
    light = albedo.material.light
    assert light is not None
    assert light.ambient > 1.2 * world.AMBIENT
    assert light.diffuse / light.ambient == pytest.approx(world.DIFFUSE / world.AMBIENT, abs=1e-3)
    lost = colors_of(painted) - colors_of(relit(albedo, light))
    assert float((lost > 1e-3).float().mean()) < 0.06


@pytest.mark.parametrize(
    ("wish", "look", "colors", "why"),
    [
        ("auto", KNOWN, "albedo", "its light is known"),
        ("auto", Look(), "unlit", "the light in its colours is not known"),
        ("unlit", KNOWN, "unlit", "it was asked for"),
        ("lit", KNOWN, "lit", "it was asked for"),
        ("albedo", KNOWN, "albedo", "its light is known"),
    ],
)
def test_a_mesh_gets_the_material_that_is_asked_for(wish, look, colors, why):
    painted = solid(textured=False)
    made = dressed(painted, wish, look)
    assert made.material is not None
    assert (made.material.colors, made.material.why) == (colors, why)
    same = torch.equal(colors_of(made), colors_of(painted))
    assert same == (colors != "albedo")


def test_an_albedo_in_an_unknown_light_is_refused_in_one_line(tmp_path: Path):
    look = Look(None, "it was made from pictures, whose light is not known")
    with pytest.raises(
        UserError, match=r"because it was made from pictures.*set material to auto, unlit or lit"
    ):
        write(solid(), tmp_path / "a.glb", mesh=MeshConfig(material="albedo"), look=look)
    assert not list(tmp_path.iterdir())


def test_a_mesh_without_colours_has_none_to_leave_unlit():
    bare = dataclasses.replace(solid(textured=False), vertex_colors=None)
    made = dressed(bare, "auto", Look())
    assert made.material == Material("lit", "it has no colours")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a golden crown", "gold"),
        ("A Wooden chair.", "wood"),
        ("a chrome robot", "chrome"),
        ("a red mug", None),
        ("a metallic wooden chair", None),  # which of the two is where is not known
        ("a steel and iron gate", "metal"),
        ("sunglasses", None),
    ],
)
def test_words_say_what_a_thing_is_made_of(text, name):
    found = substance_of(text)
    assert (None if found is None else found.name) == name
    material = dressed(solid(textured=False), "auto", dataclasses.replace(KNOWN, text=text)).material
    assert material is not None
    expected = (0.0, 0.9) if found is None else (found.metallic, found.roughness)
    assert (material.metallic, material.roughness) == expected
    unlit = dressed(solid(textured=False), "unlit", dataclasses.replace(KNOWN, text=text)).material
    assert unlit == Material("unlit", "it was asked for")


def test_normals_lose_their_bumps_and_keep_edges_and_seams():
    box = trimesh.creation.box()
    for _ in range(4):
        box = box.subdivide()
    places = np.asarray(box.vertices)
    bumpy = places + np.random.default_rng(0).normal(0.0, 0.01, places.shape)
    smooth = vertex_normals(bumpy, np.asarray(box.faces))
    mesh = TriMesh(
        torch.tensor(bumpy).float(),
        torch.tensor(np.array(box.faces)).long(),
        vertex_colors=torch.full((len(places), 3), 0.5),
        normals=torch.from_numpy(smooth).float(),
    )
    inside = (np.abs(places) > 0.2).sum(1) == 1  # far from an edge
    flat = torch.from_numpy(np.sign(places) * (np.abs(places) > 0.49)).float()
    assert mesh.normals is not None
    before, after = ((normals * flat).sum(1)[inside] for normals in (mesh.normals, calm_normals(mesh)))
    assert float((1.0 - after).mean()) < 0.3 * float((1.0 - before).mean())
    faces = (np.abs(places) > 0.45).sum(1) == 1  # up to one step from an edge
    assert float((calm_normals(mesh) * flat).sum(1)[faces].mean()) > 0.98
    laid = bake_vertex_colors(mesh, 128)
    calmed = calm_normals(laid)
    for place in laid.vertices.unique(dim=0)[::97]:
        rows = calmed[(laid.vertices == place).all(1)]
        torch.testing.assert_close(rows, rows[:1].expand_as(rows))


def material_in(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The document of a .gltf, and its one material."""
    document = json.loads(path.read_text())
    (material,) = document["materials"]
    return document, material


def test_a_gltf_says_that_colours_are_not_to_be_lit(tmp_path: Path):
    write(solid(), tmp_path / "a.gltf")
    document, material = material_in(tmp_path / "a.gltf")
    assert material["extensions"] == {"KHR_materials_unlit": {}}
    assert document["extensionsUsed"] == ["KHR_materials_unlit"]
    assert "extensionsRequired" not in document
    write(solid(), tmp_path / "b.gltf", look=dataclasses.replace(KNOWN, text="a golden mug"))
    document, material = material_in(tmp_path / "b.gltf")
    assert "extensions" not in material
    assert "extensionsUsed" not in document
    assert material["extras"]["light"]["toward"] == list(world.LIGHT)


@pytest.mark.parametrize("look", [Look(), KNOWN])
def test_the_khronos_validator_finds_nothing(tmp_path: Path, look: Look):
    mesh = dataclasses.replace(icosphere(), uvs=None)
    write(mesh, tmp_path / "a.glb", look=look)
    found = issues(tmp_path / "a.glb")
    assert (found["numErrors"], found["numWarnings"]) == (0, 0), found["messages"]


def test_trimesh_reads_the_words_of_a_prompt_from_a_glb(tmp_path: Path):
    write(solid(), tmp_path / "a.glb", look=dataclasses.replace(KNOWN, text="a golden mug"))
    (piece,) = trimesh.load_scene(tmp_path / "a.glb").geometry.values()
    material = getattr(piece.visual, "material", None)
    assert isinstance(material, PBRMaterial)
    assert (material.metallicFactor, material.roughnessFactor) == (1.0, 0.3)


def test_an_mtl_says_that_colours_are_not_to_be_lit(tmp_path: Path):
    write(solid(), tmp_path / "a.obj")
    assert "illum 0\n" in (tmp_path / "a.mtl").read_text()
    write(solid(), tmp_path / "b.obj", look=dataclasses.replace(KNOWN, text="a golden mug"))
    assert "illum 1\nPr 0.3\nPm 1\n" in (tmp_path / "b.mtl").read_text()


@pytest.mark.parametrize("textured", [False, True])
def test_what_is_unlit_emits_its_colours_in_usd(tmp_path: Path, textured: bool):
    Usd = pytest.importorskip("pxr.Usd")
    UsdShade = pytest.importorskip("pxr.UsdShade")
    UsdValidation = pytest.importorskip("pxr.UsdValidation")
    for name, look in (("unlit", Look()), ("albedo", dataclasses.replace(KNOWN, text="a golden mug"))):
        write(solid(textured=textured), tmp_path / f"{name}.usdz", look=look)
        stage = Usd.Stage.Open(str(tmp_path / f"{name}.usdz"))
        shader = UsdShade.Shader(stage.GetPrimAtPath("/asset/surface/shader"))
        connected = {port.GetBaseName() for port in shader.GetInputs() if port.HasConnectedSource()}
        assert connected == {"emissiveColor" if name == "unlit" else "diffuseColor"}
        values = {port.GetBaseName(): port.Get() for port in shader.GetInputs()}
        if name == "unlit":
            assert tuple(values["diffuseColor"]) == tuple(values["specularColor"]) == (0.0, 0.0, 0.0)
        else:
            assert (values["metallic"], round(values["roughness"], 4)) == (1.0, 0.3)
        validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
        found = UsdValidation.ValidationContext(validators).Validate(stage)
        assert [error.GetErrorAsString() for error in found] == []


def test_a_page_shows_colours_with_the_light_that_they_had(tmp_path: Path):
    painted = solid()

    def page(look: Look, wish: Any) -> tuple[float, np.ndarray]:
        write(painted, tmp_path / "a.html", look=look, mesh=MeshConfig(material=wish))
        text = (tmp_path / "a.html").read_text()
        said, data = (re.search(rf'id="{name}">(.+?)</script>', text) for name in ("scene", "data"))
        assert said is not None
        assert data is not None
        raw = base64.b64decode(data[1])
        return json.loads(said[1])["lamp"], np.array(Image.open(io.BytesIO(raw[raw.index(b"\x89PNG") :])))

    lamp, picture = page(KNOWN, "lit")
    assert lamp > 0.0
    for look in (KNOWN, Look()):
        lamp, shown = page(look, "auto")
        assert lamp == 0.0
        assert (np.abs(shown.astype(int) - picture).max(2) > 1).mean() < 0.01


def test_the_page_of_a_mesh_that_moves_has_its_painted_colours(tmp_path: Path):
    asset = dataclasses.replace(rising_ball(), look=KNOWN)
    mesh, motion = asset.surface
    assert mesh.material is not None
    assert mesh.material.colors == "albedo"
    painted = dataclasses.replace(asset, look=Look()).surface[0]
    assert float((colors_of(mesh) - colors_of(painted)).abs().mean()) > 0.03
    asset.write(tmp_path / "a.html")
    title = str(asset.note.get("prompt", ""))
    write_page(tmp_path / "b.html", painted, motion, azimuth=asset.config.azimuth, title=title)
    assert (tmp_path / "a.html").read_text() == (tmp_path / "b.html").read_text()
