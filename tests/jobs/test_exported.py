"""The scores of the mesh that a run writes."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from splatting_scenes import random_cloud

from threedgen import export
from threedgen.core.errors import UserError
from threedgen.datasets.world import FIXED_LIGHT
from threedgen.export.materials import Look
from threedgen.export.mesh import MeshConfig
from threedgen.export.views import View, around, renders
from threedgen.jobs.scores.exported import exported_scores, read_back

SMALL = MeshConfig(resolution=32, faces=1000, texture_size=128)


@pytest.fixture(scope="module")
def cloud():
    return random_cloud(60, degree=0, size=0.35)


@pytest.fixture(scope="module")
def file(cloud, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "asset.glb"
    mesh = export.write(cloud, path, mesh=SMALL)
    assert mesh is not None
    return path, replace(mesh, material=None)


def read(path: Path) -> Any:
    return read_back(path)


def test_the_file_is_read_back_as_it_was_written(file):
    path, mesh = file
    there = read(path)
    torch.testing.assert_close(there.vertices, mesh.vertices)
    assert torch.equal(there.faces, mesh.faces)
    torch.testing.assert_close(there.uvs, mesh.uvs, atol=1e-6, rtol=0)
    torch.testing.assert_close(there.texture, mesh.texture, atol=0.003, rtol=0)


def test_colours_of_vertices_are_read_back(cloud, tmp_path):
    mesh = export.write(cloud, tmp_path / "plain.glb", mesh=SMALL.plain())
    assert mesh is not None
    there = read(tmp_path / "plain.glb")
    torch.testing.assert_close(there.vertex_colors, mesh.vertex_colors)
    assert there.texture is None


def test_a_damaged_file_is_one_line_that_names_it(file, tmp_path):
    content = file[0].read_bytes()
    for damaged in (b"", content[:200], b"x" * 100, content.replace(b'"POSITION":0', b'"POSITION":9')):
        (tmp_path / "asset.glb").write_bytes(damaged)
        with pytest.raises(UserError, match=r"asset\.glb"):
            read_back(tmp_path / "asset.glb")


def test_a_mesh_agrees_with_the_asset_that_it_was_made_of(file, cloud):
    scores = exported_scores(read(file[0]), cloud, [])
    assert scores["mesh_agreement_iou"] > 0.8
    assert scores["mesh_agreement_psnr"] > 15.0
    assert not any("reference" in name for name in scores)


def test_an_albedo_is_compared_in_its_own_light(file, cloud, tmp_path):
    look = Look(FIXED_LIGHT, "its light is known")
    mesh = export.write(file[1], tmp_path / "a.glb", mesh=replace(SMALL, material="albedo"), look=look)
    assert mesh is not None
    bare = replace(mesh, material=None)
    assert mesh.material is not None
    assert mesh.material.colors == "albedo"
    painted, bare, lit = (
        exported_scores(there, cloud, [])["mesh_agreement_psnr"]
        for there in (read(file[0]), bare, read(tmp_path / "a.glb"))
    )
    assert abs(lit - painted) < 0.2
    assert bare < painted - 1.0


def test_a_mesh_that_shows_the_picture_worse_than_the_asset_is_a_warning(file, cloud):
    mesh = read(file[0])
    (own,) = renders(cloud, around(mesh, 1, 64))
    with pytest.warns(UserWarning, match="the mesh shows the picture worse than the asset"):
        scores = exported_scores(mesh, cloud, [own])  # the asset shows its own render exactly
    assert {"mesh_reference_psnr", "mesh_reference_iou"} <= scores.keys()
    grey = View(own.camera, torch.full_like(own.rgb, 0.5), torch.ones_like(own.alpha))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exported_scores(mesh, cloud, [grey])  # neither shows this picture
