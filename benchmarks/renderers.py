"""The CPU kernels of the volume and the mesh renderer against what one would use without them.

    python benchmarks/renderers.py [--only nerf|mesh] [--markdown FILE]

One table a primitive; both sides of a ratio are timed in the same run. (Splatting: benchmarks/splatting.py.)
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import renderers_mesh
import renderers_nerf

SECTIONS = {"nerf": renderers_nerf, "mesh": renderers_mesh}


def table(title: str, header: tuple[str, ...], rows: list[list[str]]) -> str:
    """A markdown table under its title."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ("---",) * len(header), *rows)]
    return "\n".join([f"**{title}**", "", *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=tuple(SECTIONS))
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    texts = []
    for name, section in SECTIONS.items():
        if arguments.only in (None, name):
            texts.append(table(section.TITLE, section.HEADER, section.rows()))
            print(texts[-1], flush=True)
    texts.append(f"Load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")
    print(texts[-1])
    if arguments.markdown is not None:
        arguments.markdown.parent.mkdir(parents=True, exist_ok=True)
        arguments.markdown.write_text("\n".join(texts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
