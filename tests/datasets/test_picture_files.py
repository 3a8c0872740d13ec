"""The pictures of a folder: in the order of their numbers, without what operating systems put beside them."""

from __future__ import annotations

import pytest

from threedgen.datasets.picture_files import by_number, is_companion, picture_files


def test_names_come_in_the_order_of_their_numbers():
    names = ["b1.png", "a10.png", "a9.png", "a010.png", "a1b12.png", "a1b2.png", "7.png", "a.png"]
    assert sorted(names, key=by_number) == [
        "7.png", "a1b2.png", "a1b12.png", "a9.png", "a010.png", "a10.png", "a.png", "b1.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "path", ["._a.png", "images/._a.png", "__MACOSX/a.png", ".DS_Store", "Thumbs.db", ".hidden/a.png"]
)
def test_companions_are_known(path):
    assert is_companion(path)


@pytest.mark.parametrize("path", ["a.png", "./images/a.png", "../a._png", "_.png"])
def test_what_is_no_companion(path):
    assert not is_companion(path)


def test_the_pictures_of_a_folder(tmp_path):
    for name in ("2.png", "10.JPG", "1.jpeg", "._2.png", "notes.txt", ".DS_Store"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in picture_files(tmp_path)] == ["1.jpeg", "2.png", "10.JPG"]
    assert [path.name for path in picture_files(tmp_path, (".png",))] == ["2.png"]
