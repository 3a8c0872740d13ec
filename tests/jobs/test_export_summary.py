"""What `threedgen export` says about what it wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from threedgen.core.material import Material
from threedgen.core.types import TriMesh
from threedgen.jobs.export_run import colors_of, summary


@pytest.mark.parametrize(
    ("size", "said"), [(1_834_567, "1.8 MB"), (20_480, "20.5 kB"), (999_999, "1000.0 kB")]
)
def test_a_file_has_triangles_and_a_size(tmp_path: Path, size: int, said: str) -> None:
    path = tmp_path / "asset.glb"
    path.write_bytes(bytes(size))
    mesh = TriMesh(torch.zeros(3, 3), torch.zeros(12_000, 3, dtype=torch.int64))
    assert summary(path, mesh) == f"{path}: 12,000 triangles, {said}"
    assert summary(path, None) == f"{path}: {said}"
    textured = TriMesh(mesh.vertices, mesh.faces, uvs=torch.zeros(3, 2), texture=torch.zeros(128, 256, 3))
    assert summary(path, textured) == f"{path}: 12,000 triangles, texture of 256 x 128, {said}"
    dressed = replace(mesh, material=Material("unlit", "it was asked for"))
    assert colors_of(dressed) == "colours: unlit, because it was asked for"
    assert colors_of(mesh) is None
    assert colors_of(None) is None


def test_a_folder_and_a_sequence_have_a_number_of_files(tmp_path: Path) -> None:
    for name in ("a.ply", "b.ply", "animation.json"):
        (tmp_path / name).write_bytes(bytes(1000))
    assert summary(tmp_path, None) == f"{tmp_path}: 3 files, 3.0 kB"
    assert summary(tmp_path / "*.ply", None) == f"{tmp_path / '*.ply'}: 2 files, 2.0 kB"
