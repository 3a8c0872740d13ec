"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from threedgen.core.atomic import replacing, replacing_all, replacing_folder, sweep
from threedgen.core.errors import UserError


def test_a_file_that_fails_leaves_neither_itself_nor_new_folders(tmp_path):
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "there" / "x.glb", tmp_path / "new" / "deep" / "x.glb"):
        with pytest.raises(UserError, match="no surface"), replacing(path):
            raise UserError("no surface")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = tmp_path / "new" / "pipeline"
    for text in ("first", "second"):
        with replacing_folder(folder) as temporary:
            (temporary / text).touch()
    assert [path.name for path in folder.iterdir()] == ["second"]
    with pytest.raises(ZeroDivisionError), replacing_folder(folder):
        raise ZeroDivisionError
    with monkeypatch.context() as patch:
        patch.setattr(Path, "chmod", lambda self, mode: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(UserError, match="No space left"), replacing_folder(folder) as temporary:
            (temporary / "third").touch()
    assert [path.name for path in folder.iterdir()] == ["second"]
    assert [path.name for path in folder.parent.iterdir()] == ["pipeline"]


def test_a_link_in_place_of_the_file_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "report.json").symlink_to("outside")
    with replacing(tmp_path / "report.json") as temporary:
        temporary.write_text("{}")
    assert (tmp_path / "outside").read_text() == "mine"
    assert not (tmp_path / "report.json").is_symlink()


def test_what_is_moved_is_on_the_disk_before(tmp_path, monkeypatch):
    """A power cut may lose what was not flushed, although it was renamed."""
    flushed: set[int] = set()
    moved: list[Path] = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        flushed.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def move(source: Path, target: Path) -> None:
        inside = [source, *source.rglob("*")]
        assert {path.stat().st_ino for path in inside} <= flushed, f"{source} was not flushed"
        moved.append(Path(target))
        replace(source, target)
        flushed.discard(Path(target).parent.stat().st_ino)  # its names are new now

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", move)
    with replacing(tmp_path / "a.png") as path:
        path.write_bytes(b"a")
    with replacing_folder(tmp_path / "pipeline") as path:
        (path / "unet").mkdir()
        (path / "unet" / "config.json").write_bytes(b"{}")
    with replacing_all(tmp_path / "codes") as path:
        (path / "0.npz").write_bytes(b"0")
    assert [path.name for path in moved] == ["a.png", "pipeline", "0.npz"]
    for path in moved:
        assert path.parent.stat().st_ino in flushed, f"the name of {path} was not flushed"


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_a_kill_while_a_folder_is_replaced_leaves_the_earlier_or_the_new_one(tmp_path, monkeypatch, moves):
    with replacing_folder(tmp_path / "model") as folder:
        (folder / "first").touch()
    left, replace = [moves], os.replace

    def move(source: Path, target: Path) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", move)
        patch.setattr("shutil.rmtree", lambda *_, **__: None)  # what is killed cleans nothing up
        patch.setattr(os, "getpid", lambda: 999_999_999)
        with contextlib.suppress(Killed), replacing_folder(tmp_path / "model") as folder:
            (folder / "second").touch()
    sweep(tmp_path, "none")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["second" if moves == 2 else "first"]
