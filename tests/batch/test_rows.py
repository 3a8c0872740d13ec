"""Tables: what their rows may say, and what is said of those that are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from threedgen.batch.rows import Table, survey
from threedgen.commands.batch import checks
from threedgen.commands.main import main
from threedgen.core.errors import UserError


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table(name: str, text: str | bytes, **options) -> Table:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return Table(name, **options)


def test_the_three_kinds_of_tables_say_the_same():
    rows = [
        *table("a.txt", "a red cube\n"),
        *table("b.jsonl", '{"prompt": "a red cube"}\n'),
        *table("c.csv", "prompt,seed\na red cube,\n"),
        *table("d.csv", "\ufeffprompt\r\n a red cube \r\n"),  # as a spreadsheet writes it
    ]
    assert {row.subject for row in rows} == {"a red cube"}
    assert len({row.key() for row in rows}) == 1


def test_a_row_may_set_any_option_and_any_setting_of_the_recipe():
    text = {
        "job": "fit",
        "source": "x.obj",
        "seed": 3,
        "feed_forward": True,
        "box": [0, 0, 0, 1, 1, 1.5],
        "cameras.batch": 8,
        "preview.sizes": [1, 2],
        "settings": {"export.mesh.faces": 100},
        "light": 0.5,
        "views": None,
    }
    (row,) = table("a.jsonl", json.dumps(text))
    from threedgen.commands import batch

    arguments = batch._arguments(row.job, row.arguments)
    assert (arguments.source, arguments.seed, arguments.feed_forward) == ("x.obj", 3, True)
    assert (arguments.box, arguments.light, arguments.views) == ([0, 0, 0, 1, 1, 1.5], 0.5, None)
    assert arguments.settings == ["export.mesh.faces=100", "cameras.batch=8", "preview.sizes=[1, 2]"]
    (row,) = table("a.csv", "job,source,box,feed-forward,settings\nfit,x.obj,0;0;0;1;1;1.5,no,a.b=1;c.d=2\n")
    arguments = batch._arguments(row.job, row.arguments)
    assert arguments.box == [0, 0, 0, 1, 1, 1.5]
    assert arguments.feed_forward is False
    assert arguments.settings == ["a.b=1", "c.d=2"]


def test_a_row_wins_over_the_options_of_the_batch():
    defaults = {"steps": "10", "seed": "1", "settings": ["a.b=1"]}
    (row,) = table("a.jsonl", '{"prompt": "x", "seed": 2, "a.b": 3}', defaults=defaults)
    assert row.values == {"prompt": "x", "steps": "10", "seed": "2", "settings": ["a.b=1", "a.b=3"]}


def test_files_are_looked_for_beside_the_table():
    Path("data").mkdir()
    for name in ("data/a.png", "b.png", "data/c.png", "data/magic123", "data/embedded"):
        Path(name).touch()
    values = {"recipe": "magic123", "text-prior": "embedded", "depth": "nowhere.png"}
    text = json.dumps({"picture": "a.png", "mask": "b.png", "views": ["c.png@90"], **values})
    (row,) = table("data/rows.jsonl", text, job="image-to-3d")
    here = Path.cwd()
    assert row.arguments == {
        "picture": str(here / "data/a.png"),
        "mask": str(here / "b.png"),
        "views": [f"{here / 'data/c.png'}@90"],
        "depth": "nowhere.png",
        "recipe": "magic123",
        "text-prior": "embedded",
    }
    assert row.name.startswith("a-")


def test_rows_that_ask_for_something_else_have_other_names_and_the_device_is_nothing_else():
    rows = list(
        table(
            "a.jsonl",
            "".join(
                json.dumps(row) + "\n"
                for row in (
                    {"prompt": "x"},
                    {"prompt": "x", "seed": 1},
                    {"prompt": "x", "cameras.batch": 1},
                    {"prompt": "x", "job": "text-to-4d"},
                    {"prompt": "X"},
                    {"prompt": "x", "device": "cpu"},
                )
            ),
        )
    )
    names = [row.name for row in rows]
    assert len(set(names[:5])) == 5
    assert names[5] == names[0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "'a.txt' has no rows: write one prompt on each line, for example"),
        ("a.txt", "\n# only this\n", "'a.txt' has no rows"),
        ("a.csv", "prompt\n", "'a.csv' has no rows"),
        ("a.csv", "", "'a.csv' has no rows"),
        ("a.txt", b"\xff\xfe", "'a.txt' is not text in UTF-8"),
        ("a.yaml", "prompt: x", "'a.yaml' is no table: name a .txt file"),
        ("a.txt", "x" * (2 << 20), "line 1 has more than 1048576 characters"),
        (
            "a.txt",
            "cube\ncube\n",
            "row 2 (line 2) asks for the same as a.txt, row 1 (line 1): remove it, or give it",
        ),
        (
            "a.jsonl",
            '{"prompt": "x"}\n\n{"seed": 1}\n',
            "a.jsonl, row 2 (line 3) has no prompt, which text-to-3d",
        ),
        ("a.jsonl", '{"prompt": "  "}\n', "row 1 (line 1) has no prompt"),
        ("a.jsonl", '{"prompt": "x"\n', "a.jsonl, line 1 is not JSON ("),
        ("a.jsonl", '["x"]\n', "a.jsonl, line 1 is no object"),
        (
            "a.jsonl",
            '{"prompt": "x", "sed": 1}\n',
            "row 1 (line 1), column 'sed' is no option of text-to-3d, did you",
        ),
        ("a.jsonl", '{"prompt": "x", "out": "/tmp"}\n', "column 'out' is no option of text-to-3d"),
        (
            "a.jsonl",
            '{"prompt": "x", "trust": true, "job": "text-to-4d"}\n',
            "column 'trust' is no option of",
        ),
        ("a.jsonl", '{"prompt": "x", "help": 1}\n', "column 'help' is no option"),
        ("a.jsonl", '{"prompt": "x", "seed": 1.5}\n', "column 'seed': must be a whole number, got '1.5'"),
        ("a.jsonl", '{"prompt": "x", "seed": [1]}\n', "column 'seed': must be one text or number, got ['1']"),
        ("a.jsonl", '{"prompt": "x", "seed": true}\n', "column 'seed': must be one text or number, got True"),
        (
            "a.jsonl",
            '{"prompt": "x", "seed": {"a": 1}}\n',
            "column 'seed': must be a text, a number or a list",
        ),
        ("a.jsonl", '{"prompt": "x", "seed": [[1]]}\n', "column 'seed': a list must hold texts or numbers"),
        (
            "a.jsonl",
            '{"prompt": "x", "strict": "perhaps"}\n',
            "column 'strict': must be true or false, got 'perhaps'",
        ),
        ("a.jsonl", '{"prompt": "x", "quality": "best"}\n', "column 'quality': invalid choice: 'best'"),
        ("a.jsonl", '{"prompt": "x", "settings": "steps"}\n', "column 'settings': 'steps' is no setting"),
        ("a.jsonl", '{"prompt": "x", "seed": 1, "--seed": 2}\n', "names the column 'seed' twice"),
        (
            "a.jsonl",
            '{"prompt": "x", "job": "make"}\n',
            "column 'job': 'make' is no job: use one of text-to-3d,",
        ),
        ("a.jsonl", '{"prompt": "x", "job": ["fit"]}\n', "column 'job': '['fit']' is no job"),
        (
            "a.jsonl",
            '{"source": "x", "job": "fit", "box": [1, 2]}\n',
            "column 'box': must be 6 values, got 2",
        ),
        (
            "a.jsonl",
            '{"prompt": "x", "camera.batch": 3}\n',
            "row 1 (line 1): unknown key 'camera', did you mean",
        ),
        ("a.jsonl", '{"prompt": "x", "cameras.batch": "y"}\n', "row 1 (line 1), column 'cameras.batch': "),
        ("a.jsonl", '{"prompt": "x", "steps": 0}\n', "row 1 (line 1): "),
        ("a.jsonl", '{"prompt": "x", "recipe": "no-such"}\n', "row 1 (line 1): "),
        ("a.jsonl", "[" * 100000, "line 1 is not JSON"),
        (
            "a.csv",
            "prompt,seed\nx,1,2\n",
            "a.csv, line 2 has 3 cells and the first line 2: put texts with commas",
        ),
        ("a.csv", "prompt,prompt\nx,y\n", "the first line must name every column once"),
        ("a.csv", "prompt,\nx,y\n", "the first line must name every column once"),
        ("a.csv", 'prompt\n"x\n', "is not CSV"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(name, text, message):
    with pytest.raises(UserError) as caught:
        survey(table(name, text), checks())
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere.txt", "folder", "x" * 5000, "a\0b"])
def test_what_is_no_file_is_one_line(name, capsys):
    Path("folder").mkdir()
    assert main(["batch", name, "--out", "out"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not Path("out").exists()


def test_the_recipes_of_all_jobs_can_be_checked():
    rows = [
        {"prompt": "a", "recipe": recipe} for recipe in ("sds", "dreamfusion", "hunyuan3d", "prolificdreamer")
    ]
    rows += [{"prompt": "a"}, {"prompt": "a", "job": "text-to-4d"}]
    rows += [{"picture": "a.png", "job": "image-to-3d"}, {"source": "a.obj", "job": "fit"}]
    rows += [{"picture": "a.png", "job": "image-to-3d", "recipe": "magic123", "prior": "x/y"}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    assert survey(table("a.jsonl", text), checks()) == len(rows)


def test_a_table_that_is_wrong_makes_nothing(capsys):
    Path("a.jsonl").write_text('{"prompt": "a red cube"}\n{"prompt": "x", "sed": 1}\n')
    assert main(["batch", "a.jsonl", "--out", "out"]) == 2
    assert "row 2 (line 2), column 'sed'" in capsys.readouterr().err
    assert not Path("out").exists()
