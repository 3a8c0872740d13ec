"""What a batch shows: a table of what became of every row, and a page with a picture of each."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from threedgen.batch.pieces import FINISHED
from threedgen.core.atomic import replacing

SUMMARY, GALLERY, RUNS = "summary.csv", "gallery.html", "runs"
SHOWN = 2000  # rows on the page at most: a browser becomes slow with more
WAITING = "not made yet"

Line = tuple[str, str, dict[str, Any] | None]
"""Job, subject and entry of a row; None if nothing has become of it yet."""

_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" 
 content="default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 1.5em; background: #fafafa; color: #222; }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(20em, 1fr)); gap: 1em; }}
figure {{ margin: 0; padding: .7em; background: #fff; border: 1px solid #ddd; border-radius: 6px; }}
figure.failed {{ border-color: #c33; }}
img {{ width: 100%; height: auto; display: block; }}
figcaption {{ overflow-wrap: anywhere; }}
small {{ color: #666; display: block; }}
</style>
<h1>{title}</h1>
<p>{counts}</p>
<main>
"""


def write_summary(path: Path, lines: Iterator[Line], scores: list[str]) -> None:
    """A CSV file with a line for each row: what it was, what became of it and why, and its scores.

    scores: the names of the columns of scores. Raises UserError if it cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "job", "subject", "state", "reason", "run", "seed", "seconds", *scores])
        for number, (job, subject, entry) in enumerate(lines, 1):
            known = entry or {"state": WAITING}
            measured = known.get("scores", {})
            facts = [known.get(name, "") for name in ("state", "reason", "run", "seed", "seconds")]
            writer.writerow([number, job, subject, *facts, *(measured.get(name, "") for name in scores)])


def write_gallery(path: Path, lines: Iterator[Line], title: str, counts: str, total: int) -> None:
    """One page with the contact sheets of the first `SHOWN` rows; it needs the run directories beside it, and no
    network. Raises UserError if it cannot be written."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(_HEAD.format(title=escape(title), counts=escape(counts)))
        for job, subject, entry in islice(lines, SHOWN):
            file.write(_figure(job, subject, entry))
        file.write("</main>\n")
        if total > SHOWN:
            file.write(f"<p>These are the first {SHOWN} of {total} rows; {SUMMARY} has all of them.</p>\n")
        file.write("</html>\n")


def _figure(job: str, subject: str, entry: dict[str, Any] | None) -> str:
    if entry is None:
        return _card("waiting", "", subject, f"{job}, {WAITING}")
    if entry["state"] != FINISHED:
        return _card("failed", "", subject, f"{job}, failed: {entry['reason']}")
    folder = quote(f"{RUNS}/{entry['run']}")
    said = ", ".join([job, *(f"{name} {_short(value)}" for name, value in entry["scores"].items())])
    picture = f'<img loading="lazy" src="{folder}/contact_sheet.png" alt="{escape(subject)}">'
    return _card("finished", f'<a href="{folder}/">{picture}</a>', subject, said)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _card(kind: str, picture: str, subject: str, said: str) -> str:
    caption = f"{escape(subject)}<small>{escape(said)}</small>"
    return f'<figure class="{kind}">{picture}<figcaption>{caption}</figcaption></figure>\n'
