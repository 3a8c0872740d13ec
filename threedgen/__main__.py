"""`python -m threedgen` is the `threedgen` command."""

import sys

from threedgen.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
