"""Files that a mesh file takes its colours from: found as other programs find them, or said to be missing."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from threedgen.core.errors import UserError
from threedgen.datasets.mesh_files import read_mesh, read_painted

QUAD = "v -1 -1 0\nv 1 -1 0\nv 1 1 0\nv -1 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nusemtl m\nf 1/1 2/2 3/3 4/4\n"
BLUE = torch.tensor([0.0, 0.0, 1.0])


def mesh(folder: Path, texture: str = "t.png", library: str = "a.mtl") -> Path:
    """A square of a material whose texture is blue, in a folder of its own."""
    (folder / "maps").mkdir()
    (folder / "a.obj").write_text(f"mtllib {library}\n{QUAD}")
    (folder / "a.mtl").write_text(f"newmtl m\nmap_Kd {texture}\n")
    for place in ("t.png", "maps/u.png", "my own.png"):
        Image.new("RGB", (8, 8), (0, 0, 255)).save(folder / place)
    return folder / "a.obj"


def blue(path: Path) -> bool:
    colors = read_mesh(path).vertex_colors
    assert colors is not None
    return bool((colors - BLUE).abs().max() < 0.01)


@pytest.mark.parametrize(
    ("texture", "library"),
    [
        ("t.png", "a.mtl"),
        ("./t.png", "./a.mtl"),
        ("T.PNG", "A.MTL"),
        ("maps/U.png", "a.mtl"),
        ("maps\\u.png", ".\\a.mtl"),
        ("C:\\Users\\me\\t.png", "C:\\Users\\me\\a.mtl"),
        ("/home/me/t.png", "/home/me/a.mtl"),
        ("-s 1 1 1 -o 0.5 -.5 1e-3 -clamp on t.png", "a.mtl"),
        ("my own.png", "a.mtl"),
    ],
)
def test_files_are_found_however_they_are_spelled(tmp_path: Path, texture: str, library: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert blue(mesh(tmp_path, texture, library))


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("t.png", "'t.png' is not in its folder"),
        ("a.mtl", "'a.mtl' is not in its folder"),
    ],
)
def test_a_missing_file_is_said_in_one_warning(tmp_path: Path, lost: str, said: str) -> None:
    path = mesh(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.warns(UserWarning, match="without some of its colours") as told:
        assert not blue(path)
    (warning,) = told
    assert str(warning.message) == (
        f"'{path}' is read without some of its colours: {said}; put what is missing beside it"
    )


def test_what_is_no_picture_is_said_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = mesh(tmp_path)
    (tmp_path / "t.png").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.warns(UserWarning, match=r"colours: 't\.png' cannot be read as a picture; put"):
        read_painted(path)
    Image.effect_noise((32, 32), 90.0).save(tmp_path / "t.png")
    (tmp_path / "t.png").write_bytes((tmp_path / "t.png").read_bytes()[:300])
    with pytest.raises(UserError, match=r"cannot read a texture of .*a\.obj"):
        read_painted(path)


def test_many_missing_files_are_one_line(tmp_path: Path) -> None:
    path = mesh(tmp_path)
    (tmp_path / "a.mtl").write_text("".join(f"newmtl m{i}\nmap_Kd {i}.png\n" for i in range(9)))
    with pytest.warns(UserWarning, match="without some of its colours") as told:
        read_painted(path)
    (warning,) = told
    assert "'3.png' is not in its folder, nor can 5 more be read; put" in str(warning.message)


def test_a_texture_that_is_given_makes_up_for_what_is_missing(tmp_path: Path) -> None:
    path = mesh(tmp_path)
    shutil.move(tmp_path / "t.png", tmp_path / "apart.png")
    (tmp_path / "a.mtl").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_painted(path, tmp_path / "apart.png")
