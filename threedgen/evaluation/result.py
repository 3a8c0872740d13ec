"""The result of an evaluation and its files: eval.json (everything), views.csv (a row for each view), table.md."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from threedgen.core.atomic import replacing
from threedgen.core.random import generator
from threedgen.export.report import write_report
from threedgen.jobs.scores.motion import MOVING_SCORES
from threedgen.metrics.consistency import Consistency

METRICS = ("psnr", "ssim", "lpips")
# The order of columns, by their first words.
_ORDER = ("", "PSNR", "SSIM", "LPIPS", "FID", "KID", "consistency", *MOVING_SCORES, "s")
# The path of a run may hold bytes that are no UTF-8.
_TEXT: Any = {"encoding": "utf-8", "errors": "backslashreplace"}
_RESAMPLES, _TAIL = 1000, 0.025  # of the bootstrap: 95 of 100 resamples lie inside the interval

OnProgress = Callable[[int, int], None]
"""Called with how much is done, and the total."""


def silent(done: int, total: int) -> None:
    """An OnProgress that shows nothing."""


class ViewScore(NamedTuple):
    """One picture against its true one. view: its number or file name. lpips: None if it was not measured."""

    object: str
    view: str
    psnr: float
    ssim: float
    lpips: float | None


class Motion(NamedTuple):
    """Measures of motion. scores: of `moving_scores`. features, weights: label and fingerprint of the network that
    identity was measured with."""

    scores: Mapping[str, float]
    features: str
    weights: str


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    name: of what was evaluated. views: the scores of each picture. features, weights: label and fingerprint of
    the feature network. lpips: the network of LPIPS, or None. fid, kid: None if no pictures were compared.
    kid_deviation: over subsets. consistency: means over objects. motion: of an asset that moves. seconds: of
    the model, for one object. warnings: what a reader has to know. about: what was evaluated and how (target,
    truth, protocol). report: the scores that the run itself reported.
    """

    name: str
    views: Sequence[ViewScore] = ()
    features: str | None = None
    weights: str | None = None
    lpips: str | None = None
    fid: float | None = None
    kid: float | None = None
    kid_deviation: float | None = None
    consistency: Consistency | None = None
    motion: Motion | None = None
    seconds: float | None = None
    warnings: Sequence[str] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def objects(self) -> tuple[str, ...]:
        """The names of the objects, in the order of the evaluation."""
        return tuple(dict.fromkeys(view.object for view in self.views))

    def mean(self, metric: str) -> float | None:
        """Mean over objects of the means over their views of "psnr", "ssim" or "lpips"; None if not measured."""
        means = self._means(metric)
        return sum(means) / len(means) if means else None

    def interval(self, metric: str) -> tuple[float, float] | None:
        """95 % bootstrap interval of `mean`; None with fewer than two objects.

        Objects are resampled, because the views of one object are not independent.
        """
        means = self._means(metric)
        if len(means) < 2:
            return None
        rng = generator(0, f"bootstrap/{metric}", 0)
        draws = torch.randint(len(means), (_RESAMPLES, len(means)), generator=rng)
        resampled = torch.tensor(means, dtype=torch.float64)[draws].mean(dim=1)
        low, high = resampled.quantile(torch.tensor([_TAIL, 1.0 - _TAIL], dtype=torch.float64)).tolist()
        return low, high

    def row(self) -> dict[str, str]:
        """Its row of a table: column -> text, "-" if there is no number."""
        kid = None if self.kid is None else 1e3 * self.kid
        cells = {
            "": self.name,
            "PSNR dB": _shown(self.mean("psnr"), 2),
            "SSIM": _shown(self.mean("ssim"), 3),
        }
        if self.lpips is not None:
            cells[f"LPIPS ({self.lpips})"] = _shown(self.mean("lpips"), 3)
        if self.features is not None:
            cells[f"FID ({self.features})"] = _shown(self.fid, 3)
            cells[f"KID ({self.features}) x 1000"] = _shown(kid, 2)
        seen = self.consistency
        cells["consistency dB (share)"] = "-" if seen is None else f"{seen.psnr:.2f} ({seen.share:.0%})"
        if self.motion is not None:
            network = {"identity": f"identity ({self.motion.features})"}
            cells |= {network.get(name, name): _shown(v, 3) for name, v in self.motion.scores.items()}
        if self.seconds is not None:
            cells["s an object"] = _shown(self.seconds, 2)
        return cells

    def document(self) -> dict[str, Any]:
        """The content of eval.json."""
        scores: dict[str, Any] = {metric: self.mean(metric) for metric in METRICS}
        scores |= {"fid": self.fid, "kid": self.kid, "kid_deviation": self.kid_deviation}
        seen = self.consistency
        if seen is not None:
            scores["consistency"] = {"psnr": seen.psnr, "error": seen.error, "share": seen.share}
        intervals = {metric: self.interval(metric) for metric in METRICS}
        networks = {"features": self.features, "features_weights": self.weights, "lpips": self.lpips}
        if self.motion is not None:
            scores |= self.motion.scores
            networks |= {"identity": self.motion.features, "identity_weights": self.motion.weights}
        return {
            "name": self.name,
            **self.about,
            "objects": len(self.objects),
            "views": len(self.views),
            "scores": {metric: value for metric, value in scores.items() if value is not None},
            "interval_95": {metric: value for metric, value in intervals.items() if value is not None},
            "networks": networks,
            "seconds_an_object": self.seconds,
            "report": dict(self.report),
            "warnings": list(self.warnings),
        }

    def write(self, folder: str | Path) -> None:
        """Writes eval.json, views.csv and table.md, each as a whole or not at all. Raises UserError."""
        folder = Path(folder)
        with replacing(folder / "views.csv") as path, path.open("w", newline="", **_TEXT) as stream:
            writer = csv.writer(stream)
            writer.writerow(ViewScore._fields)
            writer.writerows(self.views)
        with replacing(folder / "table.md") as path:
            path.write_text(table([self]) + "\n", **_TEXT)
        write_report(folder / "eval.json", self.document())

    def _means(self, metric: str) -> list[float]:
        values: dict[str, list[float]] = {}
        for view in self.views:
            value = getattr(view, metric)
            if value is not None:
                values.setdefault(view.object, []).append(value)
        return [sum(of_one) / len(of_one) for of_one in values.values()]


def table(evaluations: Iterable[Evaluation]) -> str:
    """One Markdown table with a row for each evaluation, and their warnings below it.

    A column names its network, so values of different networks are in different columns.
    """
    evaluations = list(evaluations)
    rows = [evaluation.row() for evaluation in evaluations]
    columns = sorted(dict.fromkeys(name for row in rows for name in row), key=_rank)
    cells = [columns, *([row.get(name, "-") for name in columns] for row in rows)]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in cells]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for evaluation in evaluations:
        prefix = f"{evaluation.name}: " if len(evaluations) > 1 else ""
        lines += (
            ["", *(f"- {prefix}{warning}" for warning in evaluation.warnings)] if evaluation.warnings else []
        )
    return "\n".join(lines)


def _rank(column: str) -> int:
    """The position of a column, which its first word, the measure, decides."""
    return _ORDER.index(column.partition(" ")[0])


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
