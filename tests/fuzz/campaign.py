"""Many tries of one kind of input, and the table of what they came to."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import torch

from fuzz.inputs import INPUTS
from fuzz.kinds import KINDS
from fuzz.sandbox import GOOD, HOME, OUT, TEMPORARY, VERDICTS, Outcome, attempt, rehearse


@dataclass(frozen=True)
class Finding:
    """A try that ended badly. seed: what `replay` takes. deed: what was done to the inputs."""

    kind: str
    seed: int
    deed: str
    outcome: Outcome

    def __str__(self) -> str:
        return f"{self.kind} {self.seed}: {self.outcome.verdict}: {self.outcome.about} [{self.deed}]"


@dataclass
class Tally:
    """What the tries of one kind came to. seconds: of all of them."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0


class Campaign:
    """Tries of one kind. The good inputs are made once, in a folder that goes away.

    keep: a folder for the inputs of tries that end badly; None: they are not kept.
    """

    def __init__(self, kind: str, keep: Path | None = None) -> None:
        """Raises AssertionError if the inputs are refused before anything is done to them."""
        torch.set_num_threads(1)
        self.kind, self._keep = kind, keep
        self._home = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self._good = self._home / INPUTS
        for folder in (INPUTS, Path(HOME), Path(TEMPORARY)):
            (self._home / folder).mkdir()
        rehearse(partial(KINDS[kind].make, INPUTS), self._home)
        rehearse(KINDS[kind].use, self._home)

    def __enter__(self) -> Campaign:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._home, ignore_errors=True)

    def replay(self, seed: int) -> Finding:
        """The try with this seed, good or bad."""
        return Finding(self.kind, seed, *self._try(seed))

    def run(self, seed: int, tries: int | None = None, seconds: float = float("inf")) -> Tally:
        """So many tries with the seeds from `seed` on, or as many as fit into a time."""
        tally, begun = Tally(), time.perf_counter()
        while (tries is None or tally.counts.total() < tries) and time.perf_counter() - begun < seconds:
            found = self.replay(seed + tally.counts.total())
            tally.counts[found.outcome.verdict] += 1
            if found.outcome.verdict not in GOOD:
                tally.findings.append(found)
        tally.seconds = time.perf_counter() - begun
        return tally

    def _try(self, seed: int) -> tuple[str, Outcome]:
        place = self._home / "try"
        shutil.copytree(self._good, place / INPUTS)
        try:
            deed = KINDS[self.kind].damage(Random(seed), place / INPUTS)
            outcome = attempt(KINDS[self.kind].use, place)
            if self._keep is not None and outcome.verdict not in GOOD:
                self._store(place, f"{self.kind.replace(' ', '-')}-{seed}", deed, outcome)
            return deed, outcome
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _store(self, place: Path, name: str, deed: str, outcome: Outcome) -> None:
        assert self._keep is not None
        kept = self._keep / name
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(place, kept, symlinks=True, ignore=shutil.ignore_patterns(OUT))
        (kept / "about.txt").write_text(f"{deed}\n{outcome.verdict}: {outcome.about}\n")


def tally_of(kind: str, seed: int, tries: int) -> Tally:
    """The tries of one kind with the seeds from `seed` on."""
    with Campaign(kind) as campaign:
        return campaign.run(seed, tries)


def table(tallies: dict[str, Tally]) -> str:
    """A line for each kind."""
    lines = [
        f"{'kind':18}{'tries':>7}" + "".join(f"{verdict:>14}" for verdict in VERDICTS) + f"{'ms a try':>10}"
    ]
    for kind, tally in tallies.items():
        tries = tally.counts.total()
        counts = "".join(f"{tally.counts[verdict]:>14}" for verdict in VERDICTS)
        lines.append(f"{kind:18}{tries:>7}{counts}{1000.0 * tally.seconds / max(1, tries):>10.0f}")
    return "\n".join(lines)
