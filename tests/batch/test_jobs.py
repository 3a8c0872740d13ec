"""Rows of all four commands become their runs, with the options and the files of the row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from threedgen.batch.pieces import Piece
from threedgen.batch.rows import Table
from threedgen.commands.batch import prepared


@pytest.fixture(autouse=True)
def _in_a_folder_with_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    picture = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(picture).ellipse((16, 16, 48, 48), fill=(200, 30, 30, 255))
    picture.save("in/ball.png")
    Path("in/box.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n")


def test_rows_of_all_commands():
    rows = [
        {"prompt": "a red cube", "seed": 3, "cameras.batch": 2},
        {"job": "image-to-3d", "picture": "ball.png", "elevation": 12},
        {"job": "fit", "source": "box.obj", "views": 4, "resolution": 16},
        {"job": "text-to-4d", "prompt": "a blue cube bouncing", "seconds": 1},
    ]
    Path("in/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = [
        prepared(Piece(row.job, row.arguments, Path("out/runs") / row.name)) for row in Table("in/rows.jsonl")
    ]
    first, picture, fitted, moving = (one.recipe for one in made)
    assert (first.prompt, first.seed, first.resolved["cameras"]["batch"]) == ("a red cube", 3, 2)
    assert picture.prompt == "ball"
    assert picture.resolved["cameras"]["reference"]["elevation"] == 12
    assert fitted.prompt == "box"
    assert moving.prompt == "a blue cube bouncing"
    assert len(moving.all_stages) > 1
    assert [one.path.name.rpartition("-")[0] for one in made] == [
        "a-red-cube",
        "ball",
        "box",
        "a-blue-cube-bouncing",
    ]
    assert not Path("out").exists()
