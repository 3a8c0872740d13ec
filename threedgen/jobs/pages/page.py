"""report.html: a run on one page."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from threedgen.core.atomic import store
from threedgen.jobs.pages.curves import HEIGHT, WIDTH, curves
from threedgen.jobs.pages.gathered import gathered
from threedgen.jobs.run_directory import RunDirectory

_HERE = Path(__file__).parent


def write_run_page(run: RunDirectory, report: Mapping[str, Any]) -> Path:
    """Writes RUN/report.html and returns its path. report: what report.json says, which need not be written yet.

    Raises UserError if a file of the run cannot be read, or the page cannot be written.
    """
    shown = gathered(run, report)
    text = rendered(
        "run.html",
        run=shown,
        report=shown.report,
        curves=curves(shown.rows),
        costs=list(_costs(shown.report)),
        width=WIDTH,
        height=HEIGHT,
    )
    store(run.page, text.encode())
    return run.page


def rendered(template: str, **values: Any) -> str:
    """A page of this folder's template; every value is escaped."""
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return _environment().get_template(template).render(style=_trusted(style), style_hash=digest, **values)


@functools.cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader  # imported when a page is written

    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, auto_reload=False)
    environment.filters["shown"] = _shown
    return environment


def _trusted(style: str) -> Any:
    from markupsafe import Markup

    return Markup(style)


def _shown(value: Any) -> str:
    """A value as people read it: numbers with four digits, true and false as JSON writes them."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _costs(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Time by phase, and the most memory."""
    for phase, seconds in report["seconds"].items():
        yield phase, f"{seconds:.1f} s"
    gpu = report.get("gpu") or {}
    peaks = {"most memory": report.get("peak_memory_bytes"), "on the GPU": gpu.get("peak_memory_bytes")}
    for name, peak in peaks.items():
        if isinstance(peak, int) and peak > 0:
            yield name, f"{peak / 1e9:.2f} GB"
