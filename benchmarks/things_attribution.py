"""Writes ATTRIBUTION.md: who made the objects of the catalogue of things, and under which licence.

python benchmarks/things_attribution.py --catalogue /usr/share/sweethome3d/furniture
"""

from __future__ import annotations

import argparse
from pathlib import Path

from threedgen.datasets.things.attribution import write_attribution
from threedgen.datasets.things.catalogue import ONLY


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--catalogue", type=Path, help="folder of .sh3f files (default: Debian's)")
    parser.add_argument("--only", choices=sorted(ONLY), help="cc0: the library of the public domain alone")
    parser.add_argument("--out", type=Path, default=Path("ATTRIBUTION.md"))
    arguments = parser.parse_args()
    count = write_attribution(arguments.out, arguments.catalogue, arguments.only)
    print(f"{arguments.out}: {count} objects")


if __name__ == "__main__":
    main()
