"""The page of a run: it holds everything itself, and shows texts as texts."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fake_parts
import numpy as np
import pytest

from threedgen.commands.main import main
from threedgen.core.png import write_png
from threedgen.jobs import run as job
from threedgen.jobs.pages.curves import curves
from threedgen.jobs.pages.gathered import gathered
from threedgen.jobs.pages.page import write_run_page
from threedgen.jobs.run_directory import RunDirectory
from threedgen.recipes.load import load_recipe

EVIL = "<script>alert('1')</script> \"mug\" & ${x} {{ 7*7 }}"
REPORT: dict[str, Any] = {"prompt": EVIL, "seed": 3, "steps": 2, "seconds": {"distilling": 1.5, "total": 1.5}}
REPORT |= {
    "peak_memory_bytes": 5 * 10**8,
    "versions": {"torch": "2.13"},
    "scores": {"psnr": 31.23456, EVIL: 1.0},
}


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def require_alone(page: Page) -> None:
    """Nothing in the page runs, and nothing leads out of it."""
    assert not {"script", "iframe", "link", "object", "a", "base"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "href"]
        assert (attributes.get("src") or "data:").startswith("data:")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """The files of a finished run whose texts would be code if a page did not escape them."""
    run = RunDirectory.create(
        tmp_path / "run",
        {"prompt": EVIL, "guidance": [{"scale": 5}]},
        origin={"recipe": "sds", "changed": {"guidance.0.prompt": ["", EVIL]}},
    )
    rows = [{"step": step, "loss": float(loss), EVIL: step} for step, loss in enumerate((1000, 5, 1))]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in range(1, 31):
        write_png(run.previews / f"step-{step:06d}.png", np.zeros((2, 2, 3), np.uint8))
    write_png(run.path / "contact_sheet.png", np.zeros((2, 2, 3), np.uint8))
    (run.path / "turntable.mp4").write_bytes(b"film")
    return run


def test_a_page_is_alone_and_shows_texts_as_texts(run):
    page = Page(write_run_page(run, {**REPORT, "warnings": [EVIL]}).read_text())
    require_alone(page)
    for part in (EVIL, "31.23", "1.5 s", "0.50 GB", "2.13", "recipe sds", "seed 3", "guidance.0.prompt"):
        assert part in page.text
    assert page.text.count(EVIL) >= 5  # title, heading, warning, score, setting
    sources = [attributes["src"] for tag, attributes in page.tags if tag in ("img", "video")]
    assert "data:video/mp4;base64,ZmlsbQ==" in sources
    assert len(sources) == 2 + 12  # a film, a sheet, and some of the previews, the last among them
    assert "step-000030.png" in page.text
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none';")


def test_a_film_that_is_too_large_is_named(run, monkeypatch):
    monkeypatch.setattr("threedgen.jobs.pages.gathered._LARGEST", 3)
    assert "turntable.mp4 is too large for this page" in write_run_page(run, REPORT).read_text()


def test_a_run_with_a_recipe_alone_has_a_page(tmp_path):
    run = RunDirectory.create(tmp_path / "run", {"prompt": "red"})
    page = Page(write_run_page(run, {"prompt": "red", "seed": 0, "steps": 1}).read_text())
    require_alone(page)
    assert "does not say what was changed" in page.text


def test_curves_begin_with_the_loss_and_have_gaps_where_a_value_is_missing():
    rows = [
        {"step": s, "guidance/t": s / 9, "loss": None if s == 4 else 10.0**s, "same": 1.0} for s in range(9)
    ]
    loss, t = curves(rows)
    assert (loss.name, loss.logarithmic, loss.last, len(loss.lines)) == ("loss", True, 1e8, 2)
    assert loss.lines[0].split()[0] == "0.0,96.0"
    assert loss.lines[1].split()[-1] == "320.0,0.0"
    assert (t.name, t.logarithmic, len(t.lines)) == ("guidance/t", False, 1)
    (long,) = curves([{"step": step, "loss": float(step == 777)} for step in range(10_000)])
    assert len(long.lines[0].split()) <= 160
    assert ",0.0 " in long.lines[0]  # the one step that stands out is still there


@pytest.mark.usefixtures("trusted_runs")
@pytest.mark.filterwarnings("ignore:no exporter for Tensor")
def test_a_run_leaves_its_page_and_says_what_was_changed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    (tmp_path / "recipe.yaml").write_text(fake_parts.RECIPE)
    recipe = load_recipe(tmp_path / "recipe.yaml", ["representation.count=6"], prompt=EVIL, steps=12, seed=1)
    run = job.start(recipe, tmp_path / "run")
    changed = dict(gathered(run).origin["changed"])
    assert changed.pop("steps")[1] == 12
    assert changed == {"seed": [0, 1], "representation.count": [4, 6]}
    first = run.page.read_text()
    assert re.search(r"representation.count</td><td>4</td><td>6</td>", first)
    run.page.unlink()
    job.resume(run, steps=14)
    assert "14 steps" in run.page.read_text()


def test_a_comparison_has_pictures_scores_and_the_settings_that_differ(run, tmp_path, capsys):
    run.report.write_text(json.dumps({**REPORT, "warnings": [EVIL]}))
    other = RunDirectory.create(tmp_path / "other", {"prompt": EVIL, "guidance": [{"scale": 7.5}]})
    page = tmp_path / "page.html"
    assert main(["compare", str(run.path), str(other.path), "--out", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    shown = Page(page.read_text())
    require_alone(shown)
    for part in ("31.23", "guidance.0.scale", "7.5", "no picture yet", "not finished, 0 steps done", EVIL):
        assert part in shown.text
    assert "guidance.0.prompt" not in shown.text  # nothing but what differs
    assert [tag for tag, _ in shown.tags].count("img") == 1
    same = RunDirectory.create(tmp_path / "same", {"prompt": EVIL, "guidance": [{"scale": 7.5}]})
    assert main(["compare", str(same.path), str(other.path), "--out", str(page)]) == 0
    assert "The runs have the same settings" in page.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "one run cannot be compared: name at least two folders of runs"),
        (["run", "./run"], "is named more than once: name each run once"),
        (["run", "nothing"], "there is no run 'nothing'"),
        (["run", "run", "--out", "page.png"], "name a file that ends in .html"),
        (["run", "damaged"], "cannot read damaged/report.json"),
    ],
)
def test_what_cannot_be_compared_is_one_line(words, message, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunDirectory.create(Path("damaged"), {"prompt": "red"}).report.write_text("{")
    assert main(["compare", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize("text", ["{", "[]", '{"changed": 3}', '{"changed": {"seed": 3}}'])
def test_a_damaged_origin_keeps_no_run_from_its_page(text, run):
    run.origin.write_text(text)
    assert "does not say what was changed" in write_run_page(run, REPORT).read_text()


def test_reports_and_rows_in_another_form_are_left_out(run, tmp_path):
    run.report.write_text(
        '{"scores": [1], "seconds": {"total": "x"}, "warnings": 3, "versions": 1, "gpu": [2]}'
    )
    rows = [
        '{"step": 0, "loss": 1' + "0" * 400 + "}",
        '{"step": 1, "loss": Infinity}',
        '{"step": 2, "loss": 2}',
    ]
    run.metrics.write_text("\n".join([*rows, '{"step": 3, "loss": 3}']))
    other = RunDirectory.create(tmp_path / "other", {"prompt": "red"})
    assert main(["compare", str(run.path), str(other.path), "--out", str(tmp_path / "page.html")]) == 0
    page = write_run_page(run, json.loads(run.report.read_text())).read_text()
    assert "<polyline" in page
