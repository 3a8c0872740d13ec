"""`python -m threedgen` is the `threedgen` command."""

import sys

from threedgen.cli import main

if __name__ == "__main__":
    sys.exit(main())
