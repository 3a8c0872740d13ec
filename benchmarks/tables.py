"""What the benchmarks share: an option for the file of their tables, and how it is written."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_markdown(parser: argparse.ArgumentParser) -> None:
    """The option whose value `write_markdown` takes."""
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the tables to this file")


def write_markdown(path: Path | None, text: str) -> None:
    """Writes the tables into a file, whose folder is made if it is missing; without a path it does nothing."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
