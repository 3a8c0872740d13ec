"""`threedgen compare RUN RUN ...`: several runs on one page."""

from __future__ import annotations

import argparse
from pathlib import Path

from threedgen.commands.parser import Parser
from threedgen.core.errors import UserError


def build_parser() -> Parser:
    parser = Parser(
        prog="threedgen compare",
        description="Write a page that shows several runs, finished or not: their pictures in rows, the settings "
        "in which they differ, their scores and costs. It is one file that needs no network.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="the directory of a run; name two or more")
    parser.add_argument(
        "--out", metavar="FILE.html", default="compare.html", help="the page; default: compare.html"
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Writes the page and prints its path. Raises UserError."""
    path = Path(arguments.out)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {path}: the comparison is a page, name a file that ends in .html")
    from threedgen.jobs.pages.comparison import write_comparison
    from threedgen.jobs.run_directory import RunDirectory

    print(write_comparison([RunDirectory.open(folder) for folder in arguments.runs], path))
