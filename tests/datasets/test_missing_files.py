"""A file that is missing is reported under the name that the user gave, whatever reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from threedgen.cameras.orbit import orbit
from threedgen.core.errors import UserError
from threedgen.datasets.cut_outs import cut_out_of, read_cut_out, read_nearness
from threedgen.datasets.films import film_of, read_film
from threedgen.datasets.given import read_pictures
from threedgen.datasets.mesh_files import read_mesh, read_painted
from threedgen.datasets.multiview import PosedPictures, write_srn, write_transforms
from threedgen.datasets.objects import open_objects
from threedgen.datasets.picture import read_depth, read_mask, read_picture
from threedgen.datasets.splat_files import read_splats

VIEWS = orbit(torch.tensor([0.0, 90.0]), torch.zeros(2), torch.full((2,), 3.0), 40.0, 8, 8)
PICTURES = PosedPictures(torch.rand(2, 8, 8, 3), torch.ones(2, 8, 8, 1), VIEWS)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    picture = Image.new("RGBA", (64, 64))
    picture.paste((200, 30, 20, 255), (16, 16, 48, 48))
    picture.save(tmp_path / "good.png")
    (tmp_path / "good.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1 2/1 3/1\n")
    return tmp_path


def in_transforms(name: str) -> Callable[[Path], Any]:
    """A transforms.json whose second picture has that name."""

    def read(folder: Path) -> PosedPictures:
        write_transforms(folder / "set", PICTURES)
        file = folder / "set/transforms.json"
        document = json.loads(file.read_text())
        document["frames"][1]["file_path"] = name
        file.write_text(json.dumps(document))
        return read_pictures(folder / "set")

    return read


def without_a_pose(folder: Path) -> PosedPictures:
    write_srn(folder / "srn", PICTURES)
    (folder / "srn/pose/000001.txt").unlink()
    return read_pictures(folder / "srn")


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("set/images/gone.jpg", in_transforms("images/gone.jpg")),
        ("set/images/gone.jpeg", in_transforms("./images/gone.jpeg")),
        ("set/images/gone.png", in_transforms("images/gone.png")),
        ("set/images/gone", in_transforms("images/gone")),
        ("srn/pose/000001.txt", without_a_pose),
        ("gone.jpg", lambda at: read_picture(at / "gone.jpg")),
        ("gone", lambda at: read_picture(at / "gone")),
        ("gone.jpg", lambda at: cut_out_of(at / "gone.jpg")),
        ("gone.jpg", lambda at: cut_out_of(at / "good.png", mask=at / "gone.jpg")),
        ("gone.jpg", lambda at: cut_out_of(at / "good.png", depth=at / "gone.jpg")),
        ("gone.jpg", lambda at: read_mask(at / "gone.jpg", read_picture(at / "good.png"))),
        ("gone.jpg", lambda at: read_depth(at / "gone.jpg", read_picture(at / "good.png"))),
        ("gone.jpg", lambda at: read_cut_out(at / "gone.jpg")),
        ("gone.jpg", lambda at: read_nearness(at / "good.png", at / "gone.jpg")),
        ("gone.mp4", lambda at: film_of(at / "gone.mp4")),
        ("gone", lambda at: film_of(at / "gone")),
        ("gone", lambda at: read_film(at / "gone")),
        ("gone.stl", lambda at: read_mesh(at / "gone.stl")),
        ("gone.jpg", lambda at: read_painted(at / "good.obj", at / "gone.jpg")),
        ("gone.ply", lambda at: read_splats(at / "gone.ply")),
        ("gone", lambda at: read_pictures(at / "gone")),
        ("gone.json", lambda at: read_pictures(at / "gone.json")),
        ("gone", lambda at: open_objects(str(at / "gone"))),
    ],
)
def test_a_missing_file_is_reported_under_its_own_name(
    good: Path, name: str, read: Callable[[Path], Any]
) -> None:
    with pytest.raises(UserError) as caught:
        read(good)
    message = str(caught.value)
    assert str(good / name) in message
    for suffix in (".png", ".jpg", ".json", "/transforms.json"):
        assert f"{good / name}{suffix}" not in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["images/000001.png", "images/000001"])
def test_a_picture_is_found_with_and_without_its_suffix(good: Path, name: str) -> None:
    assert len(in_transforms(name)(good).images) == 2


def test_a_picture_with_two_suffixes_is_found(good: Path) -> None:
    """A file_path without a suffix may have a dot in it."""
    write_transforms(good / "set", PICTURES)
    (good / "set/images/000001.png").rename(good / "set/images/view.1.png")
    file = good / "set/transforms.json"
    file.write_text(file.read_text().replace("000001.png", "view.1"))
    assert len(read_pictures(good / "set").images) == 2
