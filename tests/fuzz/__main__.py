"""`python -m fuzz`: tries with new seeds for some minutes, a table of them, and the inputs that failed.

OMP_NUM_THREADS=1 must be set before it starts, so that its libraries have one thread when it forks.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from fuzz.kinds import KINDS
from fuzz.sandbox import GOOD


def main() -> int:
    """Returns 1 if a try ended badly."""
    from fuzz.campaign import Campaign, Tally, table

    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="time for all kinds together; default: 1")
    parser.add_argument("--seed", type=int, help="of the first try; default: new ones")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="default: all")
    parser.add_argument("--replay", type=int, metavar="SEED", help="repeat this one try of one kind")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="folder for inputs that failed")
    arguments = parser.parse_args()
    seed = time.time_ns() % 10**9 * 10**6 if arguments.seed is None else arguments.seed
    print(f"seed {seed}")
    tallies: dict[str, Tally] = {}
    for kind in arguments.kinds:
        with Campaign(kind, arguments.keep) as campaign:
            if arguments.replay is not None:
                print(campaign.replay(arguments.replay))
                continue
            tallies[kind] = campaign.run(seed, seconds=60.0 * arguments.minutes / len(arguments.kinds))
        for finding in tallies[kind].findings:
            print(finding)
    print(table(tallies))
    return int(any(set(tally.counts) - set(GOOD) for tally in tallies.values()))


if __name__ == "__main__":
    raise SystemExit(main())
