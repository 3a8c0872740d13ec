"""Exporters: the format is chosen by suffix and nothing is half written; OBJ files; the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from clouds import ball

from threedgen.core.atomic import replacing
from threedgen.core.errors import UserError
from threedgen.core.memory import peak_memory
from threedgen.core.types import GaussianCloud, TriMesh
from threedgen.datasets.splat_files import read_splats
from threedgen.export import suffixes, write
from threedgen.export.gltf import read_glb, write_glb
from threedgen.export.mesh import MeshConfig, extract_mesh
from threedgen.export.names import check_suffix, holds_splats
from threedgen.export.obj import write_obj
from threedgen.export.report import build_report, versions, write_report

SMALL = MeshConfig(resolution=24, faces=1000)


class Scene:
    """The only method of a representation that an exporter calls."""

    def __init__(self, primitive: GaussianCloud | TriMesh) -> None:
        self.primitive = primitive

    def at(self, time: torch.Tensor | None = None) -> GaussianCloud | TriMesh:
        return self.primitive


def test_each_suffix_writes_its_format(tmp_path: Path) -> None:
    scene = Scene(ball())
    folder = tmp_path / "new" / "folder"
    for suffix in suffixes():
        path = folder / f"asset{suffix.upper()}"
        mesh = write(scene, path, note={"prompt": "a ball"}, mesh=SMALL)  # type: ignore[arg-type]
        assert (mesh is None) == holds_splats(path)
    mesh, extras = read_glb(folder / "asset.GLB")
    assert extras == {"prompt": "a ball"}
    assert 0 < len(mesh.faces) <= SMALL.faces
    assert len(read_splats(folder / "asset.PLY").means) == len(ball())
    assert "# prompt: a ball" in (folder / "asset.OBJ").read_text()
    assert {p.name for p in folder.iterdir()} >= {f"asset{suffix.upper()}" for suffix in suffixes()}


@pytest.mark.parametrize("name", ["asset.fbx", "asset"])
def test_unknown_suffixes_name_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"\.glb, \.obj, .*\.ply"):
        write(ball(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".gltf", ".usdc", ".obj", ".html"])
def test_who_asks_for_splats_is_not_given_a_mesh(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UserError, match=rf"the suffix '\.splats\{suffix}' is unknown; .*\.splats\.glb"):
        write(ball(), tmp_path / f"asset.splats{suffix}")
    with pytest.raises(UserError, match=rf"'\.splats\{suffix}' is unknown"):  # also of an asset that moves
        check_suffix(tmp_path / f"asset.splats{suffix.upper()}")
    assert list(tmp_path.iterdir()) == []
    check_suffix(tmp_path / "asset.splats.ply")  # holds Gaussians whatever it is called
    check_suffix(tmp_path / f"splats{suffix}")


def test_a_mesh_cannot_be_written_as_splats(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.glb or \.obj"):
        write(extract_mesh(ball(), SMALL), tmp_path / "a.ply")


def test_obj_is_read_with_its_colors_by_trimesh(tmp_path: Path) -> None:
    mesh = extract_mesh(ball(), SMALL)
    assert mesh.vertex_colors is not None
    read = trimesh.load(write_obj(tmp_path / "a.obj", mesh, "two\nlines"), force="mesh", process=False)
    assert isinstance(read, trimesh.Trimesh)
    np.testing.assert_array_equal(read.vertices.astype(np.float32), mesh.vertices.numpy())
    np.testing.assert_array_equal(read.faces, mesh.faces.numpy())
    colors = read.visual.vertex_colors[:, :3] / 255.0  # type: ignore[union-attr]
    np.testing.assert_allclose(colors, mesh.vertex_colors.numpy(), atol=1.01 / 255)


def test_a_failure_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail_with(error: Exception) -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(RuntimeError):
        fail_with(RuntimeError())
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(UserError, match="No space left"):
        fail_with(OSError(28, "No space left on device"))
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_places_that_cannot_be_written_are_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write(ball(), tmp_path / "file" / "asset.ply")
    (tmp_path / "asset.ply").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        write(ball(), tmp_path / "asset.ply")


def test_new_files_are_readable_by_others(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        write(ball(), tmp_path / "asset.ply")
    finally:
        os.umask(previous)
    if os.name == "posix":
        assert (tmp_path / "asset.ply").stat().st_mode & 0o777 == 0o644


def test_report_is_strict_json(tmp_path: Path) -> None:
    report = build_report(
        prompt="a red cube",
        seed=3,
        seconds={"import": 2.0004, "optimize": 30.5004},
        scores={"psnr": float("inf"), "iou": np.float32(0.5), "clip": float("nan")},  # type: ignore[dict-item]
        losses=torch.tensor([1.0, float("nan")]),
        out=tmp_path,
    )

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = write_report(tmp_path / "report.json", report).read_text(encoding="utf-8")
    read = json.loads(text, parse_constant=refuse)
    assert read["prompt"] == "a red cube"
    assert read["seed"] == 3
    assert read["seconds"] == {"import": 2.0, "optimize": 30.5, "total": 32.501}
    assert read["scores"] == {"psnr": None, "iou": 0.5, "clip": None}
    assert read["losses"] == [1.0, None]
    assert read["out"] == str(tmp_path)
    assert read["versions"]["torch"] == versions()["torch"]
    # PyPI's builds call themselves 2.13.0+cu130 in the module and 2.13.0 in the metadata.
    release = str(torch.__version__).split("+")[0]
    assert versions()["torch"].split("+")[0] == release
    assert read["peak_memory_bytes"] > 50e6
    with pytest.raises(TypeError, match="object"):
        write_report(tmp_path / "report.json", {"what": object()})
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == read


def test_peak_memory_counts_memory_that_was_freed() -> None:
    if peak_memory() is None:
        pytest.skip("the system does not tell")
    # In its own process, because the memory of earlier tests would count as well.
    code = (
        "from threedgen.core.memory import peak_memory\n"
        "before = peak_memory(); block = b'x' * 300_000_000; del block; print(before, peak_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert 300_000_000 <= after - before + 1_000_000 < 400_000_000


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
@pytest.mark.parametrize("normals", [False, True])
def test_a_mesh_that_no_file_can_hold_is_named_and_nothing_is_written(
    tmp_path: Path, suffix: str, normals: bool
) -> None:
    vertices = torch.eye(3)
    mesh = TriMesh(vertices, torch.arange(3)[None], vertices, vertices if normals else None, vertices[:, :2])
    write(mesh, tmp_path / f"good{suffix}")
    for changed, message in (
        ({"faces": mesh.faces + 1}, "names vertex 3, there are 3"),
        ({"faces": mesh.faces - 1}, "names vertex -1"),
        ({"faces": mesh.faces[:0]}, "no triangles"),
        ({"vertices": vertices / 0}, "vertices of the mesh hold numbers that are not finite"),
        ({"vertices": vertices.double() * 1e300}, "vertices of the mesh hold numbers that are not finite"),
        ({"vertex_colors": vertices / 0}, "vertex_colors of the mesh hold"),
        ({"uvs": vertices[:, :2] / 0}, "uvs of the mesh hold"),
    ):
        with pytest.raises(UserError, match=message):
            write(replace(mesh, **changed), tmp_path / f"bad{suffix}")
        with pytest.raises(UserError, match=f"cannot write .*bad{suffix}: "):
            (write_glb if suffix == ".glb" else write_obj)(
                tmp_path / f"bad{suffix}", replace(mesh, **changed)
            )
    assert [path.name for path in tmp_path.iterdir()] == [f"good{suffix}"]


def test_a_report_names_the_gpu_that_was_used_and_its_peak_memory(monkeypatch):
    assert build_report(prompt="", seed=0, seconds={})["gpu"] is None
    for name, value in (("is_initialized", True), ("get_device_name", "A GPU"), ("max_memory_allocated", 5)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    report = build_report(prompt="", seed=0, seconds={})
    assert report["gpu"] == {"name": "A GPU", "peak_memory_bytes": 5}
