"""The CPU kernels of the volume and the mesh renderer against what one would use without them.

    python benchmarks/renderers.py [--only nerf|mesh] [--markdown FILE]

One table a primitive; both sides of a ratio are timed in the same run. (Splatting: benchmarks/splatting.py.)
"""

from __future__ import annotations

import argparse
import os

import renderers_mesh
import renderers_nerf
from tables import add_markdown, write_markdown

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
    add_markdown(parser)
    arguments = parser.parse_args()
    texts = []
    for name, section in SECTIONS.items():
        if arguments.only in (None, name):
            texts.append(table(section.TITLE, section.HEADER, section.rows()))
            print(texts[-1], flush=True)
    texts.append(f"Load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")
    print(texts[-1])
    write_markdown(arguments.markdown, "\n".join(texts))


if __name__ == "__main__":
    main()
